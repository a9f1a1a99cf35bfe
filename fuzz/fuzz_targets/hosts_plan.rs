//! Plans of any edits of any bytes: consistent with themselves, and blocks leave the user's lines alone.
#![no_main]

#[path = "../../hostsfile/tests/fuzz/plans.rs"]
mod plans;

libfuzzer_sys::fuzz_target!(|input: &[u8]| plans::check(input));
