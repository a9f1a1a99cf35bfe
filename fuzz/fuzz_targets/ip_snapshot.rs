//! Arbitrary bytes as a snapshot, and as the content of a snapshot with a valid checksum, are refused or loaded, with the same
//! result the second time.
#![no_main]

use ipalloc::store::fuzzing;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzzing::snapshot(bytes);
    fuzzing::document(bytes);
});
