//! Pipes for splice(2), which moves bytes from one socket to another without copying them into this process.
//!
//! Few are made, once: each takes two descriptors, and a user's pipes together may hold 64 MiB, beyond which new ones are a few
//! KiB in size (pipe(7), pipe-user-pages-soft).

use std::io;

use tokio::net::TcpStream;

/// A pipe that is lent until it is dropped.
pub(crate) struct Pipe(imp::Pipe);

impl Pipe {
    /// A pipe, if one is free and of use.
    pub(crate) fn take() -> Option<Pipe> {
        imp::take().map(Pipe)
    }

    /// How many bytes are in it.
    pub(crate) fn held(&self) -> usize {
        imp::held(&self.0)
    }

    /// Fills an empty pipe with what there is to read; 0 at the end.
    pub(crate) fn fill(&mut self, from: &TcpStream) -> io::Result<usize> {
        imp::fill(&mut self.0, from)
    }

    /// Writes what is in it, as far as the socket takes it.
    pub(crate) fn drain(&mut self, to: &TcpStream) -> io::Result<usize> {
        imp::drain(&mut self.0, to)
    }
}

cfg_if::cfg_if! {
    if #[cfg(target_os = "linux")] {
        use linux as imp;
    } else {
        use nothing as imp;
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::os::fd::OwnedFd;
    use std::sync::{Mutex, PoisonError};

    use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
    use tokio::io::Interest;
    use tokio::net::TcpStream;

    /// How many a process makes.
    const MOST: usize = 16;
    const WANTED_BYTES: usize = 1024 * 1024;
    /// Smaller ones move less at once than a copy.
    const LEAST_BYTES: usize = 256 * 1024;

    struct Pool {
        free: Vec<(OwnedFd, OwnedFd)>,
        may_make: usize,
    }

    static POOL: Mutex<Pool> = Mutex::new(Pool {
        free: Vec::new(),
        may_make: MOST,
    });

    pub(super) struct Pipe {
        /// Empty only while it is dropped.
        ends: Option<(OwnedFd, OwnedFd)>,
        held: usize,
    }

    pub(super) fn take() -> Option<Pipe> {
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = match pool.free.pop() {
            Some(ends) => ends,
            None if pool.may_make == 0 => return None,
            None => match make() {
                Ok(ends) => {
                    pool.may_make -= 1;
                    ends
                }
                Err(error) => {
                    tracing::debug!(%error, "no pipe of use: bytes are copied");
                    pool.may_make = 0;
                    return None;
                }
            },
        };
        Some(Pipe {
            ends: Some(ends),
            held: 0,
        })
    }

    fn make() -> io::Result<(OwnedFd, OwnedFd)> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        if fcntl_setpipe_size(&write, WANTED_BYTES)? < LEAST_BYTES {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        Ok((read, write))
    }

    pub(super) fn held(pipe: &Pipe) -> usize {
        pipe.held
    }

    pub(super) fn fill(pipe: &mut Pipe, from: &TcpStream) -> io::Result<usize> {
        let Some((_, write)) = &pipe.ends else {
            return Ok(0);
        };
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let n = from.try_io(Interest::READABLE, || {
            Ok(rustix::io::retry_on_intr(|| {
                splice(from, None, write, None, WANTED_BYTES, flags)
            })?)
        })?;
        pipe.held += n;
        Ok(n)
    }

    pub(super) fn drain(pipe: &mut Pipe, to: &TcpStream) -> io::Result<usize> {
        let Some((read, _)) = &pipe.ends else { return Ok(0) };
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let held = pipe.held;
        let n = to.try_io(Interest::WRITABLE, || {
            Ok(rustix::io::retry_on_intr(|| {
                splice(read, None, to, None, held, flags)
            })?)
        })?;
        pipe.held -= n;
        Ok(n)
    }

    impl Drop for Pipe {
        fn drop(&mut self) {
            let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
            match self.ends.take() {
                Some(ends) if self.held == 0 => pool.free.push(ends),
                // With bytes of a connection that has ended in it, it is of no use to another.
                _ => pool.may_make += 1,
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod nothing {
    use std::convert::Infallible;
    use std::io;

    use tokio::net::TcpStream;

    pub(super) type Pipe = Infallible;

    pub(super) fn take() -> Option<Pipe> {
        None
    }

    pub(super) fn held(pipe: &Pipe) -> usize {
        match *pipe {}
    }

    pub(super) fn fill(pipe: &mut Pipe, _: &TcpStream) -> io::Result<usize> {
        match *pipe {}
    }

    pub(super) fn drain(pipe: &mut Pipe, _: &TcpStream) -> io::Result<usize> {
        match *pipe {}
    }
}
