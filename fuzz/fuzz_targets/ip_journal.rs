//! Any bytes as a journal behind a whole snapshot: refused or replayed, and the second time the same. Then any records with
//! true checksums, which are the bytes' lines.
#![no_main]

use ipalloc::store::fuzzing;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzzing::journal(bytes);
    fuzzing::records(bytes);
});
