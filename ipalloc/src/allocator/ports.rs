//! Endpoints: how often each port of an address is held, and by whom.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::time::Duration;

use crate::{Key, Timestamp};

/// One port of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) key: Key,
    /// How often it is held; with 0 it rests.
    pub(crate) count: u32,
    /// Since when it rests.
    pub(crate) at: Timestamp,
}

/// The ports that are held, or rest where addresses are shared.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ports {
    holds: BTreeMap<(u128, NonZeroU16), Hold>,
    /// Addresses that endpoints stand at and more may join.
    shareable: BTreeSet<u128>,
    /// For a port: every shareable address below this one holds it. So asking for one port again and again does not begin
    /// at the lowest address again and again.
    taken_below: BTreeMap<NonZeroU16, u128>,
}

impl Ports {
    /// How often the key holds this port.
    pub(crate) fn count(&self, number: u128, port: NonZeroU16, key: &Key) -> u32 {
        self.holds
            .get(&(number, port))
            .filter(|hold| hold.key == *key)
            .map_or(0, |hold| hold.count)
    }

    /// Another key whose port this is: held, or not rested long enough.
    pub(crate) fn barred(
        &self,
        number: u128,
        port: NonZeroU16,
        key: &Key,
        now: Timestamp,
        quarantine: Duration,
    ) -> Option<&Key> {
        let hold = self.holds.get(&(number, port)).filter(|hold| hold.key != *key)?;
        (hold.count > 0 || hold.at.plus(quarantine) > now).then_some(&hold.key)
    }

    /// Whether the key holds any port of the address.
    pub(crate) fn holds_any(&self, number: u128, key: &Key) -> bool {
        self.at(number)
            .any(|(_, hold)| hold.count > 0 && hold.key == *key)
    }

    /// The ports of an address.
    pub(crate) fn at(&self, number: u128) -> impl Iterator<Item = (NonZeroU16, &Hold)> {
        self.holds
            .range((number, NonZeroU16::MIN)..=(number, NonZeroU16::MAX))
            .map(|((_, port), hold)| (*port, hold))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u128, NonZeroU16, &Hold)> {
        self.holds
            .iter()
            .map(|((number, port), hold)| (*number, *port, hold))
    }

    /// Sets how often a port is held. A port that nobody holds rests, if it is to.
    pub(crate) fn set(
        &mut self,
        number: u128,
        port: NonZeroU16,
        key: &Key,
        count: u32,
        now: Timestamp,
        rests: bool,
    ) {
        if count == 0 {
            self.lower(port, number);
        }
        if count == 0 && !rests {
            self.holds.remove(&(number, port));
        } else {
            self.holds.insert(
                (number, port),
                Hold {
                    key: key.clone(),
                    count,
                    at: now,
                },
            );
        }
    }

    /// The key gives all ports of the address back.
    pub(crate) fn release_key(&mut self, number: u128, key: &Key, now: Timestamp, rests: bool) {
        let held = self
            .at(number)
            .filter(|(_, hold)| hold.count > 0 && hold.key == *key);
        for port in held.map(|(port, _)| port).collect::<Vec<_>>() {
            self.set(number, port, key, 0, now, rests);
        }
    }

    /// Forgets all ports of an address.
    pub(crate) fn forget(&mut self, number: u128) {
        for port in self.at(number).map(|(port, _)| port).collect::<Vec<_>>() {
            self.holds.remove(&(number, port));
            self.lower(port, number);
        }
    }

    pub(crate) fn set_shareable(&mut self, number: u128, shareable: bool) {
        if !shareable {
            self.shareable.remove(&number);
        } else if self.shareable.insert(number) {
            for below in self.taken_below.values_mut() {
                *below = number.min(*below);
            }
        }
    }

    pub(crate) fn is_shareable(&self, number: u128) -> bool {
        self.shareable.contains(&number)
    }

    /// The addresses, from `from` on, that an endpoint might join.
    pub(crate) fn joinable_from(&self, from: u128) -> impl Iterator<Item = u128> {
        self.shareable.range(from..).copied()
    }

    /// The lowest address where the port may be free. Passes over those where it is held.
    pub(crate) fn lowest_without(&mut self, port: NonZeroU16) -> Option<u128> {
        let from = self.taken_below.get(&port).copied().unwrap_or(0);
        let held = |number: &u128| {
            self.holds
                .get(&(*number, port))
                .is_some_and(|hold| hold.count > 0)
        };
        let found = self.shareable.range(from..).find(|number| !held(number)).copied();
        // Behind the last one everything that is there is taken; a new one lowers the mark.
        let mark = found
            .or_else(|| self.shareable.last().map(|last| last.saturating_add(1)))
            .unwrap_or(0);
        self.taken_below.insert(port, mark);
        found
    }

    fn lower(&mut self, port: NonZeroU16, number: u128) {
        if let Some(below) = self.taken_below.get_mut(&port) {
            *below = number.min(*below);
        }
    }
}
