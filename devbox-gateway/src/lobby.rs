use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// Whom a connection is counted with: an IPv4 address, or the /64 of an IPv6 one, since whoever has one address of such
/// a network has them all (RFC 6177 §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Origin(IpAddr);

impl From<IpAddr> for Origin {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
            address => address,
        })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => address.fmt(f),
            IpAddr::V6(network) => write!(f, "{network}/64"),
        }
    }
}

/// A connection in the lobby. Later ones are larger.
pub(crate) type Guest = u64;

/// The connections that have shown no token yet, or one that is not taken.
///
/// Everybody comes in. Where there is no room, the oldest one leaves: of the newcomer's own origin if that has as many
/// as one may have, otherwise of the origin that has most. So whoever opens connections without end pushes out their
/// own, and a client that shows its token within a moment is not held up. Connections whose token was refused leave
/// before all others.
#[derive(Debug)]
pub(crate) struct Lobby {
    max: usize,
    max_per_origin: usize,
    arrived: Guest,
    guests: BTreeMap<Guest, (Origin, Standing)>,
    /// In the order of leaving.
    lines: BTreeMap<Origin, BTreeSet<Place>>,
    /// Last the longest line; of two the one whose first waits longer.
    by_length: BTreeSet<(usize, Reverse<Place>, Origin)>,
}

/// Where a guest stands in its origin's line: the smallest leaves first.
type Place = (Standing, Guest);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Refused,
    Asking,
}

/// What came of an arrival.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entered {
    pub(crate) guest: Guest,
    /// Who had to leave for it.
    pub(crate) evicted: Option<(Guest, Origin)>,
    /// How many its origin has here, itself included.
    pub(crate) of_origin: usize,
}

impl Lobby {
    /// A lobby for `max` connections, and for `max_per_origin` of one origin; at least one of each.
    pub(crate) fn new(max: usize, max_per_origin: usize) -> Self {
        Self {
            max: max.max(1),
            max_per_origin: max_per_origin.max(1),
            arrived: 0,
            guests: BTreeMap::new(),
            lines: BTreeMap::new(),
            by_length: BTreeSet::new(),
        }
    }

    /// How many connections are here.
    pub(crate) fn len(&self) -> usize {
        self.guests.len()
    }

    /// A connection came.
    pub(crate) fn enter(&mut self, origin: Origin) -> Entered {
        let of_origin = self.lines.get(&origin).map_or(0, BTreeSet::len);
        let evicted = if of_origin >= self.max_per_origin {
            self.evict_of(origin)
        } else if self.guests.len() >= self.max {
            self.evict()
        } else {
            None
        };
        self.arrived += 1;
        let guest = self.arrived;
        self.put(guest, origin, Standing::Asking);
        Entered {
            guest,
            evicted,
            of_origin: self.lines.get(&origin).map_or(0, BTreeSet::len),
        }
    }

    /// Makes room for something else, at the cost of the origin that has most here.
    pub(crate) fn evict(&mut self) -> Option<(Guest, Origin)> {
        let (_, _, origin) = *self.by_length.last()?;
        self.evict_of(origin)
    }

    /// A guest's token was refused; it waits for its answer. Whether it is here: one that had to leave before gets none.
    #[must_use]
    pub(crate) fn refuse(&mut self, guest: Guest) -> bool {
        let origin = self.leave(guest);
        if let Some(origin) = origin {
            self.put(guest, origin, Standing::Refused);
        }
        origin.is_some()
    }

    /// A guest is gone, wherever to. Where it came from, unless it had left before.
    pub(crate) fn leave(&mut self, guest: Guest) -> Option<Origin> {
        let (origin, standing) = self.guests.remove(&guest)?;
        self.change(origin, |line| line.remove(&(standing, guest)));
        Some(origin)
    }

    fn put(&mut self, guest: Guest, origin: Origin, standing: Standing) {
        self.guests.insert(guest, (origin, standing));
        self.change(origin, |line| line.insert((standing, guest)));
    }

    fn evict_of(&mut self, origin: Origin) -> Option<(Guest, Origin)> {
        let (_, guest) = *self.lines.get(&origin)?.first()?;
        self.leave(guest);
        Some((guest, origin))
    }

    fn change(&mut self, origin: Origin, change: impl FnOnce(&mut BTreeSet<Place>) -> bool) {
        let rank = |line: &BTreeSet<_>| Some((line.len(), Reverse(*line.first()?), origin));
        let line = self.lines.entry(origin).or_default();
        if let Some(before) = rank(line) {
            self.by_length.remove(&before);
        }
        change(line);
        match rank(line) {
            Some(after) => {
                self.by_length.insert(after);
            }
            None => {
                self.lines.remove(&origin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn origin(text: &str) -> Origin {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn an_origin_is_an_ipv4_address_or_an_ipv6_network() {
        assert_eq!(origin("192.0.2.1"), origin("::ffff:192.0.2.1"));
        assert_ne!(origin("192.0.2.1"), origin("192.0.2.2"));
        assert_eq!(origin("2001:db8:1:2::1"), origin("2001:db8:1:2:ffff::9"));
        assert_ne!(origin("2001:db8:1:2::1"), origin("2001:db8:1:3::1"));
        assert_eq!(origin("2001:db8:1:2::1").to_string(), "2001:db8:1:2::/64");
        assert_eq!(origin("192.0.2.1").to_string(), "192.0.2.1");
    }

    #[test]
    fn an_origin_at_its_limit_pushes_out_its_own_oldest() {
        let mut lobby = Lobby::new(10, 2);
        let (busy, other) = (origin("192.0.2.1"), origin("192.0.2.2"));
        let first = lobby.enter(other);
        let second = lobby.enter(busy);
        let third = lobby.enter(busy);
        assert_eq!((third.of_origin, third.evicted), (2, None));
        let fourth = lobby.enter(busy);
        assert_eq!(
            (fourth.of_origin, fourth.evicted),
            (2, Some((second.guest, busy)))
        );
        assert_eq!(lobby.leave(second.guest), None, "it has left");
        assert_eq!(lobby.leave(first.guest), Some(other));
    }

    #[test]
    fn a_full_lobby_takes_from_the_origin_that_has_most() {
        let mut lobby = Lobby::new(4, 3);
        let (busy, other) = (origin("192.0.2.1"), origin("192.0.2.9"));
        let lone = lobby.enter(other).guest;
        let oldest = lobby.enter(busy).guest;
        lobby.enter(busy);
        lobby.enter(busy);
        let late = lobby.enter(origin("192.0.2.5"));
        assert_eq!(late.evicted, Some((oldest, busy)));
        assert!(lobby.leave(lone).is_some());
        // Where all have as many, whoever waits longest.
        let mut lobby = Lobby::new(2, 2);
        let oldest = lobby.enter(other).guest;
        lobby.enter(busy);
        assert_eq!(lobby.enter(origin("192.0.2.5")).evicted, Some((oldest, other)));
    }

    #[test]
    fn whose_token_was_refused_leaves_first() {
        let mut lobby = Lobby::new(10, 3);
        let here = origin("192.0.2.1");
        let asking = lobby.enter(here).guest;
        let refused = lobby.enter(here).guest;
        assert!(lobby.refuse(refused));
        lobby.enter(here);
        assert_eq!(lobby.enter(here).evicted, Some((refused, here)));
        assert!(!lobby.refuse(refused), "it has left");
        assert_eq!(lobby.enter(here).evicted, Some((asking, here)));
    }

    #[test]
    fn a_client_stays_until_as_many_others_have_come_as_its_origin_may_have() {
        let mut lobby = Lobby::new(100, 64);
        let here = origin("192.0.2.1");
        for _ in 0..1000 {
            lobby.enter(here);
        }
        let client = lobby.enter(here).guest;
        for _ in 0..63 {
            assert_ne!(lobby.enter(here).evicted.map(|(guest, _)| guest), Some(client));
        }
        assert_eq!(lobby.enter(here).evicted, Some((client, here)));
    }

    proptest! {
        #[test]
        fn the_limits_hold_and_nobody_is_counted_twice(steps in prop::collection::vec((0..4_u8, 0..6_u8), 1..200)) {
            let mut lobby = Lobby::new(8, 4);
            let (mut here, mut gone) = (BTreeMap::new(), Vec::new());
            for (what, which) in steps {
                let some = here.keys().nth(usize::from(which)).copied();
                match (what, some) {
                    (0, Some(guest)) => {
                        prop_assert_eq!(lobby.leave(guest), here.remove(&guest));
                        gone.push(guest);
                    }
                    (1, Some(guest)) => prop_assert!(lobby.refuse(guest)),
                    _ => {
                        let origin = Origin::from(IpAddr::from([192, 0, 2, which]));
                        let entered = lobby.enter(origin);
                        if let Some((guest, of)) = entered.evicted {
                            prop_assert_eq!(here.remove(&guest), Some(of));
                            gone.push(guest);
                        }
                        here.insert(entered.guest, origin);
                        let of_origin = here.values().filter(|of| **of == origin).count();
                        prop_assert_eq!(entered.of_origin, of_origin);
                        prop_assert!(of_origin <= 4 && here.len() <= 8);
                    }
                }
                // Who is gone does not come back by a refusal that is late.
                prop_assert!(gone.iter().all(|guest| !lobby.refuse(*guest)));
                prop_assert_eq!(lobby.guests.len(), here.len());
                prop_assert_eq!(lobby.lines.len(), lobby.by_length.len());
                prop_assert_eq!(lobby.lines.values().map(BTreeSet::len).sum::<usize>(), here.len());
            }
            while lobby.evict().is_some() {}
            prop_assert!(lobby.lines.is_empty() && lobby.by_length.is_empty() && lobby.guests.is_empty());
        }
    }
}
