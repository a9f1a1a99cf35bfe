//! Addresses as numbers, and ranges of them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::Error;

/// IPv4 or IPv6; a pool has one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    #[inline]
    pub(crate) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The address with this number.
    #[inline]
    pub(crate) fn address(self, number: u128) -> IpAddr {
        match self {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "the numbers of a v4 pool are those of its addresses"
            )]
            Self::V4 => IpAddr::V4(Ipv4Addr::from_bits(number as u32)),
            Self::V6 => IpAddr::V6(Ipv6Addr::from_bits(number)),
        }
    }
}

/// The number of an address, within its family.
#[inline]
pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Addresses from the first to the last, both included, of one family.
///
/// Made from an address, a prefix, or a range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

impl AddressRange {
    /// From the first to the last address.
    ///
    /// # Errors
    /// [`Error::BadRange`] where the two are of different families or in the wrong order.
    pub fn new(first: IpAddr, last: IpAddr) -> Result<Self, Error> {
        if Family::of(first) == Family::of(last) && first <= last {
            Ok(Self { first, last })
        } else {
            Err(Error::BadRange { first, last })
        }
    }

    /// The first address.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// The last address.
    pub fn last(&self) -> IpAddr {
        self.last
    }

    /// Whether the address is one of these.
    pub fn contains(&self, address: IpAddr) -> bool {
        Family::of(address) == Family::of(self.first) && self.first <= address && address <= self.last
    }

    pub(crate) fn family(&self) -> Family {
        Family::of(self.first)
    }
}

impl From<IpAddr> for AddressRange {
    fn from(address: IpAddr) -> Self {
        Self {
            first: address,
            last: address,
        }
    }
}

impl From<IpNet> for AddressRange {
    fn from(net: IpNet) -> Self {
        Self {
            first: net.network(),
            last: net.broadcast(),
        }
    }
}

impl TryFrom<RangeInclusive<IpAddr>> for AddressRange {
    type Error = Error;

    fn try_from(range: RangeInclusive<IpAddr>) -> Result<Self, Error> {
        Self::new(*range.start(), *range.end())
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// A set of numbers as disjoint runs: ordered, small while its members lie together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Runs(std::collections::BTreeMap<u128, u128>);

impl Runs {
    /// The last number of the run that holds this one.
    pub(crate) fn run_end(&self, number: u128) -> Option<u128> {
        let (_, &last) = self.0.range(..=number).next_back()?;
        (number <= last).then_some(last)
    }

    pub(crate) fn contains(&self, number: u128) -> bool {
        self.run_end(number).is_some()
    }

    /// Adds every number from `first` to `last`.
    pub(crate) fn insert(&mut self, mut first: u128, mut last: u128) {
        // Runs that touch the new one become part of it.
        while let Some((&start, &end)) = self.0.range(..=last.saturating_add(1)).next_back() {
            if end.saturating_add(1) < first {
                break;
            }
            self.0.remove(&start);
            first = first.min(start);
            last = last.max(end);
        }
        self.0.insert(first, last);
    }

    pub(crate) fn remove(&mut self, number: u128) {
        let Some((&first, &last)) = self.0.range(..=number).next_back() else {
            return;
        };
        if last < number {
            return;
        }
        self.0.remove(&first);
        if first < number {
            self.0.insert(first, number - 1);
        }
        if number < last {
            self.0.insert(number + 1, last);
        }
    }

    /// The lowest number from `from` on that is not in the set.
    pub(crate) fn next_gap(&self, from: u128) -> Option<u128> {
        match self.run_end(from) {
            None => Some(from),
            Some(last) => last.checked_add(1),
        }
    }

    /// The parts of the runs that lie from `first` to `last`.
    pub(crate) fn within(&self, first: u128, last: u128) -> impl Iterator<Item = (u128, u128)> {
        let reach = self
            .0
            .range(..=first)
            .next_back()
            .map_or(first, |(&start, _)| start);
        self.0
            .range(reach..=last)
            .map(move |(&start, &end)| (start.max(first), end.min(last)))
            .filter(|(start, end)| start <= end)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_are_a_set(steps in prop::collection::vec((any::<bool>(), 0u128..60, 0u128..6), 0..80)) {
            let (mut runs, mut model) = (Runs::default(), BTreeSet::new());
            for (add, number, more) in steps {
                if add {
                    runs.insert(number, number + more);
                    model.extend(number..=number + more);
                } else {
                    runs.remove(number);
                    model.remove(&number);
                }
                for number in 0..70 {
                    prop_assert_eq!(runs.contains(number), model.contains(&number));
                    let gap = (number..).find(|n| !model.contains(n));
                    prop_assert_eq!(runs.next_gap(number), gap);
                }
                prop_assert!(runs.within(5, 40).flat_map(|(a, b)| a..=b).eq(model.range(5..=40).copied()));
                let joined: Vec<_> = runs.0.iter().map(|(a, b)| (*a, *b)).collect();
                prop_assert!(joined.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0), "{:?}", joined);
            }
        }
    }

    #[test]
    fn the_end_of_the_number_line_has_no_gap_after_it() {
        let mut runs = Runs::default();
        runs.insert(u128::MAX - 1, u128::MAX);
        assert_eq!(runs.next_gap(u128::MAX), None);
        assert!(AddressRange::new("10.0.0.2".parse().unwrap(), "10.0.0.1".parse().unwrap()).is_err());
    }
}
