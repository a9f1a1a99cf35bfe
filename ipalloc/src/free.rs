//! Which places of a pool are free, and the next free one from any place on.

use crate::address::Runs;

/// The places that are not free to be given to anybody.
///
/// A hash scatters over a pool, so a bit for each place is small beside the leases as soon as one place of 64 is taken. In a pool that is larger than
/// that, neighbours are rare, and looking up one address after the other finds a free one at once. Lowest-first fills
/// a pool without gaps, which are few runs.
#[derive(Clone, Debug)]
pub(crate) enum Free {
    /// A bit for each place.
    Bits(BitTree),
    /// Runs of taken places, for lowest-first in a large pool.
    Runs { taken: Runs, len: u128 },
    /// Only what is reserved, as runs: by hash in a large pool that is nearly empty. The caller knows what else is taken.
    Scan { reserved: Runs, len: u128 },
}

/// A pool up to this size has a bit for each place from the start: 2 MiB for a /8, which the system hands out page by page.
const ALWAYS_BITS: u128 = 1 << 24;
/// A larger pool has them once one of so many places is taken.
const BITS_FROM_FILL: u128 = 64;

impl Free {
    /// All places free.
    pub(crate) fn new(len: u128, lowest_first: bool) -> Self {
        if len <= ALWAYS_BITS {
            Self::Bits(BitTree::new(len))
        } else if lowest_first {
            Self::Runs {
                taken: Runs::default(),
                len,
            }
        } else {
            Self::Scan {
                reserved: Runs::default(),
                len,
            }
        }
    }

    /// Whether the caller should make this one with a bit for each place, as so many places are taken.
    pub(crate) fn outgrown(&self, taken: usize) -> bool {
        matches!(self, Self::Scan { len, .. } if taken as u128 >= len / BITS_FROM_FILL)
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        match self {
            Self::Bits(tree) => tree
                .levels
                .iter()
                .map(|level| level.capacity() * size_of::<u64>())
                .sum(),
            // Runs are few.
            Self::Runs { .. } | Self::Scan { .. } => 0,
        }
    }

    /// Whether the place is free. Only [`Free::Scan`] asks whether it is taken.
    pub(crate) fn is_free(&self, place: u128, is_taken: impl FnOnce() -> bool) -> bool {
        match self {
            Self::Bits(tree) => tree.is_clear(index(place)),
            Self::Runs { taken, .. } => !taken.contains(place),
            Self::Scan { reserved, .. } => !reserved.contains(place) && !is_taken(),
        }
    }

    pub(crate) fn set(&mut self, place: u128, taken: bool) {
        match self {
            Self::Bits(tree) => tree.set(index(place), taken),
            Self::Runs { taken: runs, .. } if taken => runs.insert(place, place),
            Self::Runs { taken: runs, .. } => runs.remove(place),
            Self::Scan { .. } => {}
        }
    }

    /// Takes a run of places out, for good.
    pub(crate) fn reserve(&mut self, first: u128, last: u128) {
        match self {
            Self::Bits(tree) => (first..=last).for_each(|place| tree.set(index(place), true)),
            Self::Runs { taken, .. } => taken.insert(first, last),
            Self::Scan { reserved, .. } => reserved.insert(first, last),
        }
    }

    /// The next free place from `from` on to the end. Only [`Free::Scan`] asks whether a place is taken.
    pub(crate) fn next(&self, from: u128, is_taken: impl Fn(u128) -> bool) -> Option<u128> {
        match self {
            Self::Bits(tree) => tree.next_clear(index(from)).map(|place| place as u128),
            Self::Runs { taken, len } => taken.next_gap(from).filter(|place| place < len),
            Self::Scan { reserved, len } => {
                let mut place = from;
                while place < *len {
                    if let Some(last) = reserved.run_end(place) {
                        place = last.checked_add(1)?;
                    } else if is_taken(place) {
                        place += 1;
                    } else {
                        return Some(place);
                    }
                }
                None
            }
        }
    }

    /// The next free place from `from` on, going round at the end.
    pub(crate) fn next_round(&self, from: u128, is_taken: impl Fn(u128) -> bool) -> Option<u128> {
        self.next(from, &is_taken)
            .or_else(|| self.next(0, &is_taken).filter(|place| *place < from))
    }
}

fn index(place: u128) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}

/// A bit for each place, and over them levels of bits that tell which words are full, so that the next clear bit is
/// found in one step a level: 4 levels for a /8.
#[derive(Clone, Debug)]
pub(crate) struct BitTree {
    levels: Vec<Vec<u64>>,
    len: usize,
}

impl BitTree {
    pub(crate) fn new(len: u128) -> Self {
        let len = index(len);
        let mut tree = Self {
            levels: Vec::new(),
            len,
        };
        let mut bits = len;
        loop {
            let words = bits.div_ceil(64);
            let mut level = vec![0; words];
            // Bits behind the end count as taken, so that full words look full.
            if let (Some(last), true) = (level.last_mut(), !bits.is_multiple_of(64)) {
                *last = u64::MAX << (bits % 64);
            }
            tree.levels.push(level);
            if words <= 1 {
                return tree;
            }
            bits = words;
        }
    }

    pub(crate) fn is_clear(&self, bit: usize) -> bool {
        let word = self.levels.first().and_then(|level| level.get(bit / 64));
        word.is_some_and(|word| word & (1 << (bit % 64)) == 0)
    }

    pub(crate) fn set(&mut self, mut bit: usize, taken: bool) {
        for level in &mut self.levels {
            let Some(word) = level.get_mut(bit / 64) else {
                return;
            };
            let was_full = *word == u64::MAX;
            if taken {
                *word |= 1 << (bit % 64);
            } else {
                *word &= !(1 << (bit % 64));
            }
            if was_full == (*word == u64::MAX) {
                return;
            }
            bit /= 64;
        }
    }

    pub(crate) fn next_clear(&self, from: usize) -> Option<usize> {
        if from >= self.len {
            return None;
        }
        // Upwards until a word has a clear bit from here on.
        let mut bit = from;
        for (height, level) in self.levels.iter().enumerate() {
            let word = level.get(bit / 64)? | ((1 << (bit % 64)) - 1);
            if word != u64::MAX {
                bit = bit / 64 * 64 + word.trailing_ones() as usize;
                // And down into the first word that is not full.
                for level in self.levels.iter().take(height).rev() {
                    bit = bit * 64 + level.get(bit)?.trailing_ones() as usize;
                }
                return Some(bit);
            }
            bit = bit / 64 + 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_kind_finds_what_a_set_finds(
            len in 1u128..9000,
            steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>(), 0u128..130), 0..60),
            from: prop::sample::Index,
        ) {
            let size = usize::try_from(len).unwrap();
            let mut kinds = [
                Free::Bits(BitTree::new(len)),
                Free::Runs { taken: Runs::default(), len },
                Free::Scan { reserved: Runs::default(), len },
            ];
            let mut taken = BTreeSet::new();
            for (take, at, more) in steps {
                let first = at.index(size) as u128;
                let last = (first + more).min(len - 1);
                for place in first..=last {
                    if take { taken.insert(place); } else { taken.remove(&place); }
                    kinds.iter_mut().for_each(|free| free.set(place, take));
                }
            }
            for from in [from.index(size) as u128, 0, len - 1] {
                let expected = (from..len).chain(0..from).find(|place| !taken.contains(place));
                for free in &kinds {
                    prop_assert_eq!(free.next_round(from, |place| taken.contains(&place)), expected);
                }
            }
        }
    }

    #[test]
    fn a_full_tree_has_nothing_and_one_release_is_found() {
        let mut tree = BitTree::new(65_534);
        (0..65_534).for_each(|bit| tree.set(bit, true));
        assert_eq!(tree.next_clear(0), None);
        tree.set(40_000, false);
        assert_eq!(tree.next_clear(0), Some(40_000));
        assert_eq!(tree.next_clear(40_001), None);
    }
}
