//! Addresses that are kept for a key: its pin, and its line in the lock file.

use std::collections::BTreeMap;

use crate::Key;

/// Pins and locked addresses. No two keys have the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fixed {
    pins: BTreeMap<Key, u128>,
    locks: BTreeMap<Key, u128>,
    pinned: BTreeMap<u128, Key>,
    locked: BTreeMap<u128, Key>,
}

impl Fixed {
    /// Whether anything is kept for anybody.
    pub(crate) fn any(&self) -> bool {
        !self.pins.is_empty() || !self.locks.is_empty()
    }

    /// The address that a key is to have.
    pub(crate) fn of(&self, key: &Key) -> Option<u128> {
        self.pins.get(key).or_else(|| self.locks.get(key)).copied()
    }

    /// Whom an address is kept for.
    pub(crate) fn owner(&self, number: u128) -> Option<&Key> {
        self.pinned.get(&number).or_else(|| self.locked.get(&number))
    }

    pub(crate) fn pinned_to(&self, number: u128) -> Option<&Key> {
        self.pinned.get(&number)
    }

    /// A kept address from `first` to `last`.
    pub(crate) fn within(&self, first: u128, last: u128) -> Option<(u128, &Key)> {
        let pinned = self.pinned.range(first..=last).next();
        pinned
            .or_else(|| self.locked.range(first..=last).next())
            .map(|(number, key)| (*number, key))
    }

    /// Every kept address.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u128> {
        self.pinned.keys().chain(self.locked.keys()).copied()
    }

    pub(crate) fn pins(&self) -> &BTreeMap<Key, u128> {
        &self.pins
    }

    pub(crate) fn locks(&self) -> &BTreeMap<Key, u128> {
        &self.locks
    }

    /// The pin that was there before.
    pub(crate) fn pin(&mut self, key: &Key, number: u128) -> Option<u128> {
        let before = self.pins.insert(key.clone(), number);
        if let Some(before) = before {
            self.pinned.remove(&before);
        }
        self.pinned.insert(number, key.clone());
        before
    }

    pub(crate) fn unpin(&mut self, key: &Key) -> Option<u128> {
        let number = self.pins.remove(key)?;
        self.pinned.remove(&number);
        Some(number)
    }

    /// Puts other locks in place, and tells the addresses of the former.
    pub(crate) fn set_locks(&mut self, locks: impl Iterator<Item = (Key, u128)>) -> Vec<u128> {
        let before = std::mem::take(&mut self.locked).into_keys().collect();
        self.locks = locks.collect();
        self.locked = self
            .locks
            .iter()
            .map(|(key, number)| (*number, key.clone()))
            .collect();
        before
    }
}
