//! Two flows joined.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::{DatagramFlow, End, Refusal, RefusalKind, ResetReason, Side, is_link_lost, refusal_of, reset_of};

/// For how long a flow may rest before [`relay`] should end it. Longer than a [`UdpListener`](super::UdpListener) keeps one,
/// which thereby decides.
pub const FLOW_IDLE: Duration = Duration::from_secs(180);

/// Datagrams of one direction before the other, and other tasks, have their turn.
const TURN: usize = 64;

/// What came of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FlowReport {
    /// Datagrams from the near to the far flow, and their bytes.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Datagrams from the far to the near flow.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Datagrams for which one of the two had no room.
    pub dropped: u64,
    /// How it ended. [`End::Finished`] when it had rested, or when one of the two ended in good order.
    pub end: End,
}

/// Carries datagrams between two flows until one of them ends, or until nothing was carried for `idle`.
///
/// ```
/// use std::future::poll_fn;
/// use tunnel_bridge::udp::{FLOW_IDLE, UdpDialer, relay};
/// use tunnel_bridge::{DatagramFlow as _, Dialer as _, Link, Role, StreamCarrier, Target};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = tokio::net::UdpSocket::bind("127.0.0.1:0").await?;
/// # let target = Target::new(&server.local_addr()?.to_string())?;
/// let (a, b) = tokio::io::duplex(64 * 1024);
/// let near = Link::over(StreamCarrier::new(a), Role::Client);
/// let far = Link::over(StreamCarrier::new(b), Role::Server);
///
/// // The far end carries what it is asked for.
/// let serving = tokio::spawn(async move {
///     while let Some(incoming) = far.accept_flow().await {
///         match UdpDialer::default().dial_datagrams(incoming.target()).await {
///             Ok(flow) => drop(relay(flow, Box::new(incoming.accept()), FLOW_IDLE).await),
///             Err(refusal) => incoming.refuse(refusal),
///         }
///     }
/// });
///
/// let mut flow = near.dial_datagrams(&target).await?;
/// poll_fn(|cx| flow.poll_send(cx, &"who?".into())).await?;
/// let mut question = [0; 16];
/// assert_eq!(server.recv_from(&mut question).await?.0, 4);
/// # serving.abort();
/// # Ok(())
/// # }
/// ```
///
/// # Cancel safety
/// Dropping the future ends both.
pub async fn relay(
    mut near: Box<dyn DatagramFlow>,
    mut far: Box<dyn DatagramFlow>,
    idle: Duration,
) -> FlowReport {
    let (mut up, mut down) = (Direction::default(), Direction::default());
    let mut used = Instant::now();
    let mut timer = pin!(tokio::time::sleep_until(used + idle));
    let ended = poll_fn(|cx| {
        let before = up.count + down.count;
        if let Poll::Ready(ended) = up.poll(cx, &mut *near, &mut *far, [Side::Local, Side::Remote]) {
            return Poll::Ready(ended);
        }
        if let Poll::Ready(ended) = down.poll(cx, &mut *far, &mut *near, [Side::Remote, Side::Local]) {
            return Poll::Ready(ended);
        }
        if up.count + down.count > before {
            used = Instant::now();
        }
        while timer.as_mut().poll(cx).is_ready() {
            if used + idle <= Instant::now() {
                return Poll::Ready(Ended::rested());
            }
            timer.as_mut().reset(used + idle);
        }
        Poll::Pending
    })
    .await;
    // The one that has ended hears it as well, and does not mind.
    near.reset(ended.why);
    far.reset(ended.why);
    FlowReport {
        sent: up.count,
        sent_bytes: up.bytes,
        received: down.count,
        received_bytes: down.bytes,
        dropped: near.dropped() + far.dropped(),
        end: ended.end,
    }
}

/// How a flow ended, and what the other one is told.
struct Ended {
    end: End,
    why: ResetReason,
}

impl Ended {
    fn rested() -> Ended {
        Ended {
            end: End::Finished,
            why: ResetReason::TimedOut,
        }
    }

    fn finished() -> Ended {
        Ended {
            end: End::Finished,
            why: ResetReason::Cancelled,
        }
    }

    fn failed(error: &io::Error, by: Side) -> Ended {
        Ended {
            end: end_of(error, by),
            why: reset_of(error).unwrap_or(ResetReason::Cancelled),
        }
    }
}

#[derive(Default)]
struct Direction {
    pending: Option<Bytes>,
    count: u64,
    bytes: u64,
}

impl Direction {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut dyn DatagramFlow,
        to: &mut dyn DatagramFlow,
        [from_side, to_side]: [Side; 2],
    ) -> Poll<Ended> {
        for _ in 0..TURN {
            if let Some(datagram) = &self.pending {
                match to.poll_send(cx, datagram) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Ended::failed(&error, to_side)),
                    Poll::Pending => return Poll::Pending,
                }
                self.count += 1;
                self.bytes += datagram.len() as u64;
                self.pending = None;
            }
            match from.poll_receive(cx) {
                Poll::Ready(Ok(Some(datagram))) => self.pending = Some(datagram),
                Poll::Ready(Ok(None)) => return Poll::Ready(Ended::finished()),
                Poll::Ready(Err(error)) => return Poll::Ready(Ended::failed(&error, from_side)),
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// How a flow's error reads to whoever counts ends.
pub(super) fn end_of(error: &io::Error, by: Side) -> End {
    if let Some(refusal) = refusal_of(error) {
        End::Refused(refusal.clone())
    } else if is_link_lost(error) {
        End::LinkLost
    } else if reset_of(error) == Some(ResetReason::SocketReset) {
        // UDP's own word for a connection that is refused, which comes behind the first datagram.
        let message = "nothing listens on this UDP port there";
        End::Refused(Refusal::new(RefusalKind::Refused, message))
    } else {
        End::Reset { by }
    }
}
