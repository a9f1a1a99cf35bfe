//! The operating system's part: the same functions on each.

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
        pub(crate) use linux::Source;
        pub(crate) use unix::Interrupter;
    } else if #[cfg(target_os = "macos")] {
        mod macos;
        mod unix;
        pub(crate) use macos::Source;
        pub(crate) use unix::Interrupter;
    } else if #[cfg(windows)] {
        mod windows;
        pub(crate) use windows::{Interrupter, Source};
    } else {
        mod other;
        pub(crate) use other::{Interrupter, Source};
    }
}

// What macOS says is read as bytes, which is tested everywhere.
#[cfg(any(target_os = "macos", test))]
mod route_message;

#[cfg(any(target_os = "linux", target_os = "macos"))]
fn failed(what: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::System { what, source }
}
