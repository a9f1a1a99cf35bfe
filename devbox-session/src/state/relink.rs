//! When links are looked at out of turn: after the network has changed, or after this machine has slept.

use std::time::{Duration, Instant};

/// A change of network is many changes in a row: an interface goes, another one comes, an address, routes. Links are looked at once
/// it has been quiet for so long,
const QUIET: Duration = Duration::from_millis(100);
/// or so long after the first of them,
const PATIENCE: Duration = Duration::from_millis(300);
/// and not again sooner than this, as each look gives up a connect that is under way.
const REST: Duration = Duration::from_secs(1);

/// Gathers what happens to the network into times at which the links are looked at.
#[derive(Debug, Default)]
pub(super) struct Relink {
    pending: Option<Pending>,
    rests_until: Option<Instant>,
}

#[derive(Debug)]
struct Pending {
    first: Instant,
    due: Instant,
}

impl Relink {
    /// The network has changed, or this machine has slept.
    pub(super) fn handle_nudge(&mut self, now: Instant) {
        let first = self.pending.as_ref().map_or(now, |pending| pending.first);
        let due = (now + QUIET).min(first + PATIENCE);
        let due = self.rests_until.map_or(due, |rests_until| due.max(rests_until));
        self.pending = Some(Pending { first, due });
    }

    /// Whether it is time to look at the links.
    pub(super) fn poll(&mut self, now: Instant) -> bool {
        let due = self.pending.as_ref().is_some_and(|pending| pending.due <= now);
        if due {
            self.pending = None;
            self.rests_until = Some(now + REST);
        }
        due
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.pending.as_ref().map(|pending| pending.due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// Nudges at these times in milliseconds; the times of the looks within the first ten seconds.
    fn looks(nudges: &[u64]) -> Vec<u64> {
        let start = Instant::now();
        let mut relink = Relink::default();
        let mut nudges = nudges.iter().peekable();
        let mut looks = Vec::new();
        let mut now = start;
        while now < start + Duration::from_secs(10) {
            while let Some(at) = nudges.next_if(|at| start + millis(**at) <= now) {
                relink.handle_nudge(start + millis(*at));
            }
            if relink.poll(now) {
                looks.push(u64::try_from((now - start).as_millis()).unwrap());
            }
            assert!(relink.poll_timeout().is_none_or(|due| due > now));
            now += millis(1);
        }
        looks
    }

    #[test]
    fn a_burst_is_one_look_soon_after_it() {
        assert!(looks(&[]).is_empty());
        assert_eq!(looks(&[0]), [100]);
        assert_eq!(looks(&[0, 40, 90]), [190]);
    }

    #[test]
    fn a_burst_without_an_end_is_looked_at_all_the_same_and_once_a_second() {
        let flood: Vec<u64> = (0..5000).step_by(20).collect();
        assert_eq!(looks(&flood), [300, 1300, 2300, 3300, 4300, 5300]);
    }

    #[test]
    fn a_change_soon_after_a_look_is_not_forgotten() {
        assert_eq!(looks(&[0, 150]), [100, 1100]);
        assert_eq!(looks(&[0, 3000]), [100, 3100]);
    }
}
