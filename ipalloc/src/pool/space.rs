//! The addresses of a pool, numbered from 0 without gaps: what a hash is scaled to.

use ipnet::IpNet;

use crate::address::{Family, Runs, number};

/// The addresses of a pool as places 0 to `len` - 1, in the order of their numbers.
#[derive(Clone, Debug)]
pub(crate) struct Space {
    family: Family,
    segments: Vec<Segment>,
    len: u128,
}

/// A stretch of places.
#[derive(Clone, Copy, Debug)]
struct Segment {
    /// The place of its first address.
    start: u128,
    len: u128,
    /// The number of its first address; with `skips_edges` that of the .0 before it.
    base: u128,
    /// Whole /24s of which .0 and .255 are passed over.
    skips_edges: bool,
}

/// What remains of 256 addresses without .0 and .255.
const INNER: u64 = 254;

impl Segment {
    fn number(&self, place: u128) -> u128 {
        let at = place - self.start;
        // Only v4 segments skip, and their places fit in 64 bits, in which division is quick.
        match u64::try_from(at) {
            Ok(at) if self.skips_edges => self.base + u128::from(at / INNER * 256 + at % INNER + 1),
            _ => self.base + at,
        }
    }

    /// How many of its addresses have a number below this one.
    fn below(&self, number: u128) -> u128 {
        let Some(at) = number.checked_sub(self.base) else {
            return 0;
        };
        let inner = u128::from(INNER);
        let below = if self.skips_edges {
            at / 256 * inner + (at % 256).saturating_sub(1).min(inner)
        } else {
            at
        };
        below.min(self.len)
    }

    fn place(&self, number: u128) -> Option<u128> {
        let place = self.start + self.below(number);
        (place < self.start + self.len && self.number(place) == number).then_some(place)
    }
}

impl Space {
    /// The addresses of `prefixes`, which are sorted and disjoint, without network and broadcast.
    pub(crate) fn new(family: Family, prefixes: &[IpNet], avoid_edge_octets: bool) -> Self {
        let mut space = Self {
            family,
            segments: Vec::new(),
            len: 0,
        };
        for prefix in prefixes {
            let host_bits = prefix.max_prefix_len() - prefix.prefix_len();
            let (mut first, mut last) = (number(prefix.network()), number(prefix.broadcast()));
            if avoid_edge_octets && family == Family::V4 {
                if host_bits >= 8 {
                    space.push(first, (last - first).div_ceil(256) * u128::from(INNER), true);
                    continue;
                }
                // Within one /24.
                first = first.max(first / 256 * 256 + 1);
                last = last.min(last / 256 * 256 + 254);
            }
            if host_bits >= 2 {
                first = first.max(number(prefix.network()) + 1);
                if family == Family::V4 {
                    last = last.min(number(prefix.broadcast()) - 1);
                }
            }
            if first <= last {
                space.push(first, last - first + 1, false);
            }
        }
        space
    }

    fn push(&mut self, base: u128, len: u128, skips_edges: bool) {
        self.segments.push(Segment {
            start: self.len,
            len,
            base,
            skips_edges,
        });
        self.len += len;
    }

    pub(crate) fn family(&self) -> Family {
        self.family
    }

    /// How many places there are.
    pub(crate) fn len(&self) -> u128 {
        self.len
    }

    /// The number of the address at a place.
    pub(crate) fn number(&self, place: u128) -> u128 {
        let after = self.segments.partition_point(|segment| segment.start <= place);
        self.segments
            .get(after.saturating_sub(1))
            .map_or(0, |segment| segment.number(place))
    }

    /// The place of the address with this number.
    pub(crate) fn place(&self, number: u128) -> Option<u128> {
        let after = self.segments.partition_point(|segment| segment.base <= number);
        self.segments.get(after.checked_sub(1)?)?.place(number)
    }

    /// How many places have one of these addresses.
    pub(crate) fn count_places(&self, numbers: &Runs) -> u128 {
        self.places(numbers).map(|(first, last)| last - first + 1).sum()
    }

    /// The places that have one of these addresses, as runs from first to last.
    pub(crate) fn places(&self, numbers: &Runs) -> impl Iterator<Item = (u128, u128)> {
        self.segments.iter().flat_map(move |segment| {
            let end = segment.number(segment.start + segment.len - 1);
            numbers
                .within(segment.base, end)
                .filter_map(move |(first, last)| {
                    let (from, to) = (segment.below(first), segment.below(last.saturating_add(1)));
                    // The highest v6 address has no number after it.
                    let to = if last == u128::MAX { segment.len } else { to };
                    (from < to).then(|| (segment.start + from, segment.start + to - 1))
                })
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn space(prefixes: &[&str], avoid: bool) -> Space {
        let prefixes: Vec<IpNet> = prefixes.iter().map(|text| text.parse().unwrap()).collect();
        Space::new(Family::of(prefixes[0].addr()), &prefixes, avoid)
    }

    #[test]
    fn the_numbers_of_addresses_are_those_of_the_issue() {
        assert_eq!(space(&["127.77.0.0/16"], true).len(), 65_024);
        assert_eq!(space(&["127.77.0.0/16"], false).len(), 65_534);
        assert_eq!(space(&["127.0.0.0/8"], true).len(), 256 * 256 * 254);
        assert_eq!(space(&["10.107.5.128/25"], false).len(), 126);
        assert_eq!(space(&["10.107.5.128/25"], true).len(), 126);
        assert_eq!(space(&["10.107.5.0/25"], true).len(), 126);
        assert_eq!(space(&["10.0.0.4/30"], false).len(), 2);
        assert_eq!(space(&["10.0.0.4/31"], false).len(), 2);
        assert_eq!(space(&["10.0.0.4/32"], false).len(), 1);
        assert_eq!(space(&["10.0.0.0/32"], true).len(), 0);
        assert_eq!(space(&["fd00::/64"], true).len(), (1 << 64) - 1);
        assert_eq!(space(&["fd00::/107"], true).len(), (1 << 21) - 1);
        assert_eq!(space(&["fd00::/127"], true).len(), 2);
        assert_eq!(space(&["fd00::/128"], true).len(), 1);
        assert_eq!(space(&["::/0"], true).len(), u128::MAX);
    }

    proptest! {
        #[test]
        fn places_and_numbers_are_one_to_one(bits in 8u8..=32, avoid: bool, at: u32) {
            let prefix = IpNet::new("10.107.5.128".parse().unwrap(), bits).unwrap().trunc();
            let other = IpNet::new("192.168.7.9".parse().unwrap(), bits).unwrap().trunc();
            let space = Space::new(Family::V4, &[prefix, other], avoid);
            let place = u128::from(at) % space.len();
            let number = space.number(place);
            prop_assert_eq!(space.place(number), Some(place));
            if avoid {
                prop_assert!(!matches!(number % 256, 0 | 255));
            }
            // Every number is that of one place or of none, and the order is kept.
            let near: Vec<_> = (number.saturating_sub(600)..number + 600).filter_map(|n| space.place(n)).collect();
            prop_assert!(near.windows(2).all(|pair| pair[0] + 1 == pair[1]));
        }

        #[test]
        fn places_of_runs_are_those_of_their_numbers(avoid: bool, ranges in prop::collection::vec((0u128..1200, 0u128..300), 0..6)) {
            let space = space(&["10.0.0.0/23", "10.0.3.0/25"], avoid);
            let base = number("10.0.0.0".parse().unwrap());
            let mut runs = Runs::default();
            for (from, more) in ranges {
                runs.insert(base + from, base + from + more);
            }
            let expected = (0..space.len()).filter(|place| runs.contains(space.number(*place))).collect::<Vec<_>>();
            let found: Vec<_> = space.places(&runs).flat_map(|(first, last)| first..=last).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
