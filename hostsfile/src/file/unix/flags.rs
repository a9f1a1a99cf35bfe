//! File flags that prevent even root from changing a file.

cfg_if::cfg_if! {
    if #[cfg(target_os = "linux")] {
        mod linux;
        pub(super) use linux::*;
    } else {
        mod other;
        pub(super) use other::*;
    }
}
