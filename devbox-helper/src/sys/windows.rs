//! A child without a console gets no console events: there is nothing to leave.
#![expect(
    unsafe_code,
    reason = "pipes, security descriptors and the event log have no safe wrapper"
)]

use std::io;
use std::net::{SocketAddr, TcpListener};

use crate::policy::Caller;

mod control;
pub(super) mod service;

pub(crate) use control::as_service;

/// Whether a listener can be passed to the caller.
pub(crate) const PASSES_LISTENERS: bool = false;

#[expect(clippy::unnecessary_wraps, reason = "it can fail on other systems")]
pub(crate) fn detach() -> io::Result<()> {
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "it can fail on other systems")]
pub(crate) fn hold_signals() -> io::Result<()> {
    Ok(())
}

/// The service control manager, or Ctrl-C.
pub(crate) fn on_terminate_or_interrupt(end: impl FnOnce() + Send + 'static) -> io::Result<()> {
    control::on_end(end)
}

#[expect(clippy::unnecessary_wraps, reason = "it can fail on other systems")]
pub(crate) fn on_terminate(_: impl FnOnce() + Send + 'static) -> io::Result<()> {
    Ok(())
}

pub(crate) fn shut_input() {}

/// Windows has no numeric user ids to act for.
pub(crate) fn with_rights_of<T>(_: &Caller, _: impl FnOnce() -> T) -> io::Result<T> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "acting as another user",
    ))
}

/// There is no journal on this system.
pub(crate) fn is_root() -> bool {
    false
}

pub(crate) fn give_memory_back() {}

/// What comes of a [`fork`] elsewhere.
#[expect(dead_code, reason = "there is none")]
pub(crate) enum Fork {
    Helper,
    Keeper { callers_end: TcpListener, helper: u32 },
}

/// A caller keeps its rights on this system, and starts its helpers itself.
pub(crate) fn fork() -> io::Result<Fork> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "keeping a helper"))
}

pub(crate) fn was_killed(_: u32) -> io::Result<bool> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "keeping a helper"))
}

/// As std does it. It cannot be passed to anybody here.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address)
}

/// Nothing can be passed to anybody here.
pub(crate) fn bind_datagrams(_: SocketAddr) -> io::Result<TcpListener> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "handing over a socket",
    ))
}
