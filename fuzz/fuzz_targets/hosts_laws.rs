//! The two laws of a hosts document: what is parsed renders to the same bytes, and what is added is removed without a trace.
#![no_main]

#[path = "../../hostsfile/tests/fuzz/laws.rs"]
mod laws;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| laws::check(bytes));
