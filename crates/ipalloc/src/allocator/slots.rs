//! Who has which address: entries found by key and by address, and the order in which released ones came to rest.

use super::index::Index;
use crate::pool::Aim;
use crate::{Key, Timestamp};

/// Names an entry for as long as it is there.
pub(crate) type Slot = u32;
const NONE: Slot = Slot::MAX;

/// An address with its key: one line of the cache.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub(crate) struct Entry {
    pub(crate) key: Key,
    // Two halves, as a u128 would be aligned to 16 bytes.
    high: u64,
    low: u64,
    /// Since when it is leased, or released.
    pub(crate) at: Timestamp,
    /// In a live entry `next` leads to another key at the same address. In a resting one both lead through the order of release, in a
    /// vacant one `next` leads to the next vacant one.
    prev: Slot,
    next: Slot,
    pub(crate) kind: Kind,
    /// Whether the key leads here: an entry that rests does not once its key has another.
    pub(crate) linked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Live, and held by the key as a whole.
    Whole,
    /// Live for as long as the key holds ports.
    Ports,
    /// Released.
    Resting,
    Vacant,
}

impl Entry {
    pub(crate) fn number(&self) -> u128 {
        (u128::from(self.high) << 64) | u128::from(self.low)
    }

    pub(crate) fn is_live(&self) -> bool {
        matches!(self.kind, Kind::Whole | Kind::Ports)
    }
}

/// Entries by key and by address.
#[derive(Clone, Debug)]
pub(crate) struct Slots {
    chunks: Vec<Vec<Entry>>,
    used: usize,
    vacant: Slot,
    /// By the key, only those that are not at the address that the hash of their key points at: the others are found there.
    by_key: Index,
    by_number: Index,
    addresses: usize,
    live: usize,
    resting: usize,
    /// Released first and last.
    oldest: Slot,
    newest: Slot,
}

/// Entries a chunk: chunks grow without moving and without slack.
const CHUNK: usize = 4096;

impl Slots {
    pub(crate) fn new() -> Self {
        Self {
            chunks: Vec::new(),
            used: 0,
            vacant: NONE,
            by_key: Index::default(),
            by_number: Index::default(),
            addresses: 0,
            live: 0,
            resting: 0,
            oldest: NONE,
            newest: NONE,
        }
    }

    /// Keys that hold a lease.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    /// Addresses at rest.
    pub(crate) fn resting(&self) -> usize {
        self.resting
    }

    /// Addresses that are held or rest.
    pub(crate) fn addresses(&self) -> usize {
        self.addresses
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let entries: usize = self.chunks.iter().map(Vec::capacity).sum();
        entries * size_of::<Entry>() + self.by_key.memory_bytes() + self.by_number.memory_bytes()
    }

    /// Makes room for so many more entries.
    pub(crate) fn reserve(&mut self, more: usize) {
        self.by_number.reserve(more);
    }

    #[inline]
    pub(crate) fn entry(&self, slot: Slot) -> &Entry {
        let slot = slot as usize;
        &self.chunks[slot / CHUNK][slot % CHUNK]
    }

    pub(crate) fn entry_mut(&mut self, slot: Slot) -> &mut Entry {
        let slot = slot as usize;
        &mut self.chunks[slot / CHUNK][slot % CHUNK]
    }

    /// The entry that a key leads to, live or resting.
    #[inline]
    pub(crate) fn by_key(&self, aim: Aim, key: &Key) -> Option<Slot> {
        let leads = |slot: &Slot| {
            let entry = self.entry(*slot);
            entry.linked && entry.key.is(key)
        };
        let at_first = aim.number.and_then(|number| self.at_number(number).find(leads));
        at_first.or_else(|| self.elsewhere(aim, key))
    }

    /// The entry that a key leads to, unless it is at the first choice of the key.
    #[inline]
    pub(crate) fn elsewhere(&self, aim: Aim, key: &Key) -> Option<Slot> {
        self.by_key
            .find(key_tag(aim.hash), |slot| self.entry(slot).key.is(key))
    }

    /// The first entry at an address, live or resting.
    #[inline]
    pub(crate) fn by_number(&self, number: u128) -> Option<Slot> {
        self.by_number
            .find(number_tag(number), |slot| self.entry(slot).number() == number)
    }

    /// The entries at an address.
    pub(crate) fn at_number(&self, number: u128) -> impl Iterator<Item = Slot> {
        let follow = |slot: &Slot| {
            let entry = self.entry(*slot);
            (entry.is_live() && entry.next != NONE).then_some(entry.next)
        };
        std::iter::successors(self.by_number(number), follow)
    }

    /// Adds a live entry of a key that has none. Another live one may stand at the address, a resting one may not.
    pub(crate) fn insert(&mut self, aim: Aim, key: &Key, number: u128, at: Timestamp, kind: Kind) -> Slot {
        let slot = self.put(Entry {
            key: key.clone(),
            high: (number >> 64) as u64,
            #[expect(clippy::cast_possible_truncation, reason = "the low half")]
            low: number as u64,
            at,
            prev: NONE,
            next: NONE,
            kind,
            linked: true,
        });
        if aim.number != Some(number) {
            self.by_key.insert(key_tag(aim.hash), slot);
        }
        match self.by_number(number) {
            Some(first) => {
                let second = std::mem::replace(&mut self.entry_mut(first).next, slot);
                self.entry_mut(slot).next = second;
            }
            None => {
                self.by_number.insert(number_tag(number), slot);
                self.addresses += 1;
            }
        }
        self.live += 1;
        slot
    }

    /// Takes an entry out, live or resting.
    pub(crate) fn remove(&mut self, aim: Aim, slot: Slot) {
        self.unlink_key(aim, slot);
        let entry = self.entry(slot);
        let (number, kind, next) = (entry.number(), entry.kind, entry.next);
        if kind == Kind::Resting {
            self.unlink_rest(slot);
        } else {
            self.live -= 1;
        }
        let first = self.by_number(number);
        let successor = if kind == Kind::Resting { NONE } else { next };
        if first == Some(slot) {
            self.by_number.remove(number_tag(number), slot);
            if successor == NONE {
                self.addresses -= 1;
            } else {
                self.by_number.insert(number_tag(number), successor);
            }
        } else {
            let before = self.at_number(number).find(|it| self.entry(*it).next == slot);
            if let Some(before) = before {
                self.entry_mut(before).next = successor;
            }
        }
        let vacant = self.vacant;
        let entry = self.entry_mut(slot);
        entry.key = Key::vacant();
        entry.kind = Kind::Vacant;
        entry.next = vacant;
        self.vacant = slot;
    }

    /// Puts a live entry, the only one at its address, to rest.
    pub(crate) fn rest(&mut self, slot: Slot, at: Timestamp) {
        self.live -= 1;
        self.resting += 1;
        // In the order of release times goes up, whatever the caller's clock did.
        let newest = self.newest;
        let at = if newest == NONE {
            at
        } else {
            at.max(self.entry(newest).at)
        };
        let entry = self.entry_mut(slot);
        entry.kind = Kind::Resting;
        entry.at = at;
        entry.prev = newest;
        entry.next = NONE;
        match newest {
            NONE => self.oldest = slot,
            _ => self.entry_mut(newest).next = slot,
        }
        self.newest = slot;
    }

    /// Makes a resting entry live again for its own key.
    pub(crate) fn wake(&mut self, slot: Slot, at: Timestamp, kind: Kind) {
        self.unlink_rest(slot);
        self.live += 1;
        let entry = self.entry_mut(slot);
        entry.kind = kind;
        entry.at = at;
        entry.prev = NONE;
        entry.next = NONE;
    }

    /// A key leads to this entry no longer.
    pub(crate) fn unlink_key(&mut self, aim: Aim, slot: Slot) {
        let entry = self.entry_mut(slot);
        if std::mem::take(&mut entry.linked) && aim.number != Some(entry.number()) {
            self.by_key.remove(key_tag(aim.hash), slot);
        }
    }

    /// The entry that has rested longest.
    pub(crate) fn longest_resting(&self) -> Option<Slot> {
        (self.oldest != NONE).then_some(self.oldest)
    }

    /// The resting entries, from the one that has rested longest.
    pub(crate) fn resting_entries(&self) -> impl Iterator<Item = &Entry> {
        let follow = |slot: &Slot| Some(self.entry(*slot).next).filter(|next| *next != NONE);
        std::iter::successors(self.longest_resting(), follow).map(|slot| self.entry(slot))
    }

    /// The live entries.
    pub(crate) fn live_entries(&self) -> impl Iterator<Item = &Entry> {
        self.chunks.iter().flatten().filter(|entry| entry.is_live())
    }

    /// Every entry.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.chunks
            .iter()
            .flatten()
            .filter(|entry| entry.kind != Kind::Vacant)
    }

    fn unlink_rest(&mut self, slot: Slot) {
        self.resting -= 1;
        let (prev, next) = (self.entry(slot).prev, self.entry(slot).next);
        match prev {
            NONE => self.oldest = next,
            _ => self.entry_mut(prev).next = next,
        }
        match next {
            NONE => self.newest = prev,
            _ => self.entry_mut(next).prev = prev,
        }
    }

    fn put(&mut self, entry: Entry) -> Slot {
        if self.vacant != NONE {
            let slot = self.vacant;
            self.vacant = self.entry(slot).next;
            *self.entry_mut(slot) = entry;
            return slot;
        }
        if self.used.is_multiple_of(CHUNK) {
            // The first chunk grows from small, as most users have few keys.
            self.chunks.push(if self.used == 0 {
                Vec::new()
            } else {
                Vec::with_capacity(CHUNK)
            });
        }
        let slot = self.used;
        self.chunks[slot / CHUNK].push(entry);
        self.used += 1;
        #[expect(clippy::cast_possible_truncation, reason = "2^32 entries would be 240 GB")]
        return slot as Slot;
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "32 of the bits; which of them is all one"
)]
fn key_tag(hash: u128) -> u32 {
    hash as u32
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "folded; a v4 address stays what it is"
)]
fn number_tag(number: u128) -> u32 {
    let folded = (number >> 64) as u64 ^ number as u64;
    (folded >> 32) as u32 ^ folded as u32
}
