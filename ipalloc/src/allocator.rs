//! Which key holds which address.

mod assign;
mod choice;
mod fixed;
mod index;
mod ports;
mod replay;
mod slots;
mod upkeep;
mod views;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;

pub use self::assign::{Difference, Reason};
pub(crate) use self::fixed::Fixed;
pub(crate) use self::ports::{Hold, Ports};
pub(crate) use self::slots::{Entry, Kind, Slot, Slots};
pub use self::views::{Lease, Rest, Stats};
use crate::address::{AddressRange, Runs, number};
use crate::free::Free;
use crate::lockfile::LockFile;
use crate::record::Record;
use crate::{Error, Key, Pool, Strategy, Timestamp};

/// The leases of a pool: which key holds which address, what is at rest, what is pinned, locked and reserved.
///
/// It lives in memory; [`store::Persistent`](crate::store::Persistent) keeps one on disk.
///
/// ```
/// use ipalloc::{Allocator, Key, Pool, Timestamp};
///
/// let mut allocator = Allocator::new(Pool::default());
/// let orders = Key::new("dev/backend/orders")?;
/// let now = Timestamp::from_secs(1_700_000_000);
///
/// let address = allocator.lease(&orders, now)?;
/// assert_eq!(address, allocator.lease(&orders, now)?);
/// assert_eq!(allocator.lookup(address), Some(&orders));
///
/// allocator.release(&orders, now);
/// assert_eq!(allocator.lookup(address), None);
/// # Ok::<(), ipalloc::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Allocator {
    pool: Pool,
    slots: Slots,
    free: Free,
    fixed: Fixed,
    /// What the pool reserves and what was reserved since.
    reserved: Runs,
    reservations: std::collections::BTreeSet<AddressRange>,
    ports: Ports,
    log: Log,
}

/// What was done, for a journal; none where nobody keeps one. A clone of an allocator is nobody's journal: it would grow
/// with every lease and never be read.
#[derive(Debug, Default)]
struct Log(Option<Vec<Record>>);

impl Clone for Log {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Allocator {
    /// An allocator that has leased nothing yet.
    pub fn new(pool: Pool) -> Self {
        let mut allocator = Self {
            free: Free::new(pool.size(), pool.strategy() == Strategy::LowestFree),
            reserved: pool.reserved().clone(),
            pool,
            slots: Slots::new(),
            fixed: Fixed::default(),
            reservations: std::collections::BTreeSet::new(),
            ports: Ports::default(),
            log: Log::default(),
        };
        allocator.reserve_places();
        allocator
    }

    /// The pool.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Leases an address to a key. A key that holds one keeps it, so the call may be repeated. (If its endpoints
    /// [share](crate::PoolBuilder::share_by_port) the address with other keys, the lease remains that of its endpoints.)
    ///
    /// By hash, the key gets its pin, or its locked address, or the first address from its [first choice](Pool::first_choice) upwards
    /// (going round at the end of the pool) that is not held, at rest, reserved or fixed for another key. Lowest free, it
    /// gets its pin or lock, or the address it had last (of those that no other key got since), or the lowest one that was never used, or the one that
    /// has rested longest beyond its quarantine.
    ///
    /// # Errors
    /// [`Error::PoolExhausted`]
    #[inline]
    pub fn lease(&mut self, key: &Key, now: Timestamp) -> Result<IpAddr, Error> {
        self.expire(now);
        if let Some(number) = self.untouched_first_choice(key) {
            self.put_lease(key, number, now, Kind::Whole);
            return Ok(self.pool.family().address(number));
        }
        if let Some(address) = self.keep(key, now) {
            return Ok(address);
        }
        let number = self.choose(key, now, |_| true)?;
        self.settle(key, number, now, Kind::Whole);
        Ok(self.pool.family().address(number))
    }

    /// Leases addresses to all of these keys at once. Given the allocator's state, the result depends only on the set of keys, not on
    /// their order, whichever of them are new and however full the pool is.
    ///
    /// A key that holds an address keeps it; a lease is never moved. The others lease one after the other as [`lease`](Self::lease) does, in
    /// a fixed order: by hash in that of (hash, key), so that an allocator which holds nothing ends up with exactly what
    /// [`assign`](Self::assign) gives; lowest free, keys whose last address is still remembered come first, then those without one, each
    /// group in the order of the keys. A key that a former batch displaced gets its first choice if that has become free.
    ///
    /// Where the pool has too few addresses, those at the end of that order get [`Error::PoolExhausted`] and the others are leased.
    ///
    /// ```
    /// use ipalloc::{Allocator, Key, Pool, Timestamp};
    ///
    /// let mut allocator = Allocator::new(Pool::default());
    /// let keys = [Key::new("dev/backend/orders")?, Key::new("dev/backend/payments")?];
    /// let leased = allocator.lease_all(&keys, Timestamp::from_secs(1_700_000_000));
    /// for (key, address) in leased {
    ///     assert_eq!(allocator.get(&key), Some(address?));
    /// }
    /// # Ok::<(), ipalloc::Error>(())
    /// ```
    pub fn lease_all<'k>(
        &mut self,
        keys: impl IntoIterator<Item = &'k Key>,
        now: Timestamp,
    ) -> BTreeMap<Key, Result<IpAddr, Error>> {
        let by_hash = self.pool.strategy() == Strategy::ByHash;
        self.expire(now);
        let mut ordered: Vec<(bool, u128, &Key)> = keys
            .into_iter()
            .map(|key| {
                if by_hash {
                    (false, self.pool.hash(key), key)
                } else {
                    (self.own_rest(key, now).is_none(), 0, key)
                }
            })
            .collect();
        ordered.sort_unstable();
        ordered.dedup();
        let leased = ordered
            .into_iter()
            .map(|(_, _, key)| (key.clone(), self.lease(key, now)));
        leased.collect()
    }

    /// Leases an address that the caller finds usable: `usable` is asked about one candidate after the other, up to
    /// [`Allocator::MAX_OFFERS`], beginning with the address that the key holds.
    ///
    /// If the key holds an address that is not usable, that address is put to rest and the key gets another. This is the only call
    /// that moves a live lease, and only because its own holder cannot use the address.
    ///
    /// # Errors
    /// [`Error::NoneUsable`], and then a live lease stays as it is; [`Error::PoolExhausted`]
    pub fn lease_where(
        &mut self,
        key: &Key,
        now: Timestamp,
        mut usable: impl FnMut(IpAddr) -> bool,
    ) -> Result<IpAddr, Error> {
        let held = self.live_slot(key).map(|slot| self.address_at(slot));
        if let Some(address) = held
            && usable(address)
        {
            return Ok(self.keep(key, now).unwrap_or(address));
        }
        self.expire(now);
        let number = self.choose(key, now, usable)?;
        let ports = held.map(|held| self.held_ports(key, held)).unwrap_or_default();
        self.release(key, now);
        self.settle(key, number, now, Kind::Whole);
        for (port, count) in ports {
            self.hold(key, number, port, count, now);
        }
        Ok(self.pool.family().address(number))
    }

    /// How many addresses [`Allocator::lease_where`] offers before it gives up.
    pub const MAX_OFFERS: usize = 32;

    /// Leases an address for one endpoint of a key and counts it. The lease lasts until as many [`release_port`](Self::release_port)s or
    /// one [`release`](Self::release); where the key is leased as a whole, until the latter.
    ///
    /// In a pool that [shares by port](crate::PoolBuilder::share_by_port), endpoints of several keys stand at one address as long as their ports
    /// differ, and a port comes to rest as an address does. By hash, a key joins those at its first choice where its port is free, and
    /// others only when the pool has no free address; lowest free, it joins the lowest address it can.
    ///
    /// # Errors
    /// [`Error::PortTaken`] where the key has an address and another key's endpoint stands there at this port; [`Error::PoolExhausted`]
    pub fn lease_port(&mut self, key: &Key, port: NonZeroU16, now: Timestamp) -> Result<IpAddr, Error> {
        let number = match self.live_slot(key) {
            Some(slot) => {
                let number = self.slots.entry(slot).number();
                if let Some(owner) = self.ports.barred(number, port, key, now, self.pool.quarantine()) {
                    let address = self.pool.family().address(number);
                    return Err(Error::PortTaken {
                        address,
                        port: port.get(),
                        key: owner.clone(),
                    });
                }
                number
            }
            None => {
                self.expire(now);
                let number = self.choose_shared(key, port, now)?;
                self.settle(key, number, now, Kind::Ports);
                number
            }
        };
        let count = self.ports.count(number, port, key).saturating_add(1);
        self.hold(key, number, port, count, now);
        Ok(self.pool.family().address(number))
    }

    /// Gives back one endpoint. With the last one of a key that is not leased as a whole, its lease ends. Tells the address if
    /// nobody holds it any more.
    ///
    /// # Errors
    /// [`Error::PortNotHeld`]
    pub fn release_port(
        &mut self,
        key: &Key,
        port: NonZeroU16,
        now: Timestamp,
    ) -> Result<Option<IpAddr>, Error> {
        let held = self
            .live_slot(key)
            .map(|slot| (slot, self.slots.entry(slot).number()));
        let Some((slot, number)) = held.filter(|(_, number)| self.ports.count(*number, port, key) > 0) else {
            return Err(Error::PortNotHeld {
                key: key.clone(),
                port: port.get(),
            });
        };
        let count = self.ports.count(number, port, key) - 1;
        self.hold(key, number, port, count, now);
        if self.slots.entry(slot).kind == Kind::Ports && !self.ports.holds_any(number, key) {
            return Ok(self.release(key, now));
        }
        Ok(None)
    }

    /// Ends the lease of a key with all its endpoints, and puts the address to rest unless other keys share it. Returns the address if
    /// nobody holds it any more. Does nothing for a key without a lease.
    pub fn release(&mut self, key: &Key, now: Timestamp) -> Option<IpAddr> {
        let slot = self.live_slot(key)?;
        let number = self.slots.entry(slot).number();
        self.ports
            .release_key(number, key, now, self.pool.shares_by_port());
        self.note(|| Record::Release {
            key: key.clone(),
            at: now,
        });
        let shared = self.slots.at_number(number).nth(1).is_some();
        if shared {
            self.slots.remove(slot);
        } else {
            self.slots.rest(slot, now);
        }
        self.mark_shareable(number);
        self.mark(number);
        (!shared).then(|| self.pool.family().address(number))
    }

    /// The address that a key holds.
    #[inline]
    pub fn get(&self, key: &Key) -> Option<IpAddr> {
        let entry = self.slots.entry(self.slots.by_key(key)?);
        let address = || self.pool.family().address(entry.number());
        entry.is_live().then(address)
    }

    /// The key that holds an address, or the v4 address that a v6 address [stands beside](Pool::beside). Where several do, one of them; see [`Allocator::holders`].
    #[inline]
    pub fn lookup(&self, address: IpAddr) -> Option<&Key> {
        let entry = self.slots.entry(self.slots.by_number(self.own_number(address)?)?);
        entry.is_live().then_some(&entry.key)
    }

    /// Every key that holds an address: several where endpoints share it.
    pub fn holders(&self, address: IpAddr) -> impl Iterator<Item = &Key> {
        let slots = self
            .own_number(address)
            .into_iter()
            .flat_map(|number| self.slots.at_number(number));
        slots
            .map(|slot| self.slots.entry(slot))
            .filter(|entry| entry.is_live())
            .map(|entry| &entry.key)
    }

    /// Leases this very address to a key, whichever it would get by itself: what another program or another machine chose. As with [`lease`](Self::lease), a
    /// key whose endpoints share this address keeps the lease of its endpoints.
    ///
    /// # Errors
    /// [`Error::OutOfPool`], [`Error::AddressTaken`], [`Error::AddressResting`], and [`Error::KeyLive`] where the key holds another address.
    pub fn lease_at(&mut self, key: &Key, address: IpAddr, now: Timestamp) -> Result<(), Error> {
        if self.get(key) == Some(address) {
            self.keep(key, now);
            return Ok(());
        }
        let number = self.open_number(key, address, now)?;
        if let Some((_, hold)) = self.barring_port(number, key, now) {
            return Err(Error::AddressResting {
                address,
                key: hold.key.clone(),
                until: hold.at.plus(self.pool.quarantine()),
            });
        }
        self.settle(key, number, now, Kind::Whole);
        Ok(())
    }

    /// Pins a key to an address: the key gets it and nobody else does, whether it is leased or not.
    ///
    /// # Errors
    /// As [`lease_at`](Self::lease_at).
    pub fn pin(&mut self, key: &Key, address: IpAddr, now: Timestamp) -> Result<(), Error> {
        let number = self.open_number(key, address, now)?;
        self.put_pin(key, number);
        self.note(|| Record::Pin {
            key: key.clone(),
            address,
        });
        Ok(())
    }

    /// Removes a pin and returns its address. A live lease stays where it is.
    pub fn unpin(&mut self, key: &Key) -> Option<IpAddr> {
        let number = self.fixed.unpin(key)?;
        self.mark(number);
        self.note(|| Record::Unpin { key: key.clone() });
        Some(self.pool.family().address(number))
    }

    /// Puts a lock file in force, in place of the former one: its addresses are kept for its keys. Live leases stay where they are; [`check`](Self::check)
    /// tells which of them contradict it. A pin of a key comes before its line in the lock file.
    ///
    /// # Errors
    /// [`Error::OutOfPool`], and [`Error::AddressTaken`] where a pin gives the address to another key; then the former lock file stays in force.
    pub fn set_lock(&mut self, lock: &LockFile) -> Result<(), Error> {
        for (key, address) in lock.iter() {
            let number = self.given_number(address)?;
            if let Some(owner) = self.fixed.pinned_to(number).filter(|owner| *owner != key) {
                return Err(Error::AddressTaken {
                    address,
                    key: owner.clone(),
                });
            }
        }
        self.put_lock(lock.iter());
        Ok(())
    }

    /// Keeps addresses from being leased from now on, in addition to those that the pool reserves. A live lease among them stays.
    ///
    /// # Errors
    /// [`Error::AddressTaken`] where a pin or the lock file gives one of them to a key.
    pub fn reserve(&mut self, range: impl Into<AddressRange>) -> Result<(), Error> {
        let range = range.into();
        if range.family() == self.pool.family()
            && let Some((number, key)) = self.fixed.within(number(range.first()), number(range.last()))
        {
            return Err(Error::AddressTaken {
                address: self.pool.family().address(number),
                key: key.clone(),
            });
        }
        if self.put_reservation(range) {
            self.note(|| Record::Reserve {
                first: range.first(),
                last: range.last(),
            });
        }
        Ok(())
    }

    /// Removes a reservation made with [`reserve`](Self::reserve). Returns whether there was one of exactly this range.
    pub fn unreserve(&mut self, range: impl Into<AddressRange>) -> bool {
        let range = range.into();
        let found = self.reservations.remove(&range);
        if found {
            self.reserved = self.pool.reserved().clone();
            for range in self
                .reservations
                .iter()
                .filter(|range| range.family() == self.pool.family())
            {
                self.reserved.insert(number(range.first()), number(range.last()));
            }
            self.rebuild_free(false);
            self.note(|| Record::Unreserve {
                first: range.first(),
                last: range.last(),
            });
        }
        found
    }

    /// Frees the addresses that have rested long enough. Every call that leases an address does so first.
    ///
    /// Lowest free, the last 65,536 released addresses are remembered beyond that, so that they are given again in the order in
    /// which they were released.
    pub fn expire(&mut self, now: Timestamp) {
        let keep = if self.pool.strategy() == Strategy::LowestFree {
            REMEMBERED
        } else {
            0
        };
        while self.slots.resting() > keep
            && let Some(slot) = self.slots.longest_resting()
            && self.slots.entry(slot).at.plus(self.pool.quarantine()) <= now
        {
            self.forget(slot);
        }
    }

    /// Reserves memory for this many more leases.
    pub fn reserve_room(&mut self, more: usize) {
        self.slots.reserve(more);
    }

    /// How much memory the leases take, in bytes: tables with the room that they have for more, places, and the texts of the keys up to 48 bytes,
    /// which stand in the tables. A longer text takes its length and 16 bytes besides, once for all clones of its key. Pins, locks, reservations, ports and what a key had before its last address come on top.
    pub fn memory_bytes(&self) -> usize {
        self.slots.memory_bytes() + self.free.memory_bytes()
    }

    #[inline]
    fn note(&mut self, record: impl FnOnce() -> Record) {
        if let Log(Some(log)) = &mut self.log {
            log.push(record());
        }
    }

    /// From now on what is done is written down.
    pub(crate) fn start_log(&mut self) {
        self.log = Log(Some(Vec::new()));
    }

    /// What was done since the last call.
    pub(crate) fn take_log(&mut self) -> Vec<Record> {
        self.log.0.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

/// How many released addresses lowest-free remembers beyond their quarantine.
const REMEMBERED: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_keeps_no_log() {
        let mut kept = Allocator::new(Pool::default());
        kept.start_log();
        let mut clone = kept.clone();
        let (key, now) = (Key::new("a/b/c").unwrap(), Timestamp::from_secs(1));
        clone.lease(&key, now).unwrap();
        kept.lease(&key, now).unwrap();
        assert!(clone.take_log().is_empty());
        assert_eq!(kept.take_log().len(), 1);
    }
}
