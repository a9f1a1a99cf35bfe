//! The steps that changes are made of: each keeps entries, places, fixed addresses and ports in agreement.

use std::net::IpAddr;
use std::num::NonZeroU16;

use super::{Allocator, Entry, Kind, Slot};
use crate::address::{AddressRange, Family, Runs, number};
use crate::free::{BitTree, Free};
use crate::lockfile::LockFile;
use crate::record::Record;
use crate::{Error, Key, Strategy, Timestamp};

impl Allocator {
    /// Where the key is live: its address, and the lease is that of the whole key from now on.
    pub(super) fn keep(&mut self, key: &Key, now: Timestamp) -> Option<IpAddr> {
        let slot = self.live_slot(key)?;
        let number = self.slots.entry(slot).number();
        let shares = || self.slots.at_number(number).nth(1).is_some();
        if self.slots.entry(slot).kind == Kind::Ports && !shares() {
            self.make_whole(slot, number);
            let address = self.pool.family().address(number);
            self.note(|| Record::Lease {
                key: key.clone(),
                address,
                at: now,
                whole: true,
            });
        }
        Some(self.pool.family().address(number))
    }

    pub(super) fn make_whole(&mut self, slot: Slot, number: u128) {
        self.slots.entry_mut(slot).kind = Kind::Whole;
        self.mark_shareable(number);
    }

    /// The first choice of a key, in the common case by hash: the key is nowhere, and nobody is, was or is to be there.
    #[inline]
    pub(super) fn untouched_first_choice(&self, key: &Key) -> Option<u128> {
        if self.pool.strategy() != Strategy::ByHash || self.fixed.any() {
            return None;
        }
        let place = self.pool.first_place(key);
        let number = self.pool.space().number(place);
        let untouched =
            self.slots.by_key(key).is_none() && self.free.is_free(place, || self.is_taken(number));
        untouched.then_some(number)
    }

    /// Gives an address to a key that holds none; what rests there is forgotten.
    pub(super) fn settle(&mut self, key: &Key, number: u128, now: Timestamp, kind: Kind) {
        let before = self.slots.by_key(key);
        if let Some(slot) = self
            .slots
            .by_number(number)
            .filter(|slot| !self.slots.entry(*slot).is_live())
        {
            if Some(slot) == before {
                self.slots.wake(slot, now, kind);
                return self.settled(key, number, now, kind);
            }
            self.forget(slot);
        }
        if let Some(before) = before {
            self.slots.unlink_key(before);
        }
        self.put_lease(key, number, now, kind);
    }

    pub(super) fn put_lease(&mut self, key: &Key, number: u128, now: Timestamp, kind: Kind) {
        self.slots.insert(key, number, now, kind);
        if let Some(place) = self.pool.space().place(number) {
            self.free.set(place, true);
        }
        self.settled(key, number, now, kind);
        if self.free.outgrown(self.slots.addresses()) {
            self.rebuild_free(true);
        }
    }

    pub(super) fn settled(&mut self, key: &Key, number: u128, now: Timestamp, kind: Kind) {
        if self.pool.shares_by_port() {
            self.mark_shareable(number);
        }
        let address = self.pool.family().address(number);
        self.note(|| Record::Lease {
            key: key.clone(),
            address,
            at: now,
            whole: kind == Kind::Whole,
        });
    }

    pub(super) fn hold(&mut self, key: &Key, number: u128, port: NonZeroU16, count: u32, now: Timestamp) {
        self.ports
            .set(number, port, key, count, now, self.pool.shares_by_port());
        self.note(|| Record::Hold {
            key: key.clone(),
            port,
            count,
            at: now,
        });
    }

    pub(super) fn held_ports(&self, key: &Key, address: IpAddr) -> Vec<(NonZeroU16, u32)> {
        let ports = self
            .ports
            .at(number(address))
            .filter(|(_, hold)| hold.count > 0 && hold.key == *key);
        ports.map(|(port, hold)| (port, hold.count)).collect()
    }

    pub(super) fn put_pin(&mut self, key: &Key, number: u128) {
        if let Some(before) = self.fixed.pin(key, number) {
            self.mark(before);
        }
        self.mark(number);
    }

    pub(super) fn put_lock<'l>(&mut self, lines: impl IntoIterator<Item = (&'l Key, IpAddr)>) {
        let locks: Vec<_> = lines
            .into_iter()
            .map(|(key, address)| (key.clone(), number(address)))
            .collect();
        let now: Vec<_> = locks.iter().map(|(_, number)| *number).collect();
        let before = self.fixed.set_locks(locks.into_iter());
        for number in before.into_iter().chain(now) {
            self.mark(number);
        }
    }

    /// The lines of a lock file that no pin contradicts, as another process may have pinned since it was put in force.
    pub(crate) fn set_lock_where_possible(&mut self, lock: &LockFile) {
        let fits = |(key, address): &(&Key, IpAddr)| {
            self.given_number(*address)
                .is_ok_and(|number| self.fixed.pinned_to(number).is_none_or(|owner| owner == *key))
        };
        let lines: Vec<_> = lock.iter().filter(fits).collect();
        self.put_lock(lines);
    }

    pub(crate) fn put_reservation(&mut self, range: AddressRange) -> bool {
        let new = self.reservations.insert(range);
        if new && range.family() == self.pool.family() {
            let mut added = Runs::default();
            added.insert(number(range.first()), number(range.last()));
            self.reserved.insert(number(range.first()), number(range.last()));
            for (first, last) in self.pool.space().places(&added) {
                self.free.reserve(first, last);
            }
        }
        new
    }

    /// Takes a resting entry out.
    pub(super) fn forget(&mut self, slot: Slot) {
        let number = self.slots.entry(slot).number();
        self.slots.remove(slot);
        self.ports.forget(number);
        self.mark(number);
    }

    #[inline]
    pub(super) fn live_slot(&self, key: &Key) -> Option<Slot> {
        self.slots
            .by_key(key)
            .filter(|slot| self.slots.entry(*slot).is_live())
    }

    #[inline]
    pub(super) fn address_at(&self, slot: Slot) -> IpAddr {
        self.pool.family().address(self.slots.entry(slot).number())
    }

    /// The number of an address of the pool's family, or of the one that it stands beside.
    #[inline]
    pub(super) fn own_number(&self, address: IpAddr) -> Option<u128> {
        let address = self.pool.besides_whom(address).unwrap_or(address);
        (Family::of(address) == self.pool.family()).then(|| number(address))
    }

    pub(super) fn given_number(&self, address: IpAddr) -> Result<u128, Error> {
        if self.pool.place(address).is_some() && !self.reserved.contains(number(address)) {
            Ok(number(address))
        } else {
            Err(Error::OutOfPool {
                address,
                pool: self.pool.to_string(),
            })
        }
    }

    pub(super) fn is_taken(&self, number: u128) -> bool {
        self.slots.by_number(number).is_some()
            || self.fixed.owner(number).is_some()
            || self.reserved.contains(number)
    }

    /// Brings the free places up to date with what is known of an address.
    pub(super) fn mark(&mut self, number: u128) {
        if let Some(place) = self.pool.space().place(number) {
            let taken = self.is_taken(number);
            self.free.set(place, taken);
        }
    }

    /// Brings the addresses that endpoints may join up to date.
    pub(super) fn mark_shareable(&mut self, number: u128) {
        if self.pool.shares_by_port() {
            let mut there = self
                .slots
                .at_number(number)
                .map(|slot| self.slots.entry(slot).kind)
                .peekable();
            let shareable = there.peek().is_some() && there.all(|kind| kind == Kind::Ports);
            self.ports.set_shareable(number, shareable);
        }
    }

    pub(super) fn reserve_places(&mut self) {
        for (first, last) in self.pool.space().places(&self.reserved) {
            self.free.reserve(first, last);
        }
    }

    pub(super) fn rebuild_free(&mut self, outgrown: bool) {
        self.free = if outgrown || matches!(self.free, Free::Bits(_)) {
            Free::Bits(BitTree::new(self.pool.size()))
        } else {
            Free::new(self.pool.size(), self.pool.strategy() == Strategy::LowestFree)
        };
        self.reserve_places();
        for number in self
            .slots
            .entries()
            .map(Entry::number)
            .chain(self.fixed.numbers())
        {
            if let Some(place) = self.pool.space().place(number) {
                self.free.set(place, true);
            }
        }
    }
}
