//! Two byte streams of any kind joined.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use crate::{ByteStream, End, Side, SpliceReport, is_link_lost, refusal_of, splice};

/// How many bytes one direction carries before the task gives way to the others on its thread.
const TURN_BYTES: usize = 1024 * 1024;

/// [`splice`](crate::splice) for two byte streams of any kind. In the report, `near` is the local side. A stream that
/// is a TCP connection and nothing else is carried as `splice` carries one.
///
/// # Cancel safety
/// Dropping the future resets both sides.
pub async fn splice_streams(mut near: Box<dyn ByteStream>, mut far: Box<dyn ByteStream>) -> SpliceReport {
    if let Some(connection) = near.take_tcp() {
        return splice(connection, far).await;
    }
    let (mut up, mut down) = (Direction::default(), Direction::default());
    let end = poll_fn(|cx| {
        let down_done = match down.poll(cx, &mut *far, &mut *near) {
            Poll::Ready(Err((at, error))) => {
                return Poll::Ready(end_of(&error, at.of(Side::Remote, Side::Local)));
            }
            done => done.is_ready(),
        };
        let up_done = match up.poll(cx, &mut *near, &mut *far) {
            Poll::Ready(Err((at, error))) => {
                return Poll::Ready(end_of(&error, at.of(Side::Local, Side::Remote)));
            }
            done => done.is_ready(),
        };
        if down_done && up_done {
            return Poll::Ready(End::Finished);
        }
        // A side is not read when its end has been read, or while the other one takes no more: only this shows a reset
        // then. A side whose own direction has ended still gets what arrived before.
        let far_unread = down_done || (!down.pending.is_empty() && !up_done);
        if far_unread && let Poll::Ready(error) = far.poll_broken(cx) {
            return Poll::Ready(end_of(&error, Side::Remote));
        }
        let near_unread = up_done || (!up.pending.is_empty() && !down_done);
        if near_unread && let Poll::Ready(error) = near.poll_broken(cx) {
            return Poll::Ready(end_of(&error, Side::Local));
        }
        Poll::Pending
    })
    .await;
    SpliceReport {
        sent: up.carried,
        received: down.carried,
        end,
    }
}

/// Which end of a direction failed.
#[derive(Clone, Copy)]
enum At {
    From,
    To,
}

impl At {
    fn of(self, from: Side, to: Side) -> Side {
        match self {
            At::From => from,
            At::To => to,
        }
    }
}

#[derive(Default)]
struct Direction {
    pending: Bytes,
    unflushed: bool,
    ended: bool,
    done: bool,
    carried: u64,
}

impl Direction {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut dyn ByteStream,
        to: &mut dyn ByteStream,
    ) -> Poll<Result<(), (At, io::Error)>> {
        let at_to = |error| (At::To, error);
        let mut turn = 0;
        while !self.done {
            while !self.pending.is_empty() {
                let n = ready!(to.poll_write_chunk(cx, &mut self.pending)).map_err(at_to)?;
                self.carried += n as u64;
                self.unflushed = true;
                turn += n;
            }
            if self.ended {
                ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(at_to)?;
                self.done = true;
                break;
            }
            if turn >= TURN_BYTES {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            // Nothing is read that cannot be written: whoever sends is stopped by its own credit.
            ready!(to.poll_room(cx)).map_err(at_to)?;
            match from.poll_chunk(cx) {
                Poll::Ready(Ok(Some(bytes))) => self.pending = bytes,
                Poll::Ready(Ok(None)) => self.ended = true,
                Poll::Ready(Err(error)) => return Poll::Ready(Err((At::From, error))),
                Poll::Pending => {
                    if self.unflushed {
                        ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(at_to)?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn end_of(error: &io::Error, by: Side) -> End {
    if let Some(refusal) = refusal_of(error) {
        End::Refused(refusal.clone())
    } else if is_link_lost(error) {
        End::LinkLost
    } else {
        End::Reset { by }
    }
}
