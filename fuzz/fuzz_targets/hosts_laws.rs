//! The two laws of a hosts document: what is parsed is rendered as it was, what is added goes without a trace.
#![no_main]

#[path = "../../hostsfile/tests/fuzz/laws.rs"]
mod laws;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| laws::check(bytes));
