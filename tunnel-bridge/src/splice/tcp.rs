//! Two TCP connections joined: a byte goes from one socket into a buffer of the thread and from there into the other.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::net::Shutdown;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::{End, Limits, Side, Socket, SpliceReport, TURN_BYTES, Traffic};
use crate::listener::{Meter, Way};
use crate::sys::{self, Pipe};

/// What one read asks for. Larger ones fall out of the processor's cache, smaller ones cost more calls.
const READ_BYTES: usize = 256 * 1024;

/// After so many full reads in a row, bytes go through a pipe.
const BULK: u8 = 2;

/// Buffers kept per thread: one is in use at a time, the others come back from connections whose receiver was slow.
const KEPT: usize = 4;

/// Buffers of a thread that connections may hold for receivers that take no more. Beyond that, what is left is copied out.
const HELD: usize = 64;

/// Less than this is copied out at once.
const COPY_BELOW: usize = READ_BYTES / 4;

thread_local! {
    static BUFFERS: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
    static LENT: Cell<usize> = const { Cell::new(0) };
}

/// [`super::splice_until`] where the far side is a TCP connection as well.
pub(super) async fn splice_tcp<F>(
    near: TcpStream,
    far: TcpStream,
    abort: F,
    traffic: &Traffic,
    limits: &Limits,
) -> SpliceReport
where
    F: Future<Output = ()>,
{
    let mut near = Socket::new(near);
    let mut far = Socket::new(far);
    let mut up = Pump::new(limits.meter(Way::Up));
    let mut down = Pump::new(limits.meter(Way::Down));
    let mut idle = limits.idle_clock();
    let end = {
        let (near, far) = (&near.stream, &far.stream);
        let mut abort = pin!(abort);
        let mut near_failed = pin!(near.ready(Interest::ERROR));
        let mut far_failed = pin!(far.ready(Interest::ERROR));
        let mut counted = (0, 0);
        poll_fn(|cx| {
            if abort.as_mut().poll(cx).is_ready() {
                return Poll::Ready(End::Reset { by: Side::Neither });
            }
            let down_polled = down.poll(cx, far, near);
            let up_polled = match &down_polled {
                Poll::Ready(Err(_)) => Poll::Pending,
                _ => up.poll(cx, near, far),
            };
            traffic.add(&mut counted, up.carried, down.carried);
            let (down_done, up_done) = match (down_polled, up_polled) {
                (Poll::Ready(Err(at)), _) => {
                    return Poll::Ready(End::Reset {
                        by: at.of(Side::Remote, Side::Local),
                    });
                }
                (_, Poll::Ready(Err(at))) => {
                    return Poll::Ready(End::Reset {
                        by: at.of(Side::Local, Side::Remote),
                    });
                }
                (down, up) => (down.is_ready(), up.is_ready()),
            };
            if down_done && up_done {
                return Poll::Ready(End::Finished);
            }
            // A side is not read when its end has been read, or while the other one takes no more: only this shows a reset
            // then. A side whose own direction has ended still gets what arrived before.
            let far_unread = down_done || (down.is_blocked() && !up_done);
            if far_unread && far_failed.as_mut().poll(cx).is_ready() {
                return Poll::Ready(End::Reset { by: Side::Remote });
            }
            if near_failed.as_mut().poll(cx).is_ready() {
                return Poll::Ready(End::Reset { by: Side::Local });
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
    near.finished = end == End::Finished;
    far.finished = near.finished;
    SpliceReport {
        sent: up.carried,
        received: down.carried,
        end,
    }
}

/// Which end of a direction failed.
enum At {
    From,
    To,
}

impl At {
    fn of(&self, from: Side, to: Side) -> Side {
        match self {
            At::From => from,
            At::To => to,
        }
    }
}

/// One direction.
struct Pump {
    /// Read, and not yet taken by the other side.
    held: Option<Box<Held>>,
    meter: Option<Box<Meter>>,
    /// While it moves bulk, and a pipe was free.
    pipe: Option<Pipe>,
    /// Reads in a row that came back full.
    full: u8,
    ended: bool,
    done: bool,
    carried: u64,
}

impl Pump {
    const fn new(meter: Option<Box<Meter>>) -> Pump {
        Pump {
            held: None,
            meter,
            pipe: None,
            full: 0,
            ended: false,
            done: false,
            carried: 0,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, from: &TcpStream, to: &TcpStream) -> Poll<Result<(), At>> {
        let mut turn = 0;
        while !self.done {
            while let Some(held) = &mut self.held {
                match sys::write_some(to, held.bytes()) {
                    Ok(n) => {
                        self.carried += n as u64;
                        turn += n;
                        held.from += n;
                        if held.bytes().is_empty() {
                            self.held = None;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        ready!(to.poll_write_ready(cx)).map_err(|_| At::To)?;
                    }
                    Err(_) => return Poll::Ready(Err(At::To)),
                }
            }
            while let Some(pipe) = self.pipe.as_mut().filter(|pipe| pipe.held() > 0) {
                match pipe.drain(to) {
                    Ok(n) => {
                        self.carried += n as u64;
                        turn += n;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        ready!(to.poll_write_ready(cx)).map_err(|_| At::To)?;
                    }
                    Err(_) => return Poll::Ready(Err(At::To)),
                }
            }
            if self.ended {
                SockRef::from(to).shutdown(Shutdown::Write).map_err(|_| At::To)?;
                self.done = true;
                break;
            }
            if turn >= TURN_BYTES {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match from.poll_read_ready(cx) {
                Poll::Ready(ready) => ready.map_err(|_| At::From)?,
                Poll::Pending => {
                    // Others may have it meanwhile.
                    self.pipe = None;
                    return Poll::Pending;
                }
            }
            if self.full >= BULK && self.fill(from)? {
                continue;
            }
            let most = match &mut self.meter {
                Some(meter) => ready!(meter.poll_credit(cx)).min(READ_BYTES),
                None => READ_BYTES,
            };
            turn += self.carry(from, to, most)?;
        }
        Poll::Ready(Ok(()))
    }

    /// Takes bulk into a pipe; `false` where none is free.
    fn fill(&mut self, from: &TcpStream) -> Result<bool, At> {
        if self.pipe.is_none() {
            self.pipe = Pipe::take();
        }
        let Some(pipe) = &mut self.pipe else {
            return Ok(false);
        };
        match pipe.fill(from) {
            Ok(n) => {
                self.ended = n == 0;
                // It is bulk no more: small amounts are cheaper to copy.
                if n < COPY_BELOW {
                    self.full = 0;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Err(At::From),
        }
        Ok(true)
    }

    fn is_blocked(&self) -> bool {
        self.held.is_some() || self.pipe.as_ref().is_some_and(|pipe| pipe.held() > 0)
    }

    /// Reads once and writes at once; what the other side does not take is held.
    fn carry(&mut self, from: &TcpStream, to: &TcpStream, most: usize) -> Result<usize, At> {
        let mut buffer = take();
        let read = sys::read_some(from, &mut buffer[..most]);
        let n = match read {
            Ok(n) => n,
            Err(error) => {
                keep(buffer);
                return match error.kind() {
                    io::ErrorKind::WouldBlock => Ok(0),
                    _ => Err(At::From),
                };
            }
        };
        match &mut self.meter {
            Some(meter) => meter.spend(n),
            None if n == READ_BYTES => self.full = self.full.saturating_add(1).min(BULK),
            None => self.full = 0,
        }
        self.ended = n == 0;
        let mut written = 0;
        while written < n {
            match sys::write_some(to, &buffer[written..n]) {
                Ok(more) => written += more,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    keep(buffer);
                    return Err(At::To);
                }
            }
        }
        self.carried += written as u64;
        if written == n {
            keep(buffer);
        } else {
            self.held = Some(Held::new(buffer, written, n));
        }
        Ok(written)
    }
}

/// Bytes between the two sides: a buffer of the thread, or a copy.
struct Held {
    buffer: Box<[u8]>,
    from: usize,
    to: usize,
    lent: bool,
}

impl Held {
    fn new(buffer: Box<[u8]>, from: usize, to: usize) -> Box<Held> {
        let lent = to - from >= COPY_BELOW && LENT.get() < HELD;
        let held = if lent {
            LENT.set(LENT.get() + 1);
            Held {
                buffer,
                from,
                to,
                lent,
            }
        } else {
            let copy = Box::from(&buffer[from..to]);
            keep(buffer);
            Held {
                buffer: copy,
                from: 0,
                to: to - from,
                lent,
            }
        };
        Box::new(held)
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[self.from..self.to]
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.lent {
            // A connection may end on another thread than it began on; the count of each is only a bound.
            LENT.set(LENT.get().saturating_sub(1));
            keep(std::mem::take(&mut self.buffer));
        }
    }
}

fn take() -> Box<[u8]> {
    BUFFERS
        .with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| vec![0; READ_BYTES].into_boxed_slice())
}

fn keep(buffer: Box<[u8]>) {
    BUFFERS.with_borrow_mut(|kept| {
        if kept.len() < KEPT {
            kept.push(buffer);
        }
    });
}
