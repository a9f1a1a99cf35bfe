//! Whether anybody still listens where a link's packets go. A process that was killed says nothing, but its system does, to a
//! socket that is connected (udp(7)): QUIC's own is not, as one that moves cannot be.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::native::unspecified;

/// How long an answer may take.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// No packet of QUIC, since its fixed bit is not set: whoever listens drops it (RFC 9000 §17.2).
const NOTHING: [u8; 1] = [0];

/// Whether the system at `peer` says that nobody listens there. That it says nothing means nothing.
pub(super) async fn is_nobody_there(peer: SocketAddr) -> bool {
    match timeout(ANSWER_TIME, knock(peer)).await {
        // On Windows it is a reset.
        Ok(Err(error)) => matches!(
            error.kind(),
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset
        ),
        Ok(Ok(())) | Err(_) => false,
    }
}

async fn knock(peer: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind(unspecified(peer)).await?;
    socket.connect(peer).await?;
    socket.send(&NOTHING).await?;
    socket.recv(&mut [0; 1]).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_was_closed_is_told_from_one_that_is_silent() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        assert!(!is_nobody_there(address).await);
        drop(socket);
        assert!(is_nobody_there(address).await);
    }
}
