//! Datagrams: threads that wait in the system call itself, and answer in batches.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::relay::{Client, Relay};
use super::{ServerError, Shared};
use crate::answer::Verdict;
use crate::sys::{self, Datagrams, Peer};
use crate::wire::Transport;

/// The sockets of all addresses: UDP and TCP on the same port.
pub(super) struct Sockets {
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) udp: Vec<Arc<UdpSocket>>,
    pub(super) tcp: Vec<TcpListener>,
}

impl Sockets {
    pub(super) fn bind(addresses: &[SocketAddr]) -> Result<Self, ServerError> {
        let mut sockets = Self {
            addresses: Vec::new(),
            udp: Vec::new(),
            tcp: Vec::new(),
        };
        for &address in addresses {
            let (udp, tcp) = bind_both(address).map_err(|source| ServerError::Bind { address, source })?;
            sockets.addresses.push(udp.local_addr()?);
            sockets.udp.push(Arc::new(udp));
            sockets.tcp.push(tcp);
        }
        Ok(sockets)
    }
}

/// Where the system chooses the port, TCP's may be taken: another one is chosen then.
const PORT_CHOICES: usize = 16;

fn bind_both(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut choices = 0;
    loop {
        let udp = bind(address, Type::DGRAM, Protocol::UDP)?;
        // A burst of queries waits here while a batch is answered; the system grants what it allows.
        udp.set_recv_buffer_size(RECEIVE_BUFFER)?;
        // Threads look whether to stop when nothing comes.
        udp.set_read_timeout(Some(LOOK_UP))?;
        let udp = UdpSocket::from(udp);
        let tcp = bind(udp.local_addr()?, Type::STREAM, Protocol::TCP).and_then(|tcp| {
            tcp.listen(128)?;
            tcp.set_nonblocking(true)?;
            Ok(TcpListener::from(tcp))
        });
        choices += 1;
        match tcp {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(_) if address.port() == 0 && choices < PORT_CHOICES => {}
            Err(error) => return Err(error),
        }
    }
}

fn bind(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if kind == Type::STREAM && sys::REUSE_ADDRESS {
        socket.set_reuse_address(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

const RECEIVE_BUFFER: usize = 4 << 20;
const LOOK_UP: Duration = Duration::from_secs(1);

/// One thread's part.
pub(super) struct Worker {
    pub(super) socket: Arc<UdpSocket>,
    pub(super) shared: Arc<Shared>,
    /// Which of the counters are its own.
    pub(super) counters: usize,
    pub(super) relay: Option<Relay>,
}

impl Worker {
    pub(super) fn run(self) {
        let mut datagrams = match Datagrams::new(&self.socket) {
            Ok(datagrams) => datagrams,
            Err(error) => {
                tracing::error!(%error, "cannot read datagrams");
                return;
            }
        };
        while !self.shared.stopping.load(Relaxed) {
            let turn = datagrams.turn(&self.socket, |packet, peer, reply| {
                self.answer(packet, peer, reply)
            });
            if let Err(error) = turn
                && !is_passing(&error)
            {
                tracing::error!(%error, "cannot read datagrams");
                return;
            }
        }
    }

    /// Whether there is a reply at once.
    fn answer(&self, packet: &[u8], peer: Peer, reply: &mut Vec<u8>) -> bool {
        let Some(counters) = self.shared.counters.get(self.counters) else {
            return false;
        };
        if !self.shared.admits(peer.address) {
            counters.count_limited();
            return false;
        }
        let verdict = self.shared.responder.respond(packet, Transport::Udp, reply);
        counters.count(verdict);
        if verdict == Verdict::Forward
            && let Some(relay) = &self.relay
        {
            let socket = Arc::clone(&self.socket);
            relay.forward(Client::Datagram { socket, peer }, packet, Transport::Udp);
        }
        matches!(verdict, Verdict::Reply(_))
    }
}

/// Time-outs, signals, and what ICMP says about a reply that was sent earlier.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock
            | io::ErrorKind::TimedOut
            | io::ErrorKind::Interrupted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
    )
}
