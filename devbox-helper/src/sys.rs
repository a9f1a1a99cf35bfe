//! The lines that the system performs: leaving the caller's session, taking on a caller's rights.

cfg_if::cfg_if! {
    if #[cfg(unix)] {
        mod unix;
        pub(crate) use unix::{Fork, PASSES_LISTENERS, bind_datagrams, detach, end_on_terminate, fork, listen, was_killed, with_rights_of};
    } else if #[cfg(windows)] {
        mod windows;
        pub(crate) use windows::{Fork, PASSES_LISTENERS, bind_datagrams, detach, end_on_terminate, fork, listen, was_killed, with_rights_of};
    }
}
