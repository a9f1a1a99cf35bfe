//! Doing again what a journal or a snapshot tells. What contradicts the state is damage.

use std::net::IpAddr;
use std::num::NonZeroU16;

use super::{Allocator, Entry, Hold, Kind};
use crate::address::{AddressRange, number};
use crate::record::Record;
use crate::{Key, Timestamp};

impl Allocator {
    /// Does what a record tells.
    ///
    /// # Errors
    /// Why it contradicts what went before.
    pub(crate) fn replay(&mut self, record: Record) -> Result<(), String> {
        match record {
            Record::Lease {
                key,
                address,
                at,
                whole,
            } => self.replay_lease(&key, address, at, whole),
            Record::Release { key, at } => {
                if self.get(&key).is_none() {
                    return Err(format!("{key} is released without a lease"));
                }
                self.release(&key, at);
                Ok(())
            }
            Record::Hold { key, port, count, at } => {
                let address = self
                    .get(&key)
                    .ok_or_else(|| format!("{key} holds a port without a lease"))?;
                self.replay_hold(&key, address, port, count, at)
            }
            Record::Pin { key, address } => self.replay_pin(&key, address),
            Record::Unpin { key } => self
                .unpin(&key)
                .map(drop)
                .ok_or_else(|| format!("{key} is unpinned without a pin")),
            Record::Reserve { first, last } => {
                let range = AddressRange::new(first, last).map_err(|error| error.to_string())?;
                self.put_reservation(range);
                Ok(())
            }
            Record::Unreserve { first, last } => {
                let range = AddressRange::new(first, last).map_err(|error| error.to_string())?;
                if self.unreserve(range) {
                    Ok(())
                } else {
                    Err(format!("{range} was not reserved"))
                }
            }
        }
    }

    fn replay_lease(&mut self, key: &Key, address: IpAddr, at: Timestamp, whole: bool) -> Result<(), String> {
        let number = self.known(address)?;
        if let Some(slot) = self.live_slot(key) {
            if self.slots.entry(slot).number() != number || !whole {
                return Err(format!("{key} is leased twice"));
            }
            self.make_whole(slot, number);
            return Ok(());
        }
        let there = self.slots.at_number(number).map(|slot| self.slots.entry(slot));
        let excludes = |other: &&Entry| other.is_live() && (whole || other.kind == Kind::Whole);
        if let Some(other) = { there }.find(excludes) {
            return Err(format!("{address} is leased to {} and to {key}", other.key));
        }
        self.load_lease(key, address, at, whole)
    }

    /// A key has this address, live, as a snapshot tells: whether all that stand there may is seen [at its end](Self::unbacked_share).
    pub(crate) fn load_lease(
        &mut self,
        key: &Key,
        address: IpAddr,
        at: Timestamp,
        whole: bool,
    ) -> Result<(), String> {
        let number = self.known(address)?;
        if self.live_slot(key).is_some() {
            return Err(format!("{key} is leased twice"));
        }
        self.settle(key, number, at, if whole { Kind::Whole } else { Kind::Ports });
        Ok(())
    }

    /// A key had this address, which rests. Those that were released first come first.
    pub(crate) fn replay_rest(&mut self, key: &Key, address: IpAddr, at: Timestamp) -> Result<(), String> {
        let number = self.known(address)?;
        if self.slots.by_number(number).is_some() {
            return Err(format!("{address} rests and is in use, or rests twice"));
        }
        // A key may have had several addresses, and leads to the one that it has or had last.
        let before = self.slots.by_key(key);
        let leads = before.is_none_or(|slot| !self.slots.entry(slot).is_live());
        if let Some(before) = before.filter(|_| leads) {
            self.slots.unlink_key(before);
        }
        let slot = self.slots.insert(key, number, at, Kind::Whole);
        if !leads {
            self.slots.unlink_key(slot);
        }
        self.slots.rest(slot, at);
        self.mark(number);
        Ok(())
    }

    /// A port of an address, held or at rest.
    pub(crate) fn replay_port(
        &mut self,
        address: IpAddr,
        port: NonZeroU16,
        hold: &Hold,
    ) -> Result<(), String> {
        let number = self.known(address)?;
        if self.slots.by_number(number).is_none() {
            return Err(format!("port {port} of {address} belongs to no lease"));
        }
        if hold.count > 0 && self.get(&hold.key) != Some(address) {
            return Err(format!(
                "{} holds port {port} of {address} without a lease there",
                hold.key
            ));
        }
        if self.ports.at(number).any(|(other, _)| other == port) {
            return Err(format!("port {port} of {address} stands twice"));
        }
        self.ports.set(number, port, &hold.key, hold.count, hold.at, true);
        Ok(())
    }

    /// A key that shares an address as a whole, or holds no port of it: endpoints share, keys do not.
    pub(crate) fn unbacked_share(&self) -> Option<&Key> {
        // With as many entries as addresses, nobody shares.
        if self.slots.addresses() == self.entry_count() {
            return None;
        }
        let shares = |number| self.slots.at_number(number).nth(1).is_some();
        let mut live = self.slots.live_entries();
        let backed =
            |entry: &Entry| entry.kind == Kind::Ports && self.ports.holds_any(entry.number(), &entry.key);
        live.find(|entry| shares(entry.number()) && !backed(entry))
            .map(|it| &it.key)
    }

    pub(crate) fn replay_pin(&mut self, key: &Key, address: IpAddr) -> Result<(), String> {
        let number = self.known(address)?;
        if let Some(owner) = self.fixed.pinned_to(number).filter(|owner| *owner != key) {
            return Err(format!("{address} is pinned to {owner} and to {key}"));
        }
        self.put_pin(key, number);
        Ok(())
    }

    fn replay_hold(
        &mut self,
        key: &Key,
        address: IpAddr,
        port: NonZeroU16,
        count: u32,
        at: Timestamp,
    ) -> Result<(), String> {
        let number = number(address);
        if let Some((_, hold)) = self
            .ports
            .at(number)
            .find(|(other, hold)| *other == port && hold.count > 0)
            && hold.key != *key
        {
            return Err(format!(
                "port {port} of {address} belongs to {} and to {key}",
                hold.key
            ));
        }
        self.hold(key, number, port, count, at);
        Ok(())
    }

    /// The number of an address that may stand in a store: the pool may reserve it now, but it lies in its prefixes.
    fn known(&self, address: IpAddr) -> Result<u128, String> {
        if self.pool.covers(address) {
            Ok(number(address))
        } else {
            Err(format!("{address} lies outside of the pool {}", self.pool))
        }
    }
}
