//! From a hash to slots: the table behind looking up by key and by address.

use super::Slot;

/// Slots by 32 bits of a hash, in open addressing by lines of the cache.
///
/// What is looked for is mostly in the first line that is looked at, all cells of which are compared at once: a loop over single cells would end after an
/// unforeseeable number of steps, and a processor that guesses wrong cannot begin with the next lookup meanwhile. Growing looks at no entry. A general
/// table has its control bytes and its slots in two places of the memory, each of which costs as much as all the rest, or would have to keep the keys.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    /// A power of two of them.
    lines: Vec<Line>,
    len: usize,
}

/// A cell has a slot and its hash: the lowest byte, by which the cells are told apart, and the rest of it, which only growing needs.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Line {
    /// [`EMPTY`] where there is nothing.
    tags: [u8; CELLS],
    rests: [[u8; 3]; CELLS],
    slots: [Slot; CELLS],
}

const CELLS: usize = 8;
/// At most so much of the cells is full: 3 of 4.
const FULL: (usize, usize) = (3, 4);
const EMPTY: u8 = 0;

impl Line {
    const EMPTY: Self = Self {
        tags: [EMPTY; CELLS],
        rests: [[0; 3]; CELLS],
        slots: [0; CELLS],
    };

    /// The cells with this tag, from the first.
    #[inline]
    fn with(&self, tag: u8) -> impl Iterator<Item = usize> + use<> {
        let unlike = u64::from_le_bytes(self.tags) ^ (u64::from_le_bytes([tag; CELLS]));
        // The highest bit of each byte that is zero.
        let low_bits = u64::from_le_bytes([0x7f; CELLS]);
        let mut found = !(((unlike & low_bits) + low_bits) | unlike | low_bits);
        std::iter::from_fn(move || {
            let cell = (found != 0).then_some(found.trailing_zeros() as usize / 8)?;
            found &= found - 1;
            Some(cell)
        })
    }

    #[inline]
    fn is_full(&self) -> bool {
        self.with(EMPTY).next().is_none()
    }

    /// The hash of a cell that is not empty.
    fn hash(&self, cell: usize) -> u32 {
        let ([low, middle, high], tag) = (self.rests[cell], self.tags[cell]);
        u32::from_le_bytes([tag, low, middle, high])
    }

    fn set(&mut self, cell: usize, hash: u32, slot: Slot) {
        let [tag, rest @ ..] = hash.to_le_bytes();
        self.tags[cell] = tag;
        self.rests[cell] = rest;
        self.slots[cell] = slot;
    }
}

impl Default for Index {
    fn default() -> Self {
        Self {
            lines: vec![Line::EMPTY],
            len: 0,
        }
    }
}

impl Index {
    /// The slot under this hash that fits. Slots under other hashes may be tried as well.
    #[inline]
    pub(crate) fn find(&self, hash: u32, fits: impl Fn(Slot) -> bool) -> Option<Slot> {
        self.place(full(hash), fits).map(|(_, _, slot)| slot)
    }

    /// Adds a slot, which is not there yet, under any hash.
    pub(crate) fn insert(&mut self, hash: u32, slot: Slot) {
        self.reserve(1);
        self.put(full(hash), slot);
        self.len += 1;
    }

    /// Takes a slot out, if it is there, and tells whether it was.
    pub(crate) fn remove(&mut self, hash: u32, slot: Slot) -> bool {
        let Some((mut hole, mut cell, _)) = self.place(full(hash), |it| it == slot) else {
            return false;
        };
        self.len -= 1;
        // A search goes on behind a full line. What it would no longer reach there moves up.
        let mut at = hole;
        while self.lines[at].is_full() {
            at = self.after(at);
            let line = self.lines[at];
            let reaches = |cell: &usize| {
                line.tags[*cell] != EMPTY
                    && self.distance(self.start(line.hash(*cell)), at) >= self.distance(hole, at)
            };
            if let Some(from) = (0..CELLS).find(reaches) {
                self.lines[hole].set(cell, line.hash(from), line.slots[from]);
                (hole, cell) = (at, from);
            }
        }
        self.lines[hole].tags[cell] = EMPTY;
        true
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.lines.capacity() * size_of::<Line>()
    }

    /// Makes room for so many more.
    pub(crate) fn reserve(&mut self, more: usize) {
        let needed = ((self.len + more) * FULL.1 / FULL.0 + 1).div_ceil(CELLS);
        if needed <= self.lines.len() {
            return;
        }
        let lines = vec![Line::EMPTY; needed.next_power_of_two()];
        for line in std::mem::replace(&mut self.lines, lines) {
            for cell in (0..CELLS).filter(|cell| line.tags[*cell] != EMPTY) {
                self.put(line.hash(cell), line.slots[cell]);
            }
        }
    }

    /// The line and the cell of the slot that fits, and the slot.
    #[inline]
    fn place(&self, hash: u32, fits: impl Fn(Slot) -> bool) -> Option<(usize, usize, Slot)> {
        let mut at = self.start(hash);
        loop {
            let line = &self.lines[at];
            for cell in line.with(tag_of(hash)) {
                let slot = line.slots[cell];
                if fits(slot) {
                    return Some((at, cell, slot));
                }
            }
            if !line.is_full() {
                return None;
            }
            at = self.after(at);
        }
    }

    fn put(&mut self, hash: u32, slot: Slot) {
        let mut at = self.start(hash);
        loop {
            let line = &mut self.lines[at];
            if let Some(cell) = line.with(EMPTY).next() {
                return line.set(cell, hash, slot);
            }
            at = self.after(at);
        }
    }

    /// As far into the lines as the hash is into all hashes, so that growing keeps their order and goes through the memory once.
    #[inline]
    fn start(&self, hash: u32) -> usize {
        ((u64::from(hash) * self.lines.len() as u64) >> 32) as usize
    }

    #[inline]
    fn after(&self, at: usize) -> usize {
        (at + 1) & (self.lines.len() - 1)
    }

    /// How many lines `to` lies after `from`, going round.
    fn distance(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & (self.lines.len() - 1)
    }
}

/// The hash with a tag that no empty cell has.
#[inline]
fn full(hash: u32) -> u32 {
    if tag_of(hash) == EMPTY { hash | 1 } else { hash }
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the lowest byte")]
fn tag_of(hash: u32) -> u8 {
    hash as u8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Hashes of many lines and many of the last one, behind which comes the first; with one tag and with several.
    fn hash_of(slot: Slot) -> u32 {
        (31 - slot % 20 / 2) * 0x0800_0000 + slot % 3
    }

    proptest! {
        #[test]
        fn an_index_is_a_set_of_slots(steps in prop::collection::vec((any::<bool>(), 0u32..120), 0..600)) {
            let (mut index, mut model) = (Index::default(), std::collections::BTreeSet::new());
            for (add, slot) in steps {
                if add && model.insert(slot) {
                    index.insert(hash_of(slot), slot);
                } else if !add {
                    prop_assert_eq!(index.remove(hash_of(slot), slot), model.remove(&slot));
                }
                for slot in 0..120 {
                    let found = index.find(hash_of(slot), |it| it == slot);
                    prop_assert_eq!(found.is_some(), model.contains(&slot));
                }
            }
        }
    }
}
