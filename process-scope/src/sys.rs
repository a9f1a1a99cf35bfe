//! The operating system's part: the same functions on each.

cfg_if::cfg_if! {
    if #[cfg(target_os = "linux")] {
        mod linux;
        pub(crate) use linux::*;
    } else {
        mod other;
        pub(crate) use other::*;
    }
}
