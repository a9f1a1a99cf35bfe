//! Which address a key gets.

use std::net::IpAddr;
use std::num::NonZeroU16;

use super::{Allocator, Entry, Hold};
use crate::{Error, Key, Strategy, Timestamp};

impl Allocator {
    /// The number of the first address which is open to a key that holds none, and `usable`.
    pub(super) fn choose(
        &self,
        key: &Key,
        now: Timestamp,
        usable: impl FnMut(IpAddr) -> bool,
    ) -> Result<u128, Error> {
        let fixed = self.fixed.of(key);
        let own = self.own_rest(key, now).filter(|number| Some(*number) != fixed);
        let first = fixed.filter(|number| self.is_open_to(*number, key, now));
        match self.pool.strategy() {
            Strategy::ByHash => self.pick(key, first.into_iter().chain(self.by_hash(key, own)), usable),
            Strategy::LowestFree => {
                let lowest = self.lowest(key, own, now).filter(|number| Some(*number) != fixed);
                self.pick(key, first.into_iter().chain(lowest), usable)
            }
        }
    }

    fn pick(
        &self,
        key: &Key,
        open: impl Iterator<Item = u128>,
        mut usable: impl FnMut(IpAddr) -> bool,
    ) -> Result<u128, Error> {
        let mut tried = 0;
        for number in open.take(Self::MAX_OFFERS) {
            if usable(self.pool.family().address(number)) {
                return Ok(number);
            }
            tried += 1;
        }
        if tried > 0 {
            return Err(Error::NoneUsable {
                key: key.clone(),
                tried,
            });
        }
        let resting = self.slots.resting();
        Err(Error::PoolExhausted {
            pool: self.pool.to_string(),
            leased: self.slots.addresses() - resting,
            resting,
        })
    }

    /// The number of an address for an endpoint of a key that holds none.
    pub(super) fn choose_shared(
        &mut self,
        key: &Key,
        port: NonZeroU16,
        now: Timestamp,
    ) -> Result<u128, Error> {
        if !self.pool.shares_by_port() {
            return self.choose(key, now, |_| true);
        }
        if let Some(fixed) = self.fixed.of(key)
            && self.can_join(fixed, key, port, now)
        {
            return Ok(fixed);
        }
        match self.pool.strategy() {
            Strategy::ByHash => {
                let first = self.pool.space().number(self.pool.first_place(key));
                if self.fixed.of(key).is_none() && self.can_join(first, key, port, now) {
                    return Ok(first);
                }
                self.choose(key, now, |_| true).or_else(|exhausted| {
                    let round = self.ports.joinable_from(first).chain(self.ports.joinable_from(0));
                    round
                        .into_iter()
                        .find(|number| self.can_join(*number, key, port, now))
                        .ok_or(exhausted)
                })
            }
            Strategy::LowestFree => {
                if self.fixed.of(key).is_none()
                    && let Some(lowest) = self.ports.lowest_without(port)
                    && let Some(number) = self
                        .ports
                        .joinable_from(lowest)
                        .find(|number| self.can_join(*number, key, port, now))
                {
                    return Ok(number);
                }
                self.choose(key, now, |_| true)
            }
        }
    }

    fn can_join(&self, number: u128, key: &Key, port: NonZeroU16, now: Timestamp) -> bool {
        self.ports.is_shareable(number)
            && self.fixed.owner(number).is_none_or(|owner| owner == key)
            && !self.reserved.contains(number)
            && self
                .ports
                .barred(number, port, key, now, self.pool.quarantine())
                .is_none()
    }

    /// From the first choice upwards and round: the free addresses, and the one where the key's own rests.
    fn by_hash(&self, key: &Key, own: Option<u128>) -> impl Iterator<Item = u128> {
        let (first, len) = (self.pool.first_place(key), self.pool.size());
        let distance = move |place: u128| {
            if place >= first {
                place - first
            } else {
                place + (len - first)
            }
        };
        let place_at = move |distance: u128| {
            if distance < len - first {
                first + distance
            } else {
                distance - (len - first)
            }
        };
        let own = own
            .and_then(|number| self.pool.space().place(number))
            .map(distance);
        let mut at = 0;
        std::iter::from_fn(move || {
            if at >= len {
                return None;
            }
            let free = self.free.next_round(place_at(at), |place| {
                self.is_taken(self.pool.space().number(place))
            });
            // Once round, what is found lies before.
            let free = free.map(distance).filter(|found| *found >= at);
            // `None` is less than any distance, so the two are chained and not compared.
            let found = free.into_iter().chain(own.filter(|found| *found >= at)).min()?;
            at = found + 1;
            Some(self.pool.space().number(place_at(found)))
        })
    }

    /// The key's last address, the free ones from the lowest, those that have rested beyond their time from the longest.
    fn lowest(&self, key: &Key, own: Option<u128>, now: Timestamp) -> impl Iterator<Item = u128> {
        let mut from = Some(0);
        let free = std::iter::from_fn(move || {
            let place = self.free.next(from?, |_| false)?;
            from = place.checked_add(1);
            Some(self.pool.space().number(place))
        });
        let rested = self
            .slots
            .resting_entries()
            .take_while(move |entry| self.has_rested(entry, now));
        let rested = rested
            .map(Entry::number)
            .filter(move |number| Some(*number) != own);
        let key = key.clone();
        own.into_iter()
            .chain(free)
            .chain(rested.filter(move |number| self.is_open_to(*number, &key, now)))
    }

    /// The address of the key that rests, where the key may have it back.
    pub(super) fn own_rest(&self, key: &Key, now: Timestamp) -> Option<u128> {
        if self.slots.resting() == 0 {
            return None;
        }
        let entry = self.slots.entry(self.slots.by_key(key)?);
        let number = entry.number();
        let kept =
            self.fixed.owner(number).is_some_and(|owner| owner != key) || self.reserved.contains(number);
        (!entry.is_live() && !kept && self.is_back_open_to(number, key, now)).then_some(number)
    }

    /// Whether the key, which holds no lease, may have this address.
    fn is_open_to(&self, number: u128, key: &Key, now: Timestamp) -> bool {
        if self.fixed.owner(number).is_some_and(|owner| owner != key) || self.reserved.contains(number) {
            return false;
        }
        let there = self.slots.by_number(number).map(|slot| self.slots.entry(slot));
        there.is_none_or(|entry| {
            let is_own = entry.key == *key && self.is_back_open_to(number, key, now);
            !entry.is_live() && (is_own || self.has_rested(entry, now))
        })
    }

    /// The number of an address that is given by name: in the pool, and open to this key.
    pub(super) fn open_number(&mut self, key: &Key, address: IpAddr, now: Timestamp) -> Result<u128, Error> {
        let number = self.given_number(address)?;
        let taken = |by: &Key| Error::AddressTaken {
            address,
            key: by.clone(),
        };
        if let Some(owner) = self.fixed.owner(number).filter(|owner| *owner != key) {
            return Err(taken(owner));
        }
        self.expire(now);
        if let Some(at) = self.get(key).filter(|at| *at != address) {
            return Err(Error::KeyLive {
                key: key.clone(),
                address: at,
            });
        }
        let there = self.slots.at_number(number).map(|slot| self.slots.entry(slot));
        match { there }.find(|entry| entry.key != *key) {
            Some(other) if other.is_live() => Err(taken(&other.key)),
            Some(other) if !self.has_rested(other, now) => Err(Error::AddressResting {
                address,
                key: other.key.clone(),
                until: other.at.plus(self.pool.quarantine()),
            }),
            _ => Ok(number),
        }
    }

    /// Whether a key may have its own address back before its rest is over.
    fn is_back_open_to(&self, number: u128, key: &Key, now: Timestamp) -> bool {
        self.barring_port(number, key, now).is_none()
    }

    /// The port of an address at which another key, which shared it, stands or rests; of several, the one that rests longest.
    pub(super) fn barring_port(
        &self,
        number: u128,
        key: &Key,
        now: Timestamp,
    ) -> Option<(NonZeroU16, &Hold)> {
        let quarantine = self.pool.quarantine();
        let bars = |(port, _): &(NonZeroU16, &Hold)| {
            self.ports.barred(number, *port, key, now, quarantine).is_some()
        };
        let ports = self.pool.shares_by_port().then(|| self.ports.at(number));
        ports
            .into_iter()
            .flatten()
            .filter(bars)
            .max_by_key(|(_, hold)| hold.at)
    }

    fn has_rested(&self, entry: &Entry, now: Timestamp) -> bool {
        entry.at.plus(self.pool.quarantine()) <= now
    }
}
