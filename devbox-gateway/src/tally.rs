use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::lobby::Origin;

/// Trouble that has not come again for so long is over. Longer than a handshake may take, so that a crowd that is cut at
/// its deadline is counted.
const QUIET: Duration = Duration::from_secs(15);

/// Trouble that goes on is told about again after this.
const AGAIN: Duration = Duration::from_secs(60);

/// Origins that are told by name at a time; the rest is told as one.
const MAX_NAMED: usize = 64;

/// What may come by the thousand and is told as one. `None` stands for all origins beyond those that are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trouble {
    /// An origin has many connections in the lobby. Those that are dropped are counted.
    Crowd(Option<Origin>),
    /// Tokens are refused.
    RefusedTokens(Option<Origin>),
    /// There are as many clients as there may be. Those that are turned away are counted.
    Full,
    /// Connections cannot be accepted.
    CannotAccept,
}

/// Counts trouble: each kind is told when it begins, when it is over, and now and then in between.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    going_on: BTreeMap<Trouble, Count>,
}

#[derive(Debug)]
struct Count {
    untold: u64,
    last: Instant,
    told: Instant,
}

/// How often some trouble came since it was told about.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) trouble: Trouble,
    pub(crate) count: u64,
    pub(crate) over: bool,
}

impl Tally {
    /// Trouble came, `count` times. The trouble to tell about, if this is its beginning; that counts as told.
    pub(crate) fn note(&mut self, trouble: Trouble, count: u64, now: Instant) -> Option<Trouble> {
        let trouble = if self.going_on.len() >= MAX_NAMED && !self.is_going_on(trouble) {
            match trouble {
                Trouble::Crowd(_) => Trouble::Crowd(None),
                Trouble::RefusedTokens(_) => Trouble::RefusedTokens(None),
                other => other,
            }
        } else {
            trouble
        };
        if let Some(going_on) = self.going_on.get_mut(&trouble) {
            going_on.untold += count;
            going_on.last = now;
            return None;
        }
        let begun = Count {
            untold: 0,
            last: now,
            told: now,
        };
        self.going_on.insert(trouble, begun);
        Some(trouble)
    }

    /// Whether trouble has begun and is not over.
    pub(crate) fn is_going_on(&self, trouble: Trouble) -> bool {
        self.going_on.contains_key(&trouble)
    }

    /// The next count to tell about, with time passing.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Told> {
        let due = |(trouble, count): (&Trouble, &Count)| {
            let over = now.saturating_duration_since(count.last) >= QUIET;
            let again = count.untold > 0 && now.saturating_duration_since(count.told) >= AGAIN;
            (over || again).then_some((*trouble, over))
        };
        let (trouble, over) = self.going_on.iter().find_map(due)?;
        let count = if over {
            self.going_on.remove(&trouble)?.untold
        } else {
            let going_on = self.going_on.get_mut(&trouble)?;
            going_on.told = now;
            std::mem::take(&mut going_on.untold)
        };
        Some(Told { trouble, count, over })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn origin(number: u32) -> Option<Origin> {
        Some(IpAddr::from(Ipv4Addr::from_bits(number)).into())
    }

    #[test]
    fn trouble_is_told_when_it_begins_and_counted_when_it_is_over() {
        let mut tally = Tally::default();
        let (start, refused) = (Instant::now(), Trouble::RefusedTokens(origin(1)));
        assert_eq!(tally.note(refused, 1, start), Some(refused));
        for second in 0..50 {
            let now = start + Duration::from_secs(second);
            assert_eq!(tally.note(refused, 100, now), None);
            assert_eq!(tally.poll(now), None);
        }
        let over = Told {
            trouble: refused,
            count: 5000,
            over: true,
        };
        assert_eq!(tally.poll(start + Duration::from_secs(64)), Some(over));
        assert_eq!(tally.poll(start + Duration::from_secs(600)), None);
        assert_eq!(
            tally.note(refused, 1, start + Duration::from_secs(600)),
            Some(refused)
        );
    }

    #[test]
    fn trouble_that_goes_on_is_counted_now_and_then() {
        let mut tally = Tally::default();
        let start = Instant::now();
        tally.note(Trouble::Full, 1, start);
        let mut told = Vec::new();
        for second in 1..=180 {
            let now = start + Duration::from_secs(second);
            tally.note(Trouble::Full, 1, now);
            told.extend(tally.poll(now));
        }
        let once_more = |told: &Told| told.count == 60 && !told.over;
        assert!(told.len() == 3 && told.iter().all(once_more), "{told:?}");
    }

    #[test]
    fn beyond_a_bound_origins_are_told_as_one() {
        let mut tally = Tally::default();
        let now = Instant::now();
        let begun =
            (0..10_000).filter_map(|number| tally.note(Trouble::RefusedTokens(origin(number)), 1, now));
        assert_eq!(begun.count(), MAX_NAMED + 1);
        let all = Told {
            trouble: Trouble::RefusedTokens(None),
            count: 10_000 - MAX_NAMED as u64 - 1,
            over: true,
        };
        assert_eq!(tally.poll(now + QUIET), Some(all));
    }
}
