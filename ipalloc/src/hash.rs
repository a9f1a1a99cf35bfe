//! The hash that an address is chosen by. It is fixed for ever: another hash moves every name of every user.
//!
//! The number of a key is SipHash-2-4 with 128 bits of output, keyed with the 16 ASCII bytes `devbox ipalloc 1`, of
//!
//! ```text
//! salt 0x00 name-of-pool 0x00 key
//! ```
//!
//! in UTF-8 (the default salt and name are empty: two zero bytes, then the key). The first 8 bytes of the output, read as a little-endian
//! number, are the high half of the number, the last 8, read likewise, its low half. The prefixes are not hashed, so a v4 pool and a v6 pool
//! with one salt and one name choose from one number. The place of the key among the `n` addresses of the pool is `number * n / 2^128`, rounded down: each
//! address gets its equal share, whatever `n` is.

use std::hash::Hasher as _;

use siphasher::sip128::{Hasher128 as _, SipHasher24};

use crate::Key;

/// A hasher that has taken in the salt and the name of the pool.
#[derive(Clone, Debug)]
pub(crate) struct KeyHasher(SipHasher24);

impl KeyHasher {
    pub(crate) fn new(salt: &str, name: &str) -> Self {
        let mut hasher = SipHasher24::new_with_key(b"devbox ipalloc 1");
        hasher.write(salt.as_bytes());
        hasher.write(&[0]);
        hasher.write(name.as_bytes());
        hasher.write(&[0]);
        Self(hasher)
    }

    pub(crate) fn number(&self, key: &Key) -> u128 {
        let mut hasher = self.0;
        hasher.write(key.as_str().as_bytes());
        let hash = hasher.finish128();
        (u128::from(hash.h1) << 64) | u128::from(hash.h2)
    }
}

/// `number * n / 2^128`, rounded down.
pub(crate) fn scale(number: u128, n: u128) -> u128 {
    let (high, low) = (number >> 64, number & u128::from(u64::MAX));
    let (n_high, n_low) = (n >> 64, n & u128::from(u64::MAX));
    // Long multiplication by halves; no sum overflows, as (2^64 - 1)^2 + 2 (2^64 - 1) = 2^128 - 1.
    let lowest = (low * n_low) >> 64;
    let middle = high * n_low + lowest;
    let carry = low * n_high + (middle & u128::from(u64::MAX));
    high * n_high + (middle >> 64) + (carry >> 64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The hash as its authors specify it (Aumasson and Bernstein, "SipHash: a fast short-input PRF", and the 128-bit
    /// variant of their reference code), written down once more: the crate in use cannot drift from the text above unseen.
    fn by_the_book(message: &[u8]) -> u128 {
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
        let (k0, k1) = (word(b"devbox i"), word(b"palloc 1"));
        let mut v = [
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d ^ 0xee,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ];
        fn round(v: &mut [u64; 4]) {
            v[0] = v[0].wrapping_add(v[1]);
            v[1] = v[1].rotate_left(13) ^ v[0];
            v[0] = v[0].rotate_left(32);
            v[2] = v[2].wrapping_add(v[3]);
            v[3] = v[3].rotate_left(16) ^ v[2];
            v[0] = v[0].wrapping_add(v[3]);
            v[3] = v[3].rotate_left(21) ^ v[0];
            v[2] = v[2].wrapping_add(v[1]);
            v[1] = v[1].rotate_left(17) ^ v[2];
            v[2] = v[2].rotate_left(32);
        }
        let mut padded = message.to_vec();
        padded.resize(message.len() / 8 * 8 + 7, 0);
        padded.push(u8::try_from(message.len() % 256).unwrap());
        for block in padded.chunks(8) {
            v[3] ^= word(block);
            round(&mut v);
            round(&mut v);
            v[0] ^= word(block);
        }
        let mut finish = |xor: u64, at: usize| {
            v[at] ^= xor;
            (0..4).for_each(|_| round(&mut v));
            v[0] ^ v[1] ^ v[2] ^ v[3]
        };
        let first = finish(0xee, 2);
        let second = finish(0xdd, 1);
        (u128::from(first) << 64) | u128::from(second)
    }

    proptest! {
        #[test]
        fn the_hash_is_the_documented_one(salt in "[a-z0-9]{0,12}", name in "[a-z]{0,9}", key in "[a-z/.-]{1,40}") {
            let message = format!("{salt}\0{name}\0{key}");
            let key = Key::new(&key).unwrap();
            prop_assert_eq!(KeyHasher::new(&salt, &name).number(&key), by_the_book(message.as_bytes()));
        }

        #[test]
        fn scaling_is_exact_for_small_pools(number: u128, n in 1u128..1 << 32) {
            // With n below 2^32, the product of n and the top 96 bits fits.
            let top = (number >> 32) * n;
            let carry = ((number & u128::from(u32::MAX)) * n) >> 32;
            prop_assert_eq!(scale(number, n), (top + carry) >> 96);
        }

        #[test]
        fn a_place_is_inside_the_pool(number: u128, n in 1u128..) {
            prop_assert!(scale(number, n) < n);
        }
    }

    #[test]
    fn scaling_keeps_to_the_ends() {
        assert_eq!(scale(u128::MAX, 1), 0);
        assert_eq!(scale(u128::MAX, u128::MAX), u128::MAX - 1);
        assert_eq!(scale(0, u128::MAX), 0);
        assert_eq!(scale(1 << 127, 1 << 64), 1 << 63);
    }
}
