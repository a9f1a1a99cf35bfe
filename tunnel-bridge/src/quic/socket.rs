//! The UDP sockets under QUIC.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

/// What is asked for as the buffers of a socket. The system gives what it allows (socket(7): `rmem_max`, `wmem_max`): with
/// less, packets of a burst are lost, and sent again.
const BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// A socket at this address.
pub(super) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    for resized in [
        socket.set_recv_buffer_size(BUFFER_BYTES),
        socket.set_send_buffer_size(BUFFER_BYTES),
    ] {
        if let Err(error) = resized {
            tracing::debug!(%error, "the buffers of a UDP socket stay as they are");
        }
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}
