//! What an allocator tells about itself.

use std::net::IpAddr;
use std::num::NonZeroU16;

use serde::Serialize;

use super::{Allocator, Entry, Hold};
use crate::address::AddressRange;
use crate::{Key, Strategy, Timestamp};

/// A live lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lease<'a> {
    /// Whose it is.
    pub key: &'a Key,
    /// The address.
    pub address: IpAddr,
    /// Since when.
    pub since: Timestamp,
}

/// An address that was released and is kept from other keys for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rest<'a> {
    /// Whose it was.
    pub key: &'a Key,
    /// The address.
    pub address: IpAddr,
    /// When it was released.
    pub since: Timestamp,
    /// From when on another key may have it.
    pub until: Timestamp,
}

/// How full a pool is, and how likely it is that keys want the same address.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// The prefixes.
    pub pool: String,
    /// Addresses that can be given.
    pub usable: u128,
    /// Keys that hold a lease.
    pub keys: usize,
    /// Addresses that are held.
    pub leased: usize,
    /// Addresses that rest.
    pub resting: usize,
    /// Keys with a pin.
    pub pinned: usize,
    /// Keys in the lock file.
    pub locked: usize,
    /// Held and resting addresses among the usable ones, from 0 to 1: by hash, the chance that the next key finds its first choice taken.
    pub fill: f64,
    /// The chance that so many keys as are live, in a pool of this size, do not all have a first choice of their own: `1 - e^(-n(n-1)/2N)`.
    /// 0 with [`Strategy::LowestFree`], which has no first choice.
    pub collision_odds: f64,
    /// Live keys by hash that do not have the address that their hash points at.
    pub displaced: usize,
}

impl Allocator {
    /// The live leases, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = Lease<'_>> {
        let family = self.pool.family();
        self.slots.live_entries().map(move |entry| Lease {
            key: &entry.key,
            address: family.address(entry.number()),
            since: entry.at,
        })
    }

    /// The addresses at rest, from the one that was released first.
    pub fn resting(&self) -> impl Iterator<Item = Rest<'_>> {
        self.slots.resting_entries().map(|entry| Rest {
            key: &entry.key,
            address: self.pool.family().address(entry.number()),
            since: entry.at,
            until: entry.at.plus(self.pool.quarantine()),
        })
    }

    /// The address that a key's pin gives it, or its line in the lock file, whether it is leased or not.
    pub fn fixed(&self, key: &Key) -> Option<IpAddr> {
        let number = self.fixed.of(key)?;
        Some(self.pool.family().address(number))
    }

    /// The pins, by key.
    pub fn pins(&self) -> impl Iterator<Item = (&Key, IpAddr)> {
        self.fixed
            .pins()
            .iter()
            .map(|(key, number)| (key, self.pool.family().address(*number)))
    }

    /// The lines of the lock file in force, by key.
    pub fn locked(&self) -> impl Iterator<Item = (&Key, IpAddr)> {
        self.fixed
            .locks()
            .iter()
            .map(|(key, number)| (key, self.pool.family().address(*number)))
    }

    /// What was reserved beside what the pool itself reserves.
    pub fn reservations(&self) -> impl Iterator<Item = AddressRange> {
        self.reservations.iter().copied()
    }

    /// The ports that a key holds at its address, and how often each.
    pub fn ports(&self, key: &Key) -> impl Iterator<Item = (NonZeroU16, u32)> {
        self.get(key)
            .map(|address| self.held_ports(key, address))
            .unwrap_or_default()
            .into_iter()
    }

    pub(crate) fn live(&self) -> impl Iterator<Item = &Entry> {
        self.slots.live_entries()
    }

    pub(crate) fn at_rest(&self) -> impl Iterator<Item = &Entry> {
        self.slots.resting_entries()
    }

    pub(crate) fn entry_count(&self) -> usize {
        self.slots.live() + self.slots.resting()
    }

    pub(crate) fn all_ports(&self) -> impl Iterator<Item = (IpAddr, NonZeroU16, &Hold)> {
        self.ports
            .iter()
            .map(|(number, port, hold)| (self.pool.family().address(number), port, hold))
    }

    /// How full the pool is. Looks at every lease.
    pub fn stats(&self) -> Stats {
        let usable = self.pool.usable_without(&self.reserved);
        let (keys, resting) = (self.slots.live(), self.slots.resting());
        let by_hash = self.pool.strategy() == Strategy::ByHash;
        let displaced = |lease: &Lease<'_>| self.pool.first_choice(lease.key) != lease.address;
        Stats {
            pool: self.pool.to_string(),
            usable,
            keys,
            leased: self.slots.addresses() - resting,
            resting,
            pinned: self.fixed.pins().len(),
            locked: self.fixed.locks().len(),
            fill: self.slots.addresses() as f64 / usable as f64,
            collision_odds: if by_hash {
                collision_odds(keys, self.pool.size())
            } else {
                0.0
            },
            displaced: if by_hash {
                self.iter().filter(displaced).count()
            } else {
                0
            },
        }
    }
}

/// The chance that of `keys` hashed into `size` addresses any two have the same first choice.
fn collision_odds(keys: usize, size: u128) -> f64 {
    let keys = keys as f64;
    (-keys * (keys - 1.0) / (2.0 * size as f64)).exp_m1().abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_odds_are_those_that_the_docs_state() {
        let odds = |keys, size| (collision_odds(keys, size) * 1000.0).round() / 1000.0;
        assert_eq!(odds(20, 254), 0.527);
        assert_eq!(odds(50, 65_024), 0.019);
        assert_eq!(odds(100, 65_024), 0.073);
        assert_eq!(odds(250, 65_024), 0.38);
        assert_eq!(odds(250, 16_646_144), 0.002);
        assert!(odds(0, 254).is_sign_positive());
        assert_eq!(odds(0, 254), 0.0);
        assert_eq!(odds(1, 254), 0.0);
    }
}
