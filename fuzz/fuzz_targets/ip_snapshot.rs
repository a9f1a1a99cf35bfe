//! Any bytes as a snapshot, and as what stands in a snapshot with a true checksum: refused, or loaded, and the second time
//! the same.
#![no_main]

use ipalloc::store::fuzzing;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzzing::snapshot(bytes);
    fuzzing::document(bytes);
});
