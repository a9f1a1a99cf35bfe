use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::lobby::Origin;

/// So many refusals of an origin are answered at once: a rotated token, a typing error.
const FREE: u32 = 3;

/// The delay of the next answer; doubled from one to the next.
const FIRST_DELAY: Duration = Duration::from_millis(250);

/// Below what clients wait for an answer.
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// An origin that had no token refused for so long starts anew.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// Origins that are remembered; then the one whose last refusal is the oldest is forgotten.
const MAX_ORIGINS: usize = 4096;

/// Who had tokens refused, and how long the next answer waits for it.
///
/// Only refusals wait. A right token is taken at once, wherever it comes from: people behind one address must not be
/// locked out by one of them.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    known: BTreeMap<Origin, Record>,
    by_age: BTreeSet<(Instant, Origin)>,
}

#[derive(Debug)]
struct Record {
    count: u32,
    last: Instant,
}

impl Refusals {
    /// A token was refused. How long its answer waits.
    pub(crate) fn handle_refusal(&mut self, origin: Origin, now: Instant) -> Duration {
        let mut count = 1;
        if let Some(record) = self.known.remove(&origin) {
            self.by_age.remove(&(record.last, origin));
            if now.saturating_duration_since(record.last) < FORGOTTEN_AFTER {
                count = record.count.saturating_add(1);
            }
        } else if self.known.len() >= MAX_ORIGINS
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.known.remove(&oldest);
        }
        self.known.insert(origin, Record { count, last: now });
        self.by_age.insert((now, origin));
        match count.checked_sub(FREE + 1) {
            None => Duration::ZERO,
            Some(doublings) => FIRST_DELAY
                .saturating_mul(1 << doublings.min(16))
                .min(LONGEST_DELAY),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    #[test]
    fn answers_wait_longer_and_longer_until_an_origin_is_quiet() {
        let mut refusals = Refusals::default();
        let here = Origin::from(IpAddr::from([192, 0, 2, 1]));
        let now = Instant::now();
        let delays: Vec<_> = (0..10)
            .map(|_| refusals.handle_refusal(here, now).as_millis())
            .collect();
        assert_eq!(delays, [0, 0, 0, 250, 500, 1000, 2000, 4000, 5000, 5000]);
        let other = Origin::from(IpAddr::from([192, 0, 2, 2]));
        assert_eq!(refusals.handle_refusal(other, now), Duration::ZERO);
        let later = now + FORGOTTEN_AFTER;
        assert_eq!(refusals.handle_refusal(here, later), Duration::ZERO);
    }

    #[test]
    fn many_origins_cost_no_more_than_the_bound() {
        let mut refusals = Refusals::default();
        let start = Instant::now();
        for number in 0..10_000_u32 {
            let origin = Origin::from(IpAddr::from(Ipv4Addr::from_bits(number)));
            refusals.handle_refusal(origin, start + Duration::from_micros(number.into()));
        }
        assert_eq!(refusals.known.len(), MAX_ORIGINS);
        assert_eq!(refusals.by_age.len(), MAX_ORIGINS);
    }
}
