//! Plans of arbitrary edits of arbitrary bytes are consistent, and edits of blocks leave the user's lines alone.
#![no_main]

#[path = "../../hostsfile/tests/fuzz/plans.rs"]
mod plans;

libfuzzer_sys::fuzz_target!(|input: &[u8]| plans::check(input));
