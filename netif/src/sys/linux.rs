//! rtnetlink(7): the kernel sends each change to whoever joined its group.

mod conversation;
mod machine;
mod news;
mod resolved;
mod sight;
mod sockets;
mod tun;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use netlink_packet_core::NetlinkBuffer;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recvfrom, send, socket_with,
};

use super::unix::{Bell, Interrupter};
use super::{Woken, failed};
use crate::Error;
use crate::watch::Change;
pub(crate) use machine::Machine;
use news::News;
pub(crate) use sockets::listeners;

/// RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR and RTMGRP_IPV6_ROUTE of linux/rtnetlink.h.
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;

/// The kernel's datagrams have at most 32 KiB (NLMSG_GOODSIZE is less); longer ones count as missed.
const DATAGRAM_BYTES: usize = 32 * 1024;

/// Datagrams that are read before the clock is looked at again.
const AT_ONCE: usize = 64;

/// How long the kernel may take to say what there is. Without that, what is repeated counts as news once.
const STOCK_TAKING: Duration = Duration::from_secs(1);

// linux/rtnetlink.h
const RTM_GETLINK: u16 = 18;
const RTM_GETADDR: u16 = 22;

/// A request for everything of a kind: a header (struct nlmsghdr) and the family of addresses, which is any (struct rtgenmsg).
fn dump_request(kind: u16) -> [u8; 20] {
    const NLM_F_REQUEST_DUMP: u16 = 0x1 | 0x300;
    let mut request = [0; 20];
    let mut header = NetlinkBuffer::new(&mut request);
    header.set_length(20);
    header.set_message_type(kind);
    header.set_flags(NLM_F_REQUEST_DUMP);
    request
}

/// A socket that the kernel's news arrive at.
#[derive(Debug)]
pub(crate) struct Source {
    socket: OwnedFd,
    bell: Bell,
    buffer: Vec<u8>,
    news: News,
}

impl Source {
    pub(crate) fn open() -> Result<Self, Error> {
        const WHAT: &str = "listen to the kernel's news of the network (netlink)";
        let open = || {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            // No protocol is NETLINK_ROUTE, which is 0.
            let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
            bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
            Ok((socket, Bell::new()?))
        };
        let (socket, bell) = open().map_err(failed(WHAT))?;
        let mut source = Self {
            socket,
            bell,
            buffer: vec![0; DATAGRAM_BYTES],
            news: News::default(),
        };
        source.take_stock().map_err(failed(WHAT))?;
        Ok(source)
    }

    /// Learns what is there, so that what is told later can be told apart from what is only repeated.
    fn take_stock(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + STOCK_TAKING;
        for kind in [RTM_GETLINK, RTM_GETADDR] {
            send(&self.socket, &dump_request(kind), SendFlags::empty())?;
            loop {
                if self.bell.wait(self.socket.as_fd(), Some(deadline))? != Woken::Heard {
                    return Ok(());
                }
                let length = match recvfrom(&self.socket, &mut *self.buffer, RecvFlags::TRUNC) {
                    Ok((_, length, _)) => length,
                    Err(Errno::AGAIN | Errno::INTR) => continue,
                    // So much happens that not all can be known.
                    Err(Errno::NOBUFS) => return Ok(()),
                    Err(error) => return Err(error.into()),
                };
                let Some(datagram) = self.buffer.get(..length) else {
                    return Ok(());
                };
                self.news.handle_datagram(datagram, &mut Change::default());
                if news::ends_a_dump(datagram) {
                    break;
                }
            }
        }
        self.news.begin();
        Ok(())
    }

    pub(crate) fn interrupter(&self) -> Interrupter {
        self.bell.interrupter()
    }

    /// Waits for news, and adds what they mean to `change`.
    pub(crate) fn wait(&mut self, until: Option<Instant>, change: &mut Change) -> Result<Woken, Error> {
        let woken = self.bell.wait(self.socket.as_fd(), until);
        let woken = woken.map_err(failed("wait for the kernel's news of the network"))?;
        if woken == Woken::Heard {
            self.read(change)
                .map_err(failed("read the kernel's news of the network"))?;
        }
        Ok(woken)
    }

    fn read(&mut self, change: &mut Change) -> io::Result<()> {
        for _ in 0..AT_ONCE {
            match recvfrom(&self.socket, &mut *self.buffer, RecvFlags::TRUNC) {
                Ok((_, length, from)) => {
                    // Other processes may write to this socket as well; the kernel's port is 0.
                    let from = from.map(SocketAddrNetlink::try_from);
                    if !matches!(from, Some(Ok(from)) if from.pid() == 0) {
                        continue;
                    }
                    match self.buffer.get(..length) {
                        Some(datagram) => self.news.handle_datagram(datagram, change),
                        None => self.news.handle_missed(change),
                    }
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                // The queue had no room: some news are lost, and the next ones come again (netlink(7)).
                Err(Errno::NOBUFS) => self.news.handle_missed(change),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
