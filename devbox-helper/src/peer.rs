//! What the system tells about another process.

#![cfg_attr(
    any(target_vendor = "apple", windows),
    expect(unsafe_code, reason = "std has no call for this")
)]

cfg_if::cfg_if! {
    if #[cfg(any(target_os = "linux", target_os = "android"))] {
        mod linux;
        pub(crate) use linux::{boot, started};
    } else if #[cfg(target_vendor = "apple")] {
        mod apple;
        pub(crate) use apple::{boot, started};
    } else if #[cfg(windows)] {
        mod windows;
        pub(crate) use windows::{boot, started};
    } else {
        mod other;
        pub(crate) use other::{boot, started};
    }
}

/// What is known of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Started {
    /// It is alive. Its start time is in a unit of the system's own, if the system tells.
    Lives(Option<u64>),
    /// No such process is alive.
    Never,
}
