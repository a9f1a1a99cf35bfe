//! Extended attributes: ACLs, labels and the user's own.

cfg_if::cfg_if! {
    if #[cfg(any(target_os = "linux", target_vendor = "apple"))] {
        mod calls;
        pub(super) use calls::*;
    } else {
        mod none;
        pub(super) use none::*;
    }
}
