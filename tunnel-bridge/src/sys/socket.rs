//! Socket options. Without an option that the system lacks or refuses, a connection is slower or a dead peer is noticed
//! later; it is logged, and the connection goes on.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Unsent bytes that the kernel may hold for a connection (tcp(7), TCP_NOTSENT_LOWAT). For a link the rest waits in our
/// scheduler, where small requests overtake bulk. For a program that does not read, the kernel would otherwise take some
/// megabytes, and enough such programs use up what it has for all connections of the machine (tcp_mem).
#[cfg(target_os = "linux")]
const UNSENT_BYTES: u32 = 128 * 1024;

/// Whether a read that fills less than the buffer it was given has taken all there was, so that the next one can wait for the
/// system's word. It is so where the system tells of each arrival (epoll(7), "Edge-triggered", and kqueue(2)); elsewhere it tells
/// of the next one only after a read that found nothing.
pub(crate) const SHORT_READ_DRAINS: bool = cfg!(unix);

/// How long sent bytes may stay unacknowledged (tcp(7), TCP_USER_TIMEOUT).
#[cfg(target_os = "linux")]
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// The socket under a link: small writes at once, death noticed, short queue in the kernel.
pub(crate) fn prepare_link(stream: &TcpStream) {
    prepare_local(stream);
    notice_death(stream);
}

/// A socket to the target at `address`: small writes at once, death noticed. Of a peer on this machine the kernel itself
/// closes or resets what is open, however its program ends.
pub(crate) fn prepare_target(stream: &TcpStream, address: SocketAddr) {
    prepare_local(stream);
    if !address.ip().to_canonical().is_loopback() {
        notice_death(stream);
    }
}

/// A peer that was silent for 30 s is asked whether it lives, and one that acknowledges nothing for about as long is gone.
fn notice_death(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(10));
    // On Linux TCP_USER_TIMEOUT says in its place when probes have failed (tcp(7)).
    #[cfg(target_os = "macos")]
    let keepalive = keepalive.with_retries(3);
    log("keepalive", socket.set_tcp_keepalive(&keepalive));
    #[cfg(target_os = "linux")]
    log(
        "TCP_USER_TIMEOUT",
        socket.set_tcp_user_timeout(Some(USER_TIMEOUT)),
    );
}

/// A socket that a local program opened: small writes at once. Without it a request of more than one segment waits
/// for the other side's delayed acknowledgement (RFC 9293 §3.7.4), some 40 ms each way. And little is queued in the kernel.
pub(crate) fn prepare_local(stream: &TcpStream) {
    log("TCP_NODELAY", stream.set_nodelay(true));
    #[cfg(target_os = "linux")]
    log(
        "TCP_NOTSENT_LOWAT",
        SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_BYTES),
    );
}

/// A socket that listens for local programs. On Linux what is accepted has these options from it, as it has the rest of its
/// state; elsewhere [`prepare_accepted`] sets them.
pub(crate) fn prepare_listener(listener: &tokio::net::TcpListener) {
    #[cfg(target_os = "linux")]
    {
        let socket = SockRef::from(listener);
        log("TCP_NODELAY", socket.set_tcp_nodelay(true));
        log("TCP_NOTSENT_LOWAT", socket.set_tcp_notsent_lowat(UNSENT_BYTES));
    }
    #[cfg(not(target_os = "linux"))]
    let _unset = listener;
}

/// A connection that a [prepared](prepare_listener) listener has accepted.
pub(crate) fn prepare_accepted(stream: &TcpStream) {
    if cfg!(not(target_os = "linux")) {
        prepare_local(stream);
    }
}

/// What a UDP socket may have waiting: bursts come faster than any task reads them. Systems grant less than is asked for.
const DATAGRAM_BUFFER: usize = 1024 * 1024;

/// A UDP socket that many sources send to.
pub(crate) fn prepare_datagrams(socket: &std::net::UdpSocket) {
    let socket = SockRef::from(socket);
    log("SO_RCVBUF", socket.set_recv_buffer_size(DATAGRAM_BUFFER));
    log("SO_SNDBUF", socket.set_send_buffer_size(DATAGRAM_BUFFER));
}

/// Makes closing the socket send RST in place of FIN (socket(7), SO_LINGER with zero).
pub(crate) fn reset_on_close(stream: &TcpStream) {
    log(
        "SO_LINGER",
        SockRef::from(stream).set_linger(Some(Duration::ZERO)),
    );
}

/// Lets a listener bind its port again while connections of a former listener are in TIME_WAIT. On Windows that is the
/// default, and `SO_REUSEADDR` would let other programs take the port over.
pub(crate) fn allow_restart(socket: &socket2::Socket) -> io::Result<()> {
    if cfg!(unix) {
        socket.set_reuse_address(true)
    } else {
        Ok(())
    }
}

/// Whether an accept failed because this process (EMFILE) or the system (ENFILE) has no descriptor left (accept(2)). The
/// numbers are the same on all Unix systems; Windows has its own for the first and no second.
pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const WSAEMFILE: i32 = 10024;
    match error.raw_os_error() {
        Some(number) if cfg!(windows) => number == WSAEMFILE,
        Some(number) => matches!(number, ENFILE | EMFILE),
        None => false,
    }
}

fn log(option: &'static str, result: io::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(option, %error, "socket option refused");
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_accepted_has_the_options_of_its_listener() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        prepare_listener(&listener);
        let connecting = TcpStream::connect(listener.local_addr().unwrap());
        let (_program, accepted) = tokio::join!(connecting, listener.accept());
        let (stream, _) = accepted.unwrap();
        prepare_accepted(&stream);
        assert!(stream.nodelay().unwrap());
        assert_eq!(SockRef::from(&stream).tcp_notsent_lowat().unwrap(), UNSENT_BYTES);
    }
}
