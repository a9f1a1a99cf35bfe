//! The installed helper: what its callers see, what it refuses them, and what is left when something is killed. The real server in a
//! directory of its own; the processes that tests start are this program again, with one of the ignored tests as the only one.
#![cfg(unix)]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "also outside the functions marked as tests"
)]

#[path = "../support/blocks.rs"]
mod blocks;
mod crash;
#[cfg(target_os = "linux")]
mod kernel;
mod refusals;
mod service;
mod stage;
#[cfg(target_os = "linux")]
mod victim;

#[test]
#[ignore = "the server that other tests run as a process of its own"]
fn server() {
    stage::serve();
}

#[test]
#[ignore = "a caller of another user that other tests run as a process of its own"]
fn caller() {
    stage::call();
}

#[test]
#[ignore = "a caller with sessions that other tests run as a process of its own"]
fn sessions() {
    crash::sessions();
}
