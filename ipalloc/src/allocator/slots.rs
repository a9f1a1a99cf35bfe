//! Who has which address: entries found by key and by address, and the order in which released ones came to rest.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, Hasher as _};

use foldhash::quality::{FoldHasher, RandomState};

use super::index::Index;
use crate::{Key, Timestamp};

/// Names an entry for as long as it is there.
pub(crate) type Slot = u32;
const NONE: Slot = Slot::MAX;

/// An address with its key, in one line of the cache or in two beside one another: what a lookup reads comes first.
#[derive(Clone, Debug)]
#[repr(C, align(32))]
pub(crate) struct Entry {
    // Two halves, as a u128 would be aligned to 16 bytes.
    high: u64,
    low: u64,
    pub(crate) kind: Kind,
    pub(crate) key: Key,
    /// Since when it is leased, or released.
    pub(crate) at: Timestamp,
    /// In a live entry `next` leads to another key at the same address. In a resting one both lead through the order of release, in a
    /// vacant one `next` leads to the next vacant one.
    prev: Slot,
    next: Slot,
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
    entries: Entries,
    /// The one that a key holds, or else that it held last.
    by_key: Index,
    /// Those that rest beside that one, first released first. Few keys have any.
    former: HashMap<Key, VecDeque<Slot>, RandomState>,
    by_number: Index,
    hashes: Hashes,
    addresses: usize,
    live: usize,
    resting: usize,
    /// Released first and last.
    oldest: Slot,
    newest: Slot,
}

impl Slots {
    pub(crate) fn new() -> Self {
        Self {
            entries: Entries::default(),
            by_key: Index::default(),
            former: HashMap::default(),
            by_number: Index::default(),
            hashes: Hashes::default(),
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
        self.entries.memory_bytes() + self.by_key.memory_bytes() + self.by_number.memory_bytes()
    }

    /// Makes room for so many more entries.
    pub(crate) fn reserve(&mut self, more: usize) {
        self.by_key.reserve(more);
        self.by_number.reserve(more);
    }

    #[inline]
    pub(crate) fn entry(&self, slot: Slot) -> &Entry {
        self.entries.get(slot)
    }

    pub(crate) fn entry_mut(&mut self, slot: Slot) -> &mut Entry {
        self.entries.get_mut(slot)
    }

    /// The entry that a key leads to, live or resting.
    #[inline]
    pub(crate) fn by_key(&self, key: &Key) -> Option<Slot> {
        let key = key.as_str();
        self.by_key.find(self.hashes.of_key(key), |slot| {
            self.entry(slot).key.as_str() == key
        })
    }

    /// The first entry at an address, live or resting.
    #[inline]
    pub(crate) fn by_number(&self, number: u128) -> Option<Slot> {
        self.by_number.find(self.hashes.of_number(number), |slot| {
            self.entry(slot).number() == number
        })
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
    pub(crate) fn insert(&mut self, key: &Key, number: u128, at: Timestamp, kind: Kind) -> Slot {
        // First of all, so that the processor fetches both lines while it does the rest.
        let (key_hash, number_hash) = (self.hashes.of_key(key.as_str()), self.hashes.of_number(number));
        let first = self.by_number(number);
        let second = first.map_or(NONE, |first| self.entry(first).next);
        let slot = self.entries.add(Entry {
            key: key.clone(),
            high: (number >> 64) as u64,
            #[expect(clippy::cast_possible_truncation, reason = "the low half")]
            low: number as u64,
            at,
            prev: NONE,
            next: second,
            kind,
        });
        self.by_key.insert(key_hash, slot);
        if let Some(first) = first {
            self.entry_mut(first).next = slot;
        } else {
            self.by_number.insert(number_hash, slot);
            self.addresses += 1;
        }
        self.live += 1;
        slot
    }

    /// Takes an entry out, live or resting.
    pub(crate) fn remove(&mut self, slot: Slot) {
        self.forget_key(slot);
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
            self.by_number.remove(self.hashes.of_number(number), slot);
            if successor == NONE {
                self.addresses -= 1;
            } else {
                self.by_number.insert(self.hashes.of_number(number), successor);
            }
        } else {
            let before = self.at_number(number).find(|it| self.entry(*it).next == slot);
            if let Some(before) = before {
                self.entry_mut(before).next = successor;
            }
        }
        self.entries.remove(slot);
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

    /// The key of this resting entry leads to another one from now on, or holds another.
    pub(crate) fn unlink_key(&mut self, slot: Slot) {
        let key = &self.entry(slot).key;
        let (key, hash) = (key.clone(), self.hashes.of_key(key.as_str()));
        self.by_key.remove(hash, slot);
        self.former.entry(key).or_default().push_back(slot);
    }

    /// A key leads to this entry no longer: where it did, it leads to the one before.
    fn forget_key(&mut self, slot: Slot) {
        let key = &self.entries.get(slot).key;
        let hash = self.hashes.of_key(key.as_str());
        let led = self.by_key.remove(hash, slot);
        let Some(former) = self.former.get_mut(key) else {
            return;
        };
        if led {
            if let Some(before) = former.pop_back() {
                self.by_key.insert(hash, before);
            }
        } else if let Some(at) = former.iter().position(|it| *it == slot) {
            former.remove(at);
        }
        if former.is_empty() {
            self.former.remove(key);
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
        self.entries().filter(|entry| entry.is_live())
    }

    /// Every entry.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.kind != Kind::Vacant)
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
}

/// A fast hash with a seed of its own: computing the one that addresses are chosen by takes longer than finding an entry.
#[derive(Clone, Debug, Default)]
struct Hashes(RandomState);

impl Hashes {
    #[inline]
    fn of_key(&self, key: &str) -> u32 {
        self.of(|hasher| hasher.write(key.as_bytes()))
    }

    #[inline]
    fn of_number(&self, number: u128) -> u32 {
        self.of(|hasher| hasher.write_u128(number))
    }

    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "32 of the bits; which of them is all one"
    )]
    fn of(&self, write: impl FnOnce(&mut FoldHasher<'_>)) -> u32 {
        let mut hasher = self.0.build_hasher();
        write(&mut hasher);
        hasher.finish() as u32
    }
}

/// The entries by slot.
#[derive(Clone, Debug)]
struct Entries {
    chunks: Vec<Vec<Entry>>,
    used: usize,
    vacant: Slot,
}

/// Entries a chunk: chunks grow without moving and without slack.
const CHUNK: usize = 4096;

impl Default for Entries {
    fn default() -> Self {
        Self {
            chunks: Vec::new(),
            used: 0,
            vacant: NONE,
        }
    }
}

impl Entries {
    #[inline]
    fn get(&self, slot: Slot) -> &Entry {
        let slot = slot as usize;
        &self.chunks[slot / CHUNK][slot % CHUNK]
    }

    fn get_mut(&mut self, slot: Slot) -> &mut Entry {
        let slot = slot as usize;
        &mut self.chunks[slot / CHUNK][slot % CHUNK]
    }

    fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.chunks.iter().flatten()
    }

    fn memory_bytes(&self) -> usize {
        self.chunks.iter().map(Vec::capacity).sum::<usize>() * size_of::<Entry>()
    }

    fn remove(&mut self, slot: Slot) {
        let vacant = std::mem::replace(&mut self.vacant, slot);
        let entry = self.get_mut(slot);
        entry.key = Key::vacant();
        entry.kind = Kind::Vacant;
        entry.next = vacant;
    }

    fn add(&mut self, entry: Entry) -> Slot {
        if self.vacant != NONE {
            let slot = self.vacant;
            self.vacant = self.get(slot).next;
            *self.get_mut(slot) = entry;
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
        #[expect(clippy::cast_possible_truncation, reason = "2^32 entries would be 400 GB")]
        return slot as Slot;
    }
}
