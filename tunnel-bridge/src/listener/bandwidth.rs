//! How many bytes a second connections may carry together.

use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

/// What may be carried at once after a pause.
const DEPTH: Duration = Duration::from_millis(50);

/// A connection asks for what this much of the rate is, within these bounds, and then queues up behind the others.
const TURN: Duration = Duration::from_millis(10);
const SMALLEST_TURN: u64 = 256;
const LARGEST_TURN: u64 = 16 * 1024 * 1024;

/// A bound on the bytes a second of all connections of a service together, in each direction by itself.
///
/// Connections that have something to send take turns, so that each gets the same share. For 50 ms' worth of bytes none waits
/// after a pause.
#[derive(Debug)]
pub struct Bandwidth {
    up: Direction,
    down: Direction,
}

impl Bandwidth {
    /// A bound of so many bytes a second each way.
    #[must_use]
    pub fn new(bytes_per_second: NonZeroU64) -> Bandwidth {
        let direction = || Direction {
            bucket: Mutex::new(Bucket::new(bytes_per_second)),
            turn: turn(bytes_per_second),
        };
        Bandwidth {
            up: direction(),
            down: direction(),
        }
    }
}

#[derive(Debug)]
struct Direction {
    bucket: Mutex<Bucket>,
    turn: u64,
}

fn turn(rate: NonZeroU64) -> u64 {
    let share = u128::from(rate.get()) * TURN.as_millis() / 1000;
    u64::try_from(share)
        .unwrap_or(LARGEST_TURN)
        .clamp(SMALLEST_TURN, LARGEST_TURN)
}

/// The token bucket, as the time at which it will be full again if nobody takes anything (the "generic cell rate algorithm").
#[derive(Debug)]
struct Bucket {
    rate: NonZeroU64,
    full_at: Option<Instant>,
}

impl Bucket {
    const fn new(rate: NonZeroU64) -> Bucket {
        Bucket { rate, full_at: None }
    }

    /// Takes `bytes` for somebody who sends them no earlier than at the returned time. Whoever comes next waits behind.
    fn take(&mut self, bytes: u64, now: Instant) -> Instant {
        let from = self.full_at.map_or(now, |full_at| full_at.max(now));
        let full_at = from + self.cost(bytes);
        self.full_at = Some(full_at);
        full_at.checked_sub(DEPTH).map_or(now, |at| at.max(now))
    }

    /// What was taken and not used.
    fn give_back(&mut self, bytes: u64) {
        let cost = self.cost(bytes);
        self.full_at = self.full_at.and_then(|full_at| full_at.checked_sub(cost));
    }

    fn cost(&self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate.get());
        // A turn of the slowest rate lasts some minutes.
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX / 2))
    }
}

/// Which direction of a connection is metered.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    Up,
    Down,
}

/// One direction of one connection.
#[derive(Debug)]
pub(crate) struct Meter {
    bandwidth: Arc<Bandwidth>,
    way: Way,
    credit: u64,
    /// When the credit was to be used.
    credit_at: Instant,
    waits: Option<Pin<Box<Sleep>>>,
}

impl Meter {
    pub(crate) fn new(bandwidth: Arc<Bandwidth>, way: Way) -> Meter {
        Meter {
            bandwidth,
            way,
            credit: 0,
            credit_at: tokio::time::Instant::now().into_std(),
            waits: None,
        }
    }

    fn direction(&self) -> &Direction {
        match self.way {
            Way::Up => &self.bandwidth.up,
            Way::Down => &self.bandwidth.down,
        }
    }

    /// How many bytes may move, at least one. To be asked when there is something to move.
    pub(crate) fn poll_credit(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        if let Some(waits) = &mut self.waits {
            std::task::ready!(waits.as_mut().poll(cx));
            self.waits = None;
            return Poll::Ready(self.credit());
        }
        let now = tokio::time::Instant::now().into_std();
        // What a connection left over before a pause must not pile up with what others left over.
        if now.saturating_duration_since(self.credit_at) > DEPTH {
            self.give_back();
        }
        if self.credit == 0 {
            let turn = self.direction().turn;
            let at = lock(&self.direction().bucket).take(turn, now);
            (self.credit, self.credit_at) = (turn, at);
            if at > now {
                let mut waits = Box::pin(tokio::time::sleep_until(at.into()));
                if waits.as_mut().poll(cx).is_pending() {
                    self.waits = Some(waits);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(self.credit())
    }

    /// Whether something would move and waits for its turn.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waits.as_ref().is_some_and(|waits| !waits.is_elapsed())
    }

    fn credit(&self) -> usize {
        usize::try_from(self.credit).unwrap_or(usize::MAX)
    }

    fn give_back(&mut self) {
        let left = std::mem::take(&mut self.credit);
        if left > 0 {
            lock(&self.direction().bucket).give_back(left);
        }
    }

    /// So many have moved.
    pub(crate) fn spend(&mut self, bytes: usize) {
        self.credit = self.credit.saturating_sub(bytes as u64);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.give_back();
    }
}

fn lock(bucket: &Mutex<Bucket>) -> std::sync::MutexGuard<'_, Bucket> {
    bucket.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whoever takes however much however often: never more than the rate and one depth.
        #[test]
        fn no_span_of_time_carries_more_than_the_rate_and_one_depth(
            rate in 1_000u64..1_000_000_000,
            takes in proptest::collection::vec((0u64..3, 1u64..1_000_000, 0u64..40), 1..200),
        ) {
            let start = Instant::now();
            let mut bucket = Bucket::new(NonZeroU64::new(rate).unwrap());
            let mut now = start;
            // When each was allowed to go, and how much.
            let mut gone: Vec<(Instant, u64)> = Vec::new();
            for (kind, bytes, pause) in takes {
                now += Duration::from_millis(pause);
                let at = bucket.take(bytes, now);
                prop_assert!(at >= now);
                if kind == 0 {
                    bucket.give_back(bytes);
                } else {
                    gone.push((at, bytes));
                }
            }
            for from in 0..gone.len() {
                let mut sum = 0;
                for to in from..gone.len() {
                    sum += gone[to].1;
                    let span = gone[to].0.saturating_duration_since(gone[from].0) + DEPTH;
                    // The first of a span may have waited for its own cost already.
                    let most = span.as_secs_f64() * rate as f64 + gone[from].1 as f64 + 2.0 + rate as f64 * 1e-6;
                    prop_assert!(sum as f64 <= most, "{sum} within {span:?}, at most {most}");
                }
            }
        }

        /// As long as somebody always has something to send, the rate is used.
        #[test]
        fn what_is_allowed_is_used(rate in 10_000u64..1_000_000_000) {
            let rate = NonZeroU64::new(rate).unwrap();
            let mut bucket = Bucket::new(rate);
            let start = Instant::now();
            let (mut now, mut sum) = (start, 0);
            while now < start + Duration::from_secs(2) {
                // Timers are a little late.
                now = bucket.take(turn(rate), now) + Duration::from_millis(1);
                sum += turn(rate);
            }
            let most = 2.0 * rate.get() as f64;
            let got = sum as f64 / most;
            prop_assert!((0.97..1.1).contains(&got), "{got}");
        }
    }

    /// Three with something to send all the time, and one that comes late.
    #[tokio::test(start_paused = true)]
    async fn connections_have_equal_shares() {
        let bandwidth = Arc::new(Bandwidth::new(NonZeroU64::new(1_000_000).unwrap()));
        let run = |delay: u64| {
            let mut meter = Meter::new(Arc::clone(&bandwidth), Way::Down);
            async move {
                tokio::time::sleep(Duration::from_secs(delay)).await;
                let mut sum = 0;
                let end = tokio::time::Instant::now() + Duration::from_secs(2);
                while tokio::time::Instant::now() < end {
                    let n = std::future::poll_fn(|cx| meter.poll_credit(cx)).await;
                    meter.spend(n);
                    sum += n;
                }
                sum
            }
        };
        let (a, b, c, late) = tokio::join!(run(0), run(0), run(0), run(10));
        for share in [a, b, c] {
            assert!((600_000..=740_000).contains(&share), "{share}");
        }
        assert!((1_950_000..=2_100_000).contains(&late), "{late}");
    }
}
