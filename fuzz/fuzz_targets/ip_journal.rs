//! Arbitrary bytes as a journal after a complete snapshot are refused or replayed, with the same result the second time. Then
//! the lines of the bytes are used as records with valid checksums.
#![no_main]

use ipalloc::store::fuzzing;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzzing::journal(bytes);
    fuzzing::records(bytes);
});
