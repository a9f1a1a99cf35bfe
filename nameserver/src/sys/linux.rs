//! recvmmsg(2) and sendmmsg(2): what came while the last batch was answered is the next one, so that the system calls per query
//! become fewer the more there is to do.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, Shutdown, SockaddrStorage, recvmmsg,
    sendmmsg, sendmsg, setsockopt, shutdown, sockopt,
};

use super::{MAX_QUERY_LEN, Peer};

/// More than that are seldom there at once, and each takes a page.
const BATCH: usize = 64;

pub(crate) struct Datagrams {
    inputs: Vec<Vec<u8>>,
    replies: Vec<Vec<u8>>,
    peers: Vec<Peer>,
    addresses: Vec<Option<SockaddrStorage>>,
    received: MultiHeaders<SockaddrStorage>,
    sent: MultiHeaders<SockaddrStorage>,
}

impl Datagrams {
    pub(crate) fn new(socket: &UdpSocket) -> io::Result<Self> {
        let local = socket.local_addr()?;
        // A reply must leave with the address that the query came to, which a socket on 0.0.0.0 does not know by itself.
        let any = local.ip().is_unspecified();
        if any && local.is_ipv4() {
            setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?;
        } else if any {
            setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        }
        let space = || any.then(|| cmsg_space!(libc::in6_pktinfo));
        Ok(Self {
            inputs: vec![vec![0; MAX_QUERY_LEN]; BATCH],
            replies: vec![Vec::new(); BATCH],
            peers: Vec::with_capacity(BATCH),
            addresses: Vec::with_capacity(BATCH),
            received: MultiHeaders::preallocate(BATCH, space()),
            sent: MultiHeaders::preallocate(BATCH, None),
        })
    }

    /// Waits for a datagram, takes all that are there, and answers those where `answer` says so.
    pub(crate) fn turn(
        &mut self,
        socket: &UdpSocket,
        mut answer: impl FnMut(&[u8], Peer, &mut Vec<u8>) -> bool,
    ) -> io::Result<()> {
        self.peers.clear();
        self.addresses.clear();
        let mut slices: Vec<_> = self
            .inputs
            .iter_mut()
            .map(|input| [IoSliceMut::new(input)])
            .collect();
        let received = recvmmsg(
            socket.as_raw_fd(),
            &mut self.received,
            slices.iter_mut(),
            MsgFlags::MSG_WAITFORONE,
            None,
        )?;
        for datagram in received {
            let Some(address) = datagram.address.as_ref().and_then(to_std) else {
                continue;
            };
            // Only a socket on every address has asked for it.
            let local = datagram
                .cmsgs()
                .ok()
                .and_then(|mut messages| messages.find_map(|message| local_of(&message)));
            let peer = Peer { address, local };
            let packet = datagram.iovs().next().unwrap_or_default();
            if let Some(reply) = self.replies.get_mut(self.peers.len())
                && answer(packet, peer, reply)
            {
                self.peers.push(peer);
                self.addresses.push(datagram.address);
            }
        }
        self.send_all(socket);
        Ok(())
    }

    fn send_all(&mut self, socket: &UdpSocket) {
        if self.peers.iter().any(|peer| peer.local.is_some()) {
            for (peer, reply) in self.peers.iter().zip(&self.replies) {
                send(socket, reply, *peer);
            }
            return;
        }
        let mut done = 0;
        while done < self.peers.len() {
            let replies = self.replies.iter().take(self.peers.len()).skip(done);
            let slices: Vec<_> = replies.map(|reply| [IoSlice::new(reply)]).collect();
            let addresses = self.addresses.get(done..).unwrap_or_default();
            let sent = sendmmsg(
                socket.as_raw_fd(),
                &mut self.sent,
                &slices,
                addresses,
                [],
                MsgFlags::empty(),
            );
            match sent {
                Ok(sent) => done += sent.count().max(1),
                Err(Errno::EINTR) => {}
                Err(error) => {
                    // That of the first one; a reply that cannot be sent is as one that is lost.
                    tracing::debug!(%error, "reply not sent");
                    done += 1;
                }
            }
        }
    }
}

fn to_std(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::V4((*v4).into()));
    }
    address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into()))
}

fn local_of(message: &ControlMessageOwned) -> Option<IpAddr> {
    match message {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            Some(IpAddr::V4(u32::from_be(info.ipi_addr.s_addr).into()))
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(IpAddr::V6(info.ipi6_addr.s6_addr.into())),
        _ => None,
    }
}

/// Sends a reply from the address that the query came to; one that cannot be sent is as one that is lost.
pub(crate) fn send(socket: &UdpSocket, reply: &[u8], peer: Peer) {
    let slices = [IoSlice::new(reply)];
    let fd = socket.as_raw_fd();
    let to = SockaddrStorage::from(peer.address);
    let flags = MsgFlags::MSG_DONTWAIT;
    let sent = match peer.local {
        None => sendmsg(fd, &slices, &[], flags, Some(&to)),
        Some(IpAddr::V4(local)) => {
            let source = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr {
                    s_addr: u32::from(local).to_be(),
                },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            sendmsg(
                fd,
                &slices,
                &[ControlMessage::Ipv4PacketInfo(&source)],
                flags,
                Some(&to),
            )
        }
        Some(IpAddr::V6(local)) => {
            let source = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr {
                    s6_addr: local.octets(),
                },
                ipi6_ifindex: 0,
            };
            sendmsg(
                fd,
                &slices,
                &[ControlMessage::Ipv6PacketInfo(&source)],
                flags,
                Some(&to),
            )
        }
    };
    if let Err(error) = sent {
        tracing::debug!(%error, "reply not sent");
    }
}

/// Lets whoever waits for a datagram go on: a receive on a socket that is shut down returns, although a socket without a peer answers
/// ENOTCONN.
pub(crate) fn wake(socket: &UdpSocket) {
    if let Err(error) = shutdown(socket.as_raw_fd(), Shutdown::Both) {
        tracing::trace!(%error, "shut down");
    }
}
