//! One datagram at a time.

use std::io;
use std::net::UdpSocket;

use super::{MAX_QUERY_LEN, Peer};

pub(crate) struct Datagrams {
    input: Vec<u8>,
    reply: Vec<u8>,
}

impl Datagrams {
    pub(crate) fn new(_socket: &UdpSocket) -> io::Result<Self> {
        Ok(Self {
            input: vec![0; MAX_QUERY_LEN],
            reply: Vec::new(),
        })
    }

    /// Waits for a datagram and answers it where `answer` says so.
    pub(crate) fn turn(
        &mut self,
        socket: &UdpSocket,
        mut answer: impl FnMut(&[u8], Peer, &mut Vec<u8>) -> bool,
    ) -> io::Result<()> {
        let (len, address) = socket.recv_from(&mut self.input)?;
        let peer = Peer { address, local: None };
        if answer(self.input.get(..len).unwrap_or_default(), peer, &mut self.reply) {
            send(socket, &self.reply, peer);
        }
        Ok(())
    }
}

/// Sends a reply; one that cannot be sent is as one that is lost.
pub(crate) fn send(socket: &UdpSocket, reply: &[u8], peer: Peer) {
    if let Err(error) = socket.send_to(reply, peer.address) {
        tracing::debug!(%error, "reply not sent");
    }
}

/// Whoever waits sees a time-out soon.
pub(crate) fn wake(_socket: &UdpSocket) {}
