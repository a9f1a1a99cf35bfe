//! Masking (RFC 6455 §5.3): each byte of a payload, exclusive or with the key's byte at its place modulo four.

/// A key, turned to where its payload has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mask([u8; 4]);

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
            // By words, which every compiler makes vectors of.
            let key = self.word();
            let (words, rest) = bytes.as_chunks_mut::<8>();
            for word in words {
                *word = (u64::from_ne_bytes(*word) ^ key).to_ne_bytes();
            }
            for (byte, key) in rest.iter_mut().zip(key.to_ne_bytes()) {
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
            let key = self.word();
            let (from_words, from_rest) = from.as_chunks::<8>();
            let (to_words, to_rest) = to.as_chunks_mut::<8>();
            for (from, to) in from_words.iter().zip(to_words) {
                *to = (u64::from_ne_bytes(*from) ^ key).to_ne_bytes();
            }
            for ((to, from), key) in to_rest.iter_mut().zip(from_rest).zip(key.to_ne_bytes()) {
                *to = from ^ key;
            }
        }
        self.turn(len);
        len
    }

    /// The key, twice.
    const fn word(self) -> u64 {
        let [a, b, c, d] = self.0;
        u64::from_ne_bytes([a, b, c, d, a, b, c, d])
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
