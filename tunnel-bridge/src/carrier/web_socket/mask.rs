//! Masking (RFC 6455 §5.3): each byte of a payload, exclusive or with the key's byte at its place modulo four.

/// A key, turned to where its payload has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mask([u8; 4]);

/// What is masked at a time: a few vector registers of any processor.
const BLOCK_BYTES: usize = 64;

impl Mask {
    /// The key at the start of a payload.
    pub(super) const fn new(key: [u8; 4]) -> Mask {
        Mask(key)
    }

    /// Masks `bytes`, or unmasks them, and turns to what follows them.
    pub(super) fn apply(&mut self, bytes: &mut [u8]) {
        let len = bytes.len();
        // A key of zeros changes nothing.
        if self.0 != [0; 4] {
            let pattern = self.pattern();
            let (blocks, rest) = bytes.as_chunks_mut::<BLOCK_BYTES>();
            for block in blocks {
                for (byte, key) in block.iter_mut().zip(pattern) {
                    *byte ^= key;
                }
            }
            for (byte, key) in rest.iter_mut().zip(pattern) {
                *byte ^= key;
            }
        }
        self.turn(len);
    }

    /// Writes `from`, masked, to `to`, as far as the shorter of the two goes, and turns to what follows; how many bytes
    /// that was.
    pub(super) fn copy(&mut self, from: &[u8], to: &mut [u8]) -> usize {
        let len = from.len().min(to.len());
        let (from, to) = (&from[..len], &mut to[..len]);
        if self.0 == [0; 4] {
            to.copy_from_slice(from);
        } else {
            let pattern = self.pattern();
            let (from_blocks, from_rest) = from.as_chunks::<BLOCK_BYTES>();
            let (to_blocks, to_rest) = to.as_chunks_mut::<BLOCK_BYTES>();
            for (from, to) in from_blocks.iter().zip(to_blocks) {
                for ((to, from), key) in to.iter_mut().zip(from).zip(pattern) {
                    *to = from ^ key;
                }
            }
            for ((to, from), key) in to_rest.iter_mut().zip(from_rest).zip(pattern) {
                *to = from ^ key;
            }
        }
        self.turn(len);
        len
    }

    fn pattern(self) -> [u8; BLOCK_BYTES] {
        let mut pattern = [0; BLOCK_BYTES];
        for (place, key) in pattern.iter_mut().zip(self.0.iter().cycle()) {
            *place = *key;
        }
        pattern
    }

    fn turn(&mut self, len: usize) {
        self.0.rotate_left(len % 4);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn by_the_book(key: [u8; 4], bytes: &[u8]) -> Vec<u8> {
        bytes
            .iter()
            .enumerate()
            .map(|(place, byte)| byte ^ key[place % 4])
            .collect()
    }

    #[test]
    fn the_example_of_the_rfc() {
        // RFC 6455 §5.7: a masked "Hello".
        let mut bytes = [0x7f, 0x9f, 0x4d, 0x51, 0x58];
        Mask::new([0x37, 0xfa, 0x21, 0x3d]).apply(&mut bytes);
        assert_eq!(&bytes, b"Hello");
    }

    proptest! {
        #[test]
        fn any_cutting_masks_as_the_rfc_says(
            key: [u8; 4],
            bytes in prop::collection::vec(any::<u8>(), 0..600),
            cuts in prop::collection::vec(0..200usize, 0..8),
        ) {
            let expected = by_the_book(key, &bytes);
            let (mut in_place, mut copied) = (bytes.clone(), vec![0; bytes.len()]);
            let (mut first, mut second) = (Mask::new(key), Mask::new(key));
            let mut at = 0usize;
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let end = at.saturating_add(cut).min(bytes.len());
                first.apply(&mut in_place[at..end]);
                let n = second.copy(&bytes[at..end], &mut copied[at..]);
                prop_assert_eq!(n, end - at);
                at = end;
            }
            prop_assert_eq!(&in_place, &expected);
            prop_assert_eq!(&copied, &expected);
        }
    }
}
