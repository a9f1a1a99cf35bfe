//! Which of a name's addresses to try, and when (RFC 8305): a pure state machine.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long an attempt has before the next one starts beside it (RFC 8305 §5, Connection Attempt Delay).
pub(crate) const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// A name with more addresses than these has the others left out: each attempt is a socket.
pub(crate) const MAX_ADDRESSES: usize = 64;

/// A race of connection attempts: `poll_attempt` says which one to start, `handle_failure` takes its end. The first one
/// that connects wins, and its owner drops the race and the other attempts.
#[derive(Debug)]
pub(crate) struct Race {
    waiting: VecDeque<SocketAddr>,
    running: BTreeMap<usize, SocketAddr>,
    /// When the next attempt may start; `None` once all have.
    next_at: Option<Instant>,
    started: usize,
}

/// An attempt to be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// Names it to the race.
    pub(crate) number: usize,
    pub(crate) address: SocketAddr,
}

impl Race {
    /// A race over the addresses of a name, in the order in which the resolver gave them, which is the system's order of
    /// preference (RFC 6724). It begins at once.
    pub(crate) fn new(addresses: impl IntoIterator<Item = SocketAddr>, now: Instant) -> Race {
        let waiting = interleaved(addresses);
        Race {
            next_at: (!waiting.is_empty()).then_some(now),
            waiting,
            running: BTreeMap::new(),
            started: 0,
        }
    }

    /// The next attempt, if it is time for it. To be asked again until there is none.
    pub(crate) fn poll_attempt(&mut self, now: Instant) -> Option<Attempt> {
        if self.next_at? > now {
            return None;
        }
        let address = self.waiting.pop_front()?;
        let number = self.started;
        self.started += 1;
        self.running.insert(number, address);
        self.next_at = (!self.waiting.is_empty()).then(|| now + ATTEMPT_DELAY);
        Some(Attempt { number, address })
    }

    /// When to call [`poll_attempt`](Race::poll_attempt) again if nothing happens.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.next_at
    }

    /// An attempt failed: nobody waits for the delay before the next one (RFC 8305 §5).
    pub(crate) fn handle_failure(&mut self, number: usize, now: Instant) {
        if self.running.remove(&number).is_some() && !self.waiting.is_empty() {
            self.next_at = Some(now);
        }
    }

    /// The attempts that have neither connected nor failed, in the order in which they started.
    pub(crate) fn running(&self) -> impl Iterator<Item = SocketAddr> {
        self.running.values().copied()
    }

    /// Whether every attempt has failed.
    pub(crate) fn is_lost(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }
}

/// The addresses with the families taking turns, beginning with the first one's (RFC 8305 §4); each address once.
fn interleaved(addresses: impl IntoIterator<Item = SocketAddr>) -> VecDeque<SocketAddr> {
    let mut seen = BTreeSet::new();
    let mut queues: [VecDeque<SocketAddr>; 2] = Default::default();
    let mut first_is_v6 = None;
    for address in addresses {
        let is_v6 = *first_is_v6.get_or_insert(address.is_ipv6()) != address.is_ipv6();
        if seen.len() < MAX_ADDRESSES && seen.insert(address) {
            queues[usize::from(is_v6)].push_back(address);
        }
    }
    let [mut first, mut second] = queues;
    let mut ordered = VecDeque::with_capacity(seen.len());
    while !first.is_empty() || !second.is_empty() {
        ordered.extend(first.pop_front());
        ordered.extend(second.pop_front());
    }
    ordered
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v4(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 80))
    }

    fn v6(last: u16) -> SocketAddr {
        SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, last], 80))
    }

    #[test]
    fn the_families_take_turns_and_the_first_one_is_the_resolvers() {
        let ordered = |addresses: &[SocketAddr]| Vec::from(interleaved(addresses.iter().copied()));
        assert_eq!(
            ordered(&[v6(1), v6(2), v6(3), v4(1), v6(1), v4(2)]),
            [v6(1), v4(1), v6(2), v4(2), v6(3)]
        );
        assert_eq!(ordered(&[v4(1), v4(2), v6(1)]), [v4(1), v6(1), v4(2)]);
        assert!(ordered(&[]).is_empty());
    }

    #[test]
    fn a_silent_address_delays_the_next_by_a_quarter_of_a_second_and_a_failed_one_not_at_all() {
        let begin = Instant::now();
        let mut race = Race::new([v6(1), v4(1), v4(2)], begin);
        assert_eq!(race.poll_attempt(begin).unwrap().address, v6(1));
        assert_eq!(race.poll_attempt(begin), None);
        assert_eq!(race.poll_timeout(), Some(begin + ATTEMPT_DELAY));
        let later = begin + ATTEMPT_DELAY;
        let second = race.poll_attempt(later).unwrap();
        assert_eq!(second.address, v4(1));
        race.handle_failure(second.number, later);
        assert_eq!(race.poll_attempt(later).unwrap().address, v4(2));
        assert_eq!(race.running().collect::<Vec<_>>(), [v6(1), v4(2)]);
        assert_eq!((race.poll_timeout(), race.is_lost()), (None, false));
    }

    #[derive(Debug, Clone)]
    enum Happening {
        Wait(u64),
        Fail(usize),
    }

    proptest! {
        /// Whatever fails and when: each address is tried once, in order; two attempts are a delay apart unless one
        /// failed between them; a race with addresses left always says when it goes on; and it is lost only after all failed.
        #[test]
        fn each_address_is_tried_once_and_none_is_forgotten(
            addresses in proptest::collection::vec((any::<bool>(), 0u8..12), 0..40),
            happenings in proptest::collection::vec(
                prop_oneof![(0u64..400).prop_map(Happening::Wait), (0usize..40).prop_map(Happening::Fail)], 0..200),
        ) {
            let addresses: Vec<_> = addresses
                .into_iter()
                .map(|(is_v6, last)| if is_v6 { v6(last.into()) } else { v4(last) })
                .collect();
            let mut now = Instant::now();
            let mut race = Race::new(addresses.clone(), now);
            let expected = Vec::from(interleaved(addresses.clone()));
            prop_assert_eq!(expected.iter().collect::<BTreeSet<_>>(), addresses.iter().collect::<BTreeSet<_>>());
            let (mut tried, mut failed) = (Vec::new(), BTreeSet::new());
            let mut allowed_from = now;
            for happening in happenings {
                while let Some(attempt) = race.poll_attempt(now) {
                    prop_assert!(now >= allowed_from);
                    prop_assert_eq!(attempt.number, tried.len());
                    tried.push(attempt.address);
                    allowed_from = now + ATTEMPT_DELAY;
                }
                prop_assert_eq!(race.is_lost(), tried.len() == expected.len() && failed.len() == tried.len());
                prop_assert_eq!(race.poll_timeout().is_some(), tried.len() < expected.len());
                match happening {
                    Happening::Wait(ms) => now += Duration::from_millis(ms),
                    Happening::Fail(number) => {
                        race.handle_failure(number, now);
                        if number < tried.len() && failed.insert(number) {
                            allowed_from = now;
                        }
                    }
                }
                prop_assert_eq!(race.running().count(), tried.len() - failed.len());
            }
            prop_assert_eq!(&tried[..], &expected[..tried.len()]);
        }
    }
}
