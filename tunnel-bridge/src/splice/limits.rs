//! What bounds a connection while it is carried.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::listener::{Bandwidth, Meter, Way};

/// Beyond what anybody waits for, and within what a clock can tell.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// What bounds a connection while it is carried. The default bounds nothing, and costs nothing.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    pub(crate) idle: Option<Duration>,
    pub(crate) bandwidth: Option<Arc<Bandwidth>>,
}

impl Limits {
    pub(crate) fn meter(&self, way: Way) -> Option<Box<Meter>> {
        let bandwidth = self.bandwidth.as_ref()?;
        Some(Box::new(Meter::new(Arc::clone(bandwidth), way)))
    }

    pub(crate) fn idle_clock(&self) -> Option<Box<IdleClock>> {
        let after = self.idle?.min(LONGEST);
        let now = Instant::now();
        Some(Box::new(IdleClock {
            after,
            carried: 0,
            moved: now,
            alarm: Box::pin(tokio::time::sleep(after)),
        }))
    }
}

/// Notices that nothing has moved for a while.
#[derive(Debug)]
pub(crate) struct IdleClock {
    after: Duration,
    carried: u64,
    moved: Instant,
    alarm: Pin<Box<Sleep>>,
}

impl IdleClock {
    /// To be polled whenever something may have moved, with all that was carried so far. What waits for the bandwidth that it may have
    /// is not idle.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        carried: u64,
        meters: [&Option<Box<Meter>>; 2],
    ) -> Poll<()> {
        let waits = meters.into_iter().flatten().any(|meter| meter.is_waiting());
        if self.carried != carried || waits {
            self.carried = carried;
            self.moved = Instant::now();
        }
        loop {
            ready!(self.alarm.as_mut().poll(cx));
            // The alarm is set anew only when it goes off, not for each byte.
            let due = self.moved + self.after;
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            self.alarm.as_mut().reset(due);
        }
    }
}
