//! A tunnel's peer that says anything in any pieces, of either role, over connections that are lost and come back: nothing panics, the
//! pieces mean nothing, and a link that goes on says what it said before.
#![no_main]

#[path = "../../tunnel-proto/tests/mux/peer.rs"]
mod peer;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| peer::check(bytes));
