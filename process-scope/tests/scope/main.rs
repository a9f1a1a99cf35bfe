//! The real thing: commands that run in a scope, as root and as an ordinary user.
//!
//! The program that is run again is the example `with-hosts`, since a test harness has a `main` of its own.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test; what is outside #[test] functions counts too"
)]

mod life;
mod support;
mod system;
mod terminal;
mod view;
