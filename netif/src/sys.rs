//! The operating system's part: the same functions on each.

use crate::ChangeError;
#[cfg(any(target_os = "linux", target_os = "macos"))]
use crate::Error;

/// Why a wait returned.
#[cfg_attr(
    not(any(target_os = "linux", target_os = "macos", windows)),
    expect(dead_code, reason = "nothing is waited for there")
)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Woken {
    /// The system said something, which may have been noise.
    Heard,
    TimedOut,
    Interrupted,
}

cfg_if::cfg_if! {
    if #[cfg(target_os = "linux")] {
        mod linux;
        mod unix;
        pub(crate) use linux::{Machine, Source, listeners};
        pub(crate) use unix::Interrupter;
    } else if #[cfg(target_os = "macos")] {
        mod bsd;
        mod macos;
        mod unix;
        mod utun;
        pub(crate) use bsd::{Machine, listeners};
        pub(crate) use macos::Source;
        pub(crate) use unix::Interrupter;
    } else if #[cfg(windows)] {
        mod windows;
        pub(crate) use windows::{Interrupter, Machine, Source};
    } else if #[cfg(target_os = "freebsd")] {
        mod bsd;
        mod other;
        #[path = "sys/no_utun.rs"]
        mod utun;
        pub(crate) use bsd::{Machine, listeners};
        pub(crate) use other::{Interrupter, Source};
    } else {
        mod other;
        mod unknown;
        pub(crate) use other::{Interrupter, Source};
        pub(crate) use unknown::Machine;
    }
}

/// Systems that are not asked for their sockets.
#[cfg(not(any(target_os = "linux", target_os = "macos", target_os = "freebsd")))]
pub(crate) fn listeners(_with_programs: bool) -> Vec<crate::observed::Listener> {
    Vec::new()
}

// What macOS says is read as bytes, which is tested everywhere.
#[cfg(any(target_os = "macos", test))]
mod route_message;

#[cfg(any(target_os = "linux", target_os = "macos"))]
fn failed(what: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::System { what, source }
}

cfg_if::cfg_if! {
    if #[cfg(unix)] {
        /// What a program reads and writes the packets of a TUN interface with.
        pub type TunHandle = std::os::fd::OwnedFd;

        /// A handle that is like a TUN interface's in that it carries whole packets, and its other end.
        pub(crate) fn tun_handles() -> Result<(TunHandle, TunHandle), ChangeError> {
            let pair = std::os::unix::net::UnixDatagram::pair();
            let (handle, peer) = pair.map_err(|source| ChangeError::System {
                what: "make a pair of sockets".to_owned(),
                source,
            })?;
            Ok((handle.into(), peer.into()))
        }
    } else {
        /// What a program reads and writes the packets of a TUN interface with: nothing, on this system.
        pub type TunHandle = std::convert::Infallible;

        pub(crate) fn tun_handles() -> Result<(TunHandle, TunHandle), ChangeError> {
            Err(ChangeError::Unsupported { what: "a descriptor of a TUN interface".to_owned() })
        }
    }
}
