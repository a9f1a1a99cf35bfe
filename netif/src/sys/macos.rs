//! A routing socket, route(4): every process may listen.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Instant;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, FdFlags, fcntl_setfd, read};
use rustix::net::{AddressFamily, SocketType, socket};

use super::route_message::handle_messages;
use super::unix::{Bell, Interrupter};
use super::{Woken, failed};
use crate::Error;
use crate::watch::Change;

/// A message has at most a few hundred bytes.
const READ_BYTES: usize = 8 * 1024;

/// Reads before the clock is looked at again.
const AT_ONCE: usize = 64;

/// sys/socket.h
const AF_ROUTE: u16 = 17;

/// A routing socket.
#[derive(Debug)]
pub(crate) struct Source {
    socket: OwnedFd,
    bell: Bell,
    buffer: Vec<u8>,
    loopback: Option<u16>,
}

impl Source {
    pub(crate) fn open() -> Result<Self, Error> {
        let open = || {
            // The protocol is the family of addresses whose news come: 0, all of them.
            let socket = socket(AddressFamily::from_raw(AF_ROUTE), SocketType::RAW, None)?;
            fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
            fcntl_setfl(&socket, fcntl_getfl(&socket)? | OFlags::NONBLOCK)?;
            Ok((socket, Bell::new()?))
        };
        let (socket, bell) = open().map_err(failed("listen to the system's news of the network (route)"))?;
        let loopback = nix::net::if_::if_nametoindex("lo0").ok();
        Ok(Self {
            socket,
            bell,
            buffer: vec![0; READ_BYTES],
            loopback: loopback.and_then(|index| u16::try_from(index).ok()),
        })
    }

    pub(crate) fn interrupter(&self) -> Interrupter {
        self.bell.interrupter()
    }

    /// Waits for news, and adds what they mean to `change`.
    pub(crate) fn wait(&mut self, until: Option<Instant>, change: &mut Change) -> Result<Woken, Error> {
        let woken = self.bell.wait(self.socket.as_fd(), until);
        let woken = woken.map_err(failed("wait for the system's news of the network"))?;
        if woken == Woken::Heard {
            self.read(change)
                .map_err(failed("read the system's news of the network"))?;
        }
        Ok(woken)
    }

    fn read(&mut self, change: &mut Change) -> io::Result<()> {
        for _ in 0..AT_ONCE {
            match read(&self.socket, &mut *self.buffer) {
                Ok(length) => {
                    let messages = self.buffer.get(..length).unwrap_or_default();
                    handle_messages(messages, self.loopback, change);
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                // The queue had no room.
                Err(Errno::NOBUFS) => change.missed = true,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
