//! The frames of a WebSocket, of either side, cut anywhere: what our carrier makes of them is what tungstenite does.
#![no_main]

#[path = "../../tunnel-bridge/tests/web_socket/oracle.rs"]
mod oracle;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| oracle::check(bytes));
