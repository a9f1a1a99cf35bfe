//! Two byte streams joined: what one side sends, the other receives, including how it ends.

mod limits;
mod tcp;

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::future::maybe_done;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::yield_now;

pub(crate) use self::limits::Limits;
use crate::listener::{Meter, Way};
use crate::{ByteStream, Refusal, buffer, is_link_lost, program, refusal_of, sys};

/// How many bytes one direction carries before the task yields to others on its thread.
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
    /// Both directions ended.
    Finished,
    /// The far side did not connect the stream to its target, or there was no link to it.
    Refused(Refusal),
    /// One side was reset or failed; the other one was reset for it.
    Reset {
        /// Whose end it was.
        by: Side,
    },
    /// The link under the stream was lost.
    LinkLost,
    /// Nothing moved either way for as long as the listener allows; both sides were reset.
    Idle,
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
            End::Idle => f.write_str("reset by us: idle for too long"),
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
/// the stream's side. Where the stream is a TCP connection too, both ends are that. While nothing moves, no buffer is held.
///
/// The options of `local` stay as they are: [`direct::connect`](crate::direct::connect) has set those that fit. With Nagle's delay, which
/// a socket has that was accepted elsewhere, a request of more than one segment may wait for a delayed acknowledgement (RFC 9293 §3.7.4).
///
/// While the stream is not connected yet (see [`ByteStream::is_connected`]), or when it carries no half-close
/// ([`ByteStream::carries_half_close`]) and all that the program has sent is on its way, a program on the local side that closes
/// its connection or resets it ends the splice; one that only half-closes does not. Closing is noticed on Linux only,
/// where the system tells it from a half-close.
///
/// # Cancel safety
/// Dropping it resets both sides.
pub async fn splice(local: TcpStream, remote: Box<dyn ByteStream>) -> SpliceReport {
    let (traffic, limits) = (Traffic::default(), Limits::default());
    splice_until(local, remote, std::future::pending(), &traffic, &limits).await
}

/// Bytes carried, counted while they move.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) sent: AtomicU64,
    pub(crate) received: AtomicU64,
}

/// [`splice`] of a `local` that has been prepared, given up when `abort` resolves. What is carried is added to `traffic`.
pub(crate) async fn splice_until<F>(
    local: TcpStream,
    remote: Box<dyn ByteStream>,
    abort: F,
    traffic: &Traffic,
    limits: &Limits,
) -> SpliceReport
where
    F: Future<Output = ()>,
{
    let mut remote = remote;
    if let Some(far) = remote.take_tcp() {
        // Boxed: a connection over a link should not be as large as this needs.
        return Box::pin(tcp::splice_tcp(local, far, abort, traffic, limits)).await;
    }
    let mut local = Socket::new(local);
    let mut up = Up {
        meter: limits.meter(Way::Up),
        ..Up::default()
    };
    let mut down = Down {
        meter: limits.meter(Way::Down),
        ..Down::default()
    };
    let mut idle = limits.idle_clock();
    let end = {
        let stream = &local.stream;
        let mut abort = pin!(abort);
        // An end that no bytes come with lets the other tasks of its thread go first, once for each direction: a request on another connection, for
        // example, is more urgent.
        let mut others_before_up = pin!(maybe_done(yield_now()));
        let mut others_before_down = pin!(maybe_done(yield_now()));
        // Made when they are first asked: a connection that is read hears of both by reading.
        let (mut failed, mut closed) = (None, None);
        let mut counted = (0, 0);
        poll_fn(|cx| {
            if abort.as_mut().poll(cx).is_ready() {
                return Poll::Ready(End::Reset { by: Side::Neither });
            }
            // Down first: an answer, or a refusal, should not wait behind more of the request.
            let down_polled = down.poll(cx, stream, &mut *remote, up.done, others_before_down.as_mut());
            let up_polled = match &down_polled {
                Poll::Ready(Err(_)) => Poll::Pending,
                _ => up.poll(cx, stream, &mut *remote, others_before_up.as_mut()),
            };
            traffic.add(&mut counted, up.carried, down.carried);
            let (down_done, up_done) = match (down_polled, up_polled) {
                (Poll::Ready(Err(end)), _) | (_, Poll::Ready(Err(end))) => return Poll::Ready(end),
                (down, up) => (down.is_ready(), up.is_ready()),
            };
            if down_done && up_done {
                return Poll::Ready(End::Finished);
            }
            // Where nothing is read from it, since its end has been read or the program takes no more, only this shows a
            // reset. A program whose own direction has ended still gets what arrived before.
            let unread = down_done || (!down.pending.is_empty() && !up_done);
            if unread && let Poll::Ready(error) = remote.poll_broken(cx) {
                return Poll::Ready(remote_end(&error));
            }
            let connected = remote.is_connected();
            if connected && remote.carries_half_close() {
                // As most streams are for the rest of their lives.
                closed = None;
            } else if !up.listens && (!connected || up_done) {
                // A program that no longer waits for its answer: the far side should stop looking for one. Where that does not
                // hear of a half-close, it is also how the end of such a program reaches it.
                let closed = closed.get_or_insert_with(|| Box::pin(program::closed(stream)));
                if closed.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(match connected {
                        true => End::Finished,
                        false => End::Reset { by: Side::Local },
                    });
                }
            }
            // While it is not read (that direction ended, or the far side takes nothing), only this shows a reset.
            if !up.listens {
                let failed = failed.get_or_insert_with(|| Box::pin(stream.ready(Interest::ERROR)));
                if failed.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(End::Reset { by: Side::Local });
                }
            }
            if let Some(idle) = &mut idle
                && idle
                    .poll(cx, up.carried + down.carried, [&up.meter, &down.meter])
                    .is_ready()
            {
                return Poll::Ready(End::Idle);
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

impl Traffic {
    fn add(&self, counted: &mut (u64, u64), sent: u64, received: u64) {
        if *counted != (sent, received) {
            self.sent.fetch_add(sent - counted.0, Ordering::Relaxed);
            self.received.fetch_add(received - counted.1, Ordering::Relaxed);
            *counted = (sent, received);
        }
    }
}

/// A TCP side. Closed with RST unless both directions have ended.
struct Socket {
    stream: TcpStream,
    finished: bool,
}

impl Socket {
    const fn new(stream: TcpStream) -> Socket {
        Socket {
            stream,
            finished: false,
        }
    }
}

impl Drop for Socket {
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
    meter: Option<Box<Meter>>,
    size: buffer::ReadSize,
    unflushed: bool,
    /// It waits for the local side, and for nothing else.
    listens: bool,
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
        mut others_first: Pin<&mut impl Future<Output = ()>>,
    ) -> Poll<Result<(), End>> {
        let mut turn = 0;
        self.listens = false;
        while !self.done {
            while !self.pending.is_empty() {
                let n = ready!(remote.poll_write_chunk(cx, &mut self.pending))
                    .map_err(|error| remote_end(&error))?;
                self.carried += n as u64;
                self.unflushed = true;
                turn += n;
            }
            if self.ended {
                if turn == 0 {
                    ready!(others_first.as_mut().poll(cx));
                }
                ready!(Pin::new(&mut *remote).poll_shutdown(cx)).map_err(|error| remote_end(&error))?;
                self.done = true;
                break;
            }
            if turn >= TURN_BYTES {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let mut room = ready!(remote.poll_room(cx)).map_err(|error| remote_end(&error))?;
            match local.poll_read_ready(cx) {
                Poll::Pending => {
                    if self.unflushed {
                        ready!(Pin::new(&mut *remote).poll_flush(cx)).map_err(|error| remote_end(&error))?;
                        self.unflushed = false;
                    }
                    self.listens = true;
                    return Poll::Pending;
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Err(End::Reset { by: Side::Local })),
                Poll::Ready(Ok(())) => {}
            }
            if let Some(meter) = &mut self.meter {
                room = ready!(meter.poll_credit(cx)).min(room);
            }
            match buffer::read(local, &mut self.size, room) {
                Ok(bytes) if bytes.is_empty() => self.ended = true,
                Ok(bytes) => {
                    if let Some(meter) = &mut self.meter {
                        meter.spend(bytes.len());
                    }
                    self.pending = bytes;
                }
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
    meter: Option<Box<Meter>>,
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
        up_done: bool,
        mut others_first: Pin<&mut impl Future<Output = ()>>,
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
                        // What arrived before the error belongs to the local side, if it can take it at once.
                        let _unsent = self.write(local, usize::MAX);
                        return Poll::Ready(Err(remote_end(&error)));
                    }
                    Poll::Pending => waits = true,
                }
            }
            while !self.pending.is_empty() {
                let most = match &mut self.meter {
                    Some(meter) => ready!(meter.poll_credit(cx)),
                    None => usize::MAX,
                };
                match self.write(local, most) {
                    Ok(n) => turn += n,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        ready!(local.poll_write_ready(cx)).map_err(|_| End::Reset { by: Side::Local })?;
                    }
                    Err(_) => return Poll::Ready(Err(End::Reset { by: Side::Local })),
                }
            }
            if self.ended {
                if turn == 0 {
                    ready!(others_first.as_mut().poll(cx));
                }
                // Where the other direction is over, closing the socket ends this one.
                if !up_done {
                    SockRef::from(local)
                        .shutdown(std::net::Shutdown::Write)
                        .map_err(|_| End::Reset { by: Side::Local })?;
                }
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

    fn write(&mut self, local: &TcpStream, most: usize) -> io::Result<usize> {
        let mut slices = [io::IoSlice::new(&[]); GATHER_CHUNKS];
        let (mut count, mut left) = (0, most);
        for (slice, bytes) in slices.iter_mut().zip(&self.pending) {
            if left == 0 {
                break;
            }
            let part = bytes.len().min(left);
            *slice = io::IoSlice::new(&bytes[..part]);
            left -= part;
            count += 1;
        }
        // A request or an answer is one piece: a plain write costs the system less.
        let n = match &slices[..count] {
            [piece] => local.try_write(piece)?,
            pieces => local.try_write_vectored(pieces)?,
        };
        self.carried += n as u64;
        if let Some(meter) = &mut self.meter {
            meter.spend(n);
        }
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

pub(crate) fn remote_end(error: &io::Error) -> End {
    if let Some(refusal) = refusal_of(error) {
        End::Refused(refusal.clone())
    } else if is_link_lost(error) {
        End::LinkLost
    } else {
        End::Reset { by: Side::Remote }
    }
}
