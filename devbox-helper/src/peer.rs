//! What the system says of another process.

#![cfg_attr(
    any(target_vendor = "apple", windows),
    expect(unsafe_code, reason = "std has no call for this")
)]

#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux;
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) use linux::{boot, started};

#[cfg(target_vendor = "apple")]
mod apple;
#[cfg(target_vendor = "apple")]
pub(crate) use apple::{boot, started};

#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub(crate) use windows::{boot, started};

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple", windows)))]
mod other;
#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple", windows)))]
pub(crate) use other::{boot, started};

/// What is known of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Started {
    /// It lives, and started then, in a unit of the system's own, where that is told.
    Lives(Option<u64>),
    /// No such process lives.
    Never,
}
