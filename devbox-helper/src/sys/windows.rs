//! A child without a console gets no console events: there is nothing to leave.

use std::io;
use std::net::{SocketAddr, TcpListener};

use crate::policy::Caller;

pub(super) mod service {
    //! There is no helper with several callers on this system.

    use std::io;
    use std::net::TcpListener;
    use std::path::Path;

    use devbox_helper_client::{Descriptor, HelperError};

    /// Where callers would connect.
    #[derive(Debug)]
    pub(crate) struct Listener(std::convert::Infallible);

    impl Listener {
        pub(crate) fn at(_: &Path) -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(crate) fn activated() -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(crate) fn accept(&self) -> io::Result<Descriptor> {
            match self.0 {}
        }
    }

    pub(crate) fn read_trusted(_: &Path) -> io::Result<String> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn uid_of(_: &str) -> Option<u32> {
        None
    }

    pub(crate) fn gid_of(_: &str) -> Option<u32> {
        None
    }

    pub(crate) fn send_datagram(_: &Path, _: &[u8]) -> bool {
        false
    }

    pub(crate) fn passable(tun: netif::TunHandle) -> Result<TcpListener, HelperError> {
        match tun {}
    }

    /// There is none.
    pub(crate) const SYSLOG: &str = "";
}

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

#[expect(clippy::unnecessary_wraps, reason = "it can fail on other systems")]
pub(crate) fn on_terminate_or_interrupt(_: impl FnOnce() + Send + 'static) -> io::Result<()> {
    Ok(())
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
