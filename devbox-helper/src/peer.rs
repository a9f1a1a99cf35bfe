//! What the system tells about another process.

#![cfg_attr(
    any(target_os = "linux", target_os = "android", target_vendor = "apple", windows),
    expect(unsafe_code, reason = "std has no call for this")
)]

cfg_if::cfg_if! {
    if #[cfg(any(target_os = "linux", target_os = "android"))] {
        mod linux;
        pub(crate) use linux::{boot, credentials, started};
    } else if #[cfg(target_vendor = "apple")] {
        mod apple;
        pub(crate) use apple::{boot, credentials, started};
    } else if #[cfg(windows)] {
        mod windows;
        pub(crate) use windows::{accounts, boot, credentials, started};
    } else {
        mod other;
        pub(crate) use other::{boot, credentials, started};
    }
}

// What macOS tells in a token is read as numbers, which is tested everywhere.
#[cfg(any(target_vendor = "apple", test))]
mod audit_token;

/// What is known of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Started {
    /// It is alive. Its start time is in a unit of the system's own, if the system tells.
    Lives(Option<u64>),
    /// No such process is alive.
    Never,
}

/// Who is at the other end of a socket, as the kernel says it: what they were when they connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Their further groups, where the system tells.
    pub(crate) groups: Vec<u32>,
    pub(crate) pid: u32,
    /// The name of the program, for the log. It is the program's own word, and nothing is decided by it.
    pub(crate) program: Option<String>,
}
