//! Waiting for a socket, or for somebody who wants no more of it.

use std::io::{self, Read as _, Write as _};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::Woken;

/// Where interruptions arrive.
#[derive(Debug)]
pub(super) struct Bell {
    heard: UnixStream,
    rope: Interrupter,
}

/// Rings the bell.
#[derive(Debug, Clone)]
pub(crate) struct Interrupter(Arc<UnixStream>);

impl Interrupter {
    pub(crate) fn interrupt(&self) {
        // A bell that is full has been rung, and one that is gone is waited for by nobody.
        drop((&*self.0).write(&[1]));
    }
}

impl Bell {
    pub(super) fn new() -> io::Result<Self> {
        let (heard, rope) = UnixStream::pair()?;
        heard.set_nonblocking(true)?;
        rope.set_nonblocking(true)?;
        Ok(Self {
            heard,
            rope: Interrupter(Arc::new(rope)),
        })
    }

    pub(super) fn interrupter(&self) -> Interrupter {
        self.rope.clone()
    }

    /// Waits until `socket` has something to read.
    pub(super) fn wait(&mut self, socket: BorrowedFd<'_>, until: Option<Instant>) -> io::Result<Woken> {
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            // What a clock cannot hold is as good as for ever.
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            let mut fds = [
                PollFd::from_borrowed_fd(socket, PollFlags::IN),
                PollFd::new(&self.heard, PollFlags::IN),
            ];
            match poll(&mut fds, left.as_ref()) {
                Ok(0) => return Ok(Woken::TimedOut),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let [socket, bell] = fds;
            if !bell.revents().is_empty() {
                let mut rung = [0; 64];
                while matches!(self.heard.read(&mut rung), Ok(count) if count > 0) {}
                return Ok(Woken::Interrupted);
            }
            if !socket.revents().is_empty() {
                return Ok(Woken::Heard);
            }
        }
    }
}
