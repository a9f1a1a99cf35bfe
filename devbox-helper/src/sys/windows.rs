//! A child without a console gets no console events: there is nothing to leave.

use std::io;
use std::net::{SocketAddr, TcpListener};

use crate::policy::Caller;

/// Whether a listener can be passed to the caller.
pub(crate) const PASSES_LISTENERS: bool = false;

#[expect(clippy::unnecessary_wraps, reason = "it can fail on other systems")]
pub(crate) fn detach() -> io::Result<()> {
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "it can fail on other systems")]
pub(crate) fn end_on_terminate() -> io::Result<()> {
    Ok(())
}

/// Windows has no numeric user ids to act for.
pub(crate) fn with_rights_of<T>(_: &Caller, _: impl FnOnce() -> T) -> io::Result<T> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "acting as another user",
    ))
}

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
