//! patch(1) makes the one file out of the other by their difference.
#![no_main]

#[path = "../../hostsfile/tests/fuzz/diffs.rs"]
mod diffs;

libfuzzer_sys::fuzz_target!(|input: &[u8]| diffs::check(input));
