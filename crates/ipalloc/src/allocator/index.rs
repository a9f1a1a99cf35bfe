//! From a hash to slots: the table behind looking up by key and by address.

use super::Slot;

/// Slots by 32 bits of a hash, in open addressing with linear probing.
///
/// What is looked for is mostly in the first line of the cache that is looked at, and growing looks at no entry. A general table looks at a line of
/// control bytes besides, or would have to keep the keys themselves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    /// The tag above, the slot + 1 below; 0 is empty. A power of two of them, or none.
    cells: Vec<u64>,
    len: usize,
}

/// At most so much of the cells is full: 3 of 4.
const FULL: (usize, usize) = (3, 4);
const LEAST_CELLS: usize = 16;

impl Index {
    /// The first slot under this tag that fits.
    #[inline]
    pub(crate) fn find(&self, tag: u32, fits: impl Fn(Slot) -> bool) -> Option<Slot> {
        if self.len == 0 {
            return None;
        }
        let mut at = self.start(tag);
        loop {
            let cell = self.cells[at];
            if cell == 0 {
                return None;
            }
            if tag_of(cell) == tag && fits(slot_of(cell)) {
                return Some(slot_of(cell));
            }
            at = self.after(at);
        }
    }

    /// Adds a slot, which is not there yet.
    pub(crate) fn insert(&mut self, tag: u32, slot: Slot) {
        self.reserve(1);
        self.put(cell_of(tag, slot));
        self.len += 1;
    }

    /// Takes a slot out, if it is there.
    pub(crate) fn remove(&mut self, tag: u32, slot: Slot) {
        if self.len == 0 {
            return;
        }
        let wanted = cell_of(tag, slot);
        let mut at = self.start(tag);
        while self.cells[at] != wanted {
            if self.cells[at] == 0 {
                return;
            }
            at = self.after(at);
        }
        self.len -= 1;
        // What follows moves up, unless it would then stand before its start.
        let mut hole = at;
        loop {
            at = self.after(at);
            let cell = self.cells[at];
            if cell == 0 {
                break;
            }
            let mask = self.cells.len() - 1;
            let from_start = at.wrapping_sub(self.start(tag_of(cell))) & mask;
            if from_start >= at.wrapping_sub(hole) & mask {
                self.cells[hole] = cell;
                hole = at;
            }
        }
        self.cells[hole] = 0;
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.cells.capacity() * size_of::<u64>()
    }

    /// Makes room for so many more.
    pub(crate) fn reserve(&mut self, more: usize) {
        let needed = (self.len + more) * FULL.1 / FULL.0 + 1;
        if needed <= self.cells.len() {
            return;
        }
        let cells = vec![0; needed.next_power_of_two().max(LEAST_CELLS)];
        for cell in std::mem::replace(&mut self.cells, cells) {
            if cell != 0 {
                self.put(cell);
            }
        }
    }

    fn put(&mut self, cell: u64) {
        let mut at = self.start(tag_of(cell));
        while self.cells[at] != 0 {
            at = self.after(at);
        }
        self.cells[at] = cell;
    }

    /// The top bits of a product, which spreads what is close together.
    #[expect(clippy::cast_possible_truncation, reason = "fewer bits than the cells have")]
    fn start(&self, tag: u32) -> usize {
        let spread = u64::from(tag).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (spread >> (64 - self.cells.len().trailing_zeros())) as usize
    }

    fn after(&self, at: usize) -> usize {
        (at + 1) & (self.cells.len() - 1)
    }
}

fn cell_of(tag: u32, slot: Slot) -> u64 {
    (u64::from(tag) << 32) | (u64::from(slot) + 1)
}

fn tag_of(cell: u64) -> u32 {
    (cell >> 32) as u32
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half")]
fn slot_of(cell: u64) -> Slot {
    (cell as u32).wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_index_is_a_set_of_pairs(steps in prop::collection::vec((any::<bool>(), 0u32..40, 0u32..8), 0..400)) {
            let (mut index, mut model) = (Index::default(), std::collections::BTreeSet::new());
            for (add, tag, slot) in steps {
                // Tags that collide in the table, and slots of one tag.
                let tag = tag % 20 * 0x0800_0000;
                if add && model.insert((tag, slot)) {
                    index.insert(tag, slot);
                } else if !add {
                    model.remove(&(tag, slot));
                    index.remove(tag, slot);
                }
                for tag in (0..20).map(|tag| tag * 0x0800_0000) {
                    for slot in 0..8 {
                        let found = index.find(tag, |it| it == slot);
                        prop_assert_eq!(found.is_some(), model.contains(&(tag, slot)));
                    }
                }
            }
        }
    }
}
