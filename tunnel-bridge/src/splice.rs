//! Two byte streams joined: what one side says, the other side hears, its ends included.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::{ByteStream, Refusal, buffer, is_link_lost, refusal_of, sys};

/// How many bytes one direction carries before the task gives way to the others on its thread.
const TURN_BYTES: usize = 1024 * 1024;

/// What one vectored write to the local side gathers.
const GATHER_BYTES: usize = 256 * 1024;
const GATHER_CHUNKS: usize = 16;

/// A side of a [`splice`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The TCP connection.
    Local,
    /// The byte stream.
    Remote,
    /// We ourselves: a listener that closed, a task that was given up.
    Neither,
}

/// How a carried connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// Both directions came to their end.
    Finished,
    /// The far side did not give the stream its target.
    Refused(Refusal),
    /// One side was reset or failed; the other one was reset for it.
    Reset {
        /// Whose end it was.
        by: Side,
    },
    /// The link under the stream was lost.
    LinkLost,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Finished => f.write_str("finished"),
            End::Refused(refusal) => write!(f, "{refusal}"),
            End::Reset { by: Side::Local } => f.write_str("reset by the local side"),
            End::Reset { by: Side::Remote } => f.write_str("reset by the far side"),
            End::Reset { by: Side::Neither } => f.write_str("reset by us"),
            End::LinkLost => f.write_str("link lost"),
        }
    }
}

/// What a [`splice`] carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpliceReport {
    /// Bytes from the local to the remote side.
    pub sent: u64,
    /// Bytes from the remote to the local side.
    pub received: u64,
    /// How it ended.
    pub end: End,
}

/// Carries bytes both ways until both directions have ended.
///
/// The end of one direction (FIN) becomes the end of that direction on the other side and leaves the other direction
/// alone (half-close). When a side fails, the other one is reset: an RST on the TCP side (`SO_LINGER` 0), a drop on
/// the stream's side. Nagle's delay is switched off on `local`. While nothing moves, no buffer is held.
///
/// # Cancel safety
/// Dropping it resets both sides.
pub async fn splice(local: TcpStream, remote: Box<dyn ByteStream>) -> SpliceReport {
    splice_until(local, remote, std::future::pending()).await
}

/// [`splice`], given up when `abort` resolves.
pub(crate) async fn splice_until<F>(local: TcpStream, remote: Box<dyn ByteStream>, abort: F) -> SpliceReport
where
    F: Future<Output = ()>,
{
    sys::prepare_local(&local);
    let mut local = Local {
        stream: local,
        finished: false,
    };
    let mut remote = remote;
    let (mut up, mut down) = (Up::default(), Down::default());
    let end = {
        let stream = &local.stream;
        let mut abort = pin!(abort);
        let mut failed = pin!(stream.ready(Interest::ERROR));
        poll_fn(|cx| {
            if abort.as_mut().poll(cx).is_ready() {
                return Poll::Ready(End::Reset { by: Side::Neither });
            }
            // Down first: an answer, or a refusal, should not wait behind more of the request.
            let down_done = match down.poll(cx, stream, &mut *remote) {
                Poll::Ready(Err(end)) => return Poll::Ready(end),
                done => done.is_ready(),
            };
            let up_done = match up.poll(cx, stream, &mut *remote) {
                Poll::Ready(Err(end)) => return Poll::Ready(end),
                done => done.is_ready(),
            };
            if down_done && up_done {
                return Poll::Ready(End::Finished);
            }
            // Its end has been read, so only this shows a reset that comes later.
            if down_done && let Poll::Ready(error) = remote.poll_broken(cx) {
                return Poll::Ready(remote_end(&error));
            }
            // While its reads rest (that direction ended, or the far side takes nothing), only this shows a reset.
            if failed.as_mut().poll(cx).is_ready() {
                return Poll::Ready(End::Reset { by: Side::Local });
            }
            Poll::Pending
        })
        .await
    };
    local.finished = end == End::Finished;
    SpliceReport {
        sent: up.carried,
        received: down.carried,
        end,
    }
}

/// The TCP side. Closed with RST unless both directions came to their end.
struct Local {
    stream: TcpStream,
    finished: bool,
}

impl Drop for Local {
    fn drop(&mut self) {
        if !self.finished {
            sys::reset_on_close(&self.stream);
        }
    }
}

/// The direction from the local to the remote side.
#[derive(Default)]
struct Up {
    pending: Bytes,
    size: buffer::ReadSize,
    unflushed: bool,
    ended: bool,
    done: bool,
    carried: u64,
}

impl Up {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        local: &TcpStream,
        remote: &mut dyn ByteStream,
    ) -> Poll<Result<(), End>> {
        let mut turn = 0;
        while !self.done {
            while !self.pending.is_empty() {
                let n = ready!(remote.poll_write_chunk(cx, &mut self.pending))
                    .map_err(|error| remote_end(&error))?;
                self.carried += n as u64;
                self.unflushed = true;
                turn += n;
            }
            if self.ended {
                ready!(Pin::new(&mut *remote).poll_shutdown(cx)).map_err(|error| remote_end(&error))?;
                self.done = true;
                break;
            }
            if turn >= TURN_BYTES {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let room = ready!(remote.poll_room(cx)).map_err(|error| remote_end(&error))?;
            match local.poll_read_ready(cx) {
                Poll::Pending => {
                    if self.unflushed {
                        ready!(Pin::new(&mut *remote).poll_flush(cx)).map_err(|error| remote_end(&error))?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Err(End::Reset { by: Side::Local })),
                Poll::Ready(Ok(())) => {}
            }
            match buffer::read(local, &mut self.size, room) {
                Ok(bytes) if bytes.is_empty() => self.ended = true,
                Ok(bytes) => self.pending = bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(Err(End::Reset { by: Side::Local })),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// The direction from the remote to the local side.
#[derive(Default)]
struct Down {
    /// Taken from the remote side, not yet written. At most [`GATHER_CHUNKS`]; empty while nothing moves.
    pending: VecDeque<Bytes>,
    ended: bool,
    done: bool,
    carried: u64,
}

impl Down {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        local: &TcpStream,
        remote: &mut dyn ByteStream,
    ) -> Poll<Result<(), End>> {
        let mut turn = 0;
        while !self.done {
            let mut waits = false;
            let mut gathered = self.pending.iter().map(Bytes::len).sum::<usize>();
            while !self.ended && !waits && gathered < GATHER_BYTES && self.pending.len() < GATHER_CHUNKS {
                match remote.poll_chunk(cx) {
                    Poll::Ready(Ok(Some(bytes))) => {
                        gathered += bytes.len();
                        self.pending.push_back(bytes);
                    }
                    Poll::Ready(Ok(None)) => self.ended = true,
                    Poll::Ready(Err(error)) => {
                        // What came before the error was sent before it; the local side may have it if it can take it.
                        let _unsent = self.write(local);
                        return Poll::Ready(Err(remote_end(&error)));
                    }
                    Poll::Pending => waits = true,
                }
            }
            while !self.pending.is_empty() {
                match self.write(local) {
                    Ok(n) => turn += n,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        ready!(local.poll_write_ready(cx)).map_err(|_| End::Reset { by: Side::Local })?;
                    }
                    Err(_) => return Poll::Ready(Err(End::Reset { by: Side::Local })),
                }
            }
            if self.ended {
                SockRef::from(local)
                    .shutdown(std::net::Shutdown::Write)
                    .map_err(|_| End::Reset { by: Side::Local })?;
                self.done = true;
            } else if waits {
                self.pending = VecDeque::new();
                return Poll::Pending;
            } else if turn >= TURN_BYTES {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn write(&mut self, local: &TcpStream) -> io::Result<usize> {
        let mut slices = [io::IoSlice::new(&[]); GATHER_CHUNKS];
        for (slice, bytes) in slices.iter_mut().zip(&self.pending) {
            *slice = io::IoSlice::new(bytes);
        }
        let n = local.try_write_vectored(&slices[..self.pending.len()])?;
        self.carried += n as u64;
        let mut left = n;
        while let Some(first) = self.pending.front_mut() {
            if left < first.len() {
                first.advance(left);
                break;
            }
            left -= first.len();
            self.pending.pop_front();
        }
        Ok(n)
    }
}

fn remote_end(error: &io::Error) -> End {
    if let Some(refusal) = refusal_of(error) {
        End::Refused(refusal.clone())
    } else if is_link_lost(error) {
        End::LinkLost
    } else {
        End::Reset { by: Side::Remote }
    }
}
