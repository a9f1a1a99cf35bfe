//! Whether another program has a file open for writing.

cfg_if::cfg_if! {
    if #[cfg(target_os = "linux")] {
        mod linux;
        pub(in crate::file) use linux::*;
    } else {
        mod other;
        pub(in crate::file) use other::*;
    }
}
