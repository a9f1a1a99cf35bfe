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

/// As std does it. It cannot be passed to anybody here.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address)
}
