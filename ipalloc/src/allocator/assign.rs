//! The map that a set of keys has by itself, whatever was leased when; and where the live map differs from it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

use super::Allocator;
use crate::free::{BitTree, Free};
use crate::{Error, Key, Strategy};

/// A live key whose address is not the one that [`Allocator::assign`] gives it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Difference {
    /// The key.
    pub key: Key,
    /// The address that it holds.
    pub live: IpAddr,
    /// The address that it has among these keys by the rule.
    pub assigned: IpAddr,
    /// What makes the difference.
    pub reason: Reason,
}

/// Why a live key does not have its assigned address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
#[non_exhaustive]
pub enum Reason {
    /// The key was live before it was pinned or locked elsewhere, or its address was not usable.
    Fixed,
    /// Another key holds the assigned address.
    Held {
        /// Which one.
        by: Key,
    },
    /// The assigned address rests after another key had it.
    Resting {
        /// Which one.
        after: Key,
    },
    /// The assigned address is free: it became so after the key was leased, or was not usable then.
    Free,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed => f.write_str("pinned or locked there"),
            Self::Held { by } => write!(f, "held by {by}"),
            Self::Resting { after } => write!(f, "rests after {after}"),
            Self::Free => f.write_str("free"),
        }
    }
}

impl Allocator {
    /// The map that these keys have by themselves. It is a function of the set (and of the pool, pins, lock file and reservations) alone: any order and
    /// any machine gives the same, whatever is live or rests.
    ///
    /// Pinned and locked keys have their addresses; nobody else has them, even where their keys are not in the set. By hash, each of
    /// the others then has the first address from its [first choice](crate::Pool::first_choice) upwards (going round) that no key with
    /// a smaller (hash, key) has: where two keys want one address, the smaller (hash, key) wins it. Lowest free, the others have the free
    /// addresses from the lowest up in the order of the keys.
    ///
    /// # Errors
    /// [`Error::PoolExhausted`]
    pub fn assign<'k>(
        &self,
        keys: impl IntoIterator<Item = &'k Key>,
    ) -> Result<BTreeMap<Key, IpAddr>, Error> {
        let by_hash = self.pool.strategy() == Strategy::ByHash;
        let family = self.pool.family();
        let mut assigned = Vec::new();
        let mut rest = Vec::new();
        for key in keys {
            match self.fixed.of(key) {
                Some(number) => assigned.push((key.clone(), family.address(number))),
                None => rest.push((if by_hash { self.pool.hash(key) } else { 0 }, key)),
            }
        }
        rest.sort_unstable();
        rest.dedup();

        let (space, len) = (self.pool.space(), self.pool.size());
        let mut free = Free::new(len, !by_hash);
        if free.outgrown(rest.len()) {
            free = Free::Bits(BitTree::new(len));
        }
        for (first, last) in space.places(&self.reserved) {
            free.reserve(first, last);
        }
        // What `Free` does not know itself in a large pool.
        let mut taken = HashMap::new();
        for place in self.fixed.numbers().filter_map(|number| space.place(number)) {
            free.set(place, true);
            taken.insert(place, ());
        }
        for (hash, key) in rest {
            let from = if by_hash { self.pool.place_of_hash(hash) } else { 0 };
            let Some(place) = free.next_round(from, |place| taken.contains_key(&place)) else {
                let (pool, leased) = (self.pool.to_string(), assigned.len());
                return Err(Error::PoolExhausted {
                    pool,
                    leased,
                    resting: 0,
                });
            };
            free.set(place, true);
            if matches!(free, Free::Scan { .. }) {
                taken.insert(place, ());
            }
            assigned.push((key.clone(), family.address(space.number(place))));
        }
        Ok(assigned.into_iter().collect())
    }

    /// Where the live map differs from the one that [`assign`](Self::assign) gives for the live keys, by key. A lease is never moved for it:
    /// released and leased again, the key gets the assigned address as soon as that is free.
    ///
    /// # Errors
    /// [`Error::PoolExhausted`] where pins and locks leave too few addresses for the live keys.
    pub fn check(&self) -> Result<Vec<Difference>, Error> {
        let live: BTreeMap<&Key, IpAddr> = self.iter().map(|lease| (lease.key, lease.address)).collect();
        let assigned = self.assign(live.keys().copied())?;
        let differs = |(key, assigned): (Key, IpAddr)| {
            let live = live.get(&key).copied().filter(|live| *live != assigned)?;
            let reason = self.reason(&key, assigned);
            Some(Difference {
                key,
                live,
                assigned,
                reason,
            })
        };
        Ok(assigned.into_iter().filter_map(differs).collect())
    }

    fn reason(&self, key: &Key, assigned: IpAddr) -> Reason {
        if let Some(by) = self.lookup(assigned) {
            return Reason::Held { by: by.clone() };
        }
        let there = self
            .slots
            .by_number(crate::address::number(assigned))
            .map(|slot| self.slots.entry(slot));
        match there {
            Some(entry) if entry.key != *key => Reason::Resting {
                after: entry.key.clone(),
            },
            _ if self.fixed.of(key).is_some() => Reason::Fixed,
            _ => Reason::Free,
        }
    }
}
