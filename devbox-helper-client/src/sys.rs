//! The one place that knows which system this is: how a channel is made, written and read.

cfg_if::cfg_if! {
    if #[cfg(unix)] {
        mod unix;
        pub(crate) use unix::{Reader, Writer, datagrams, inherited, passed, spawn};
    } else if #[cfg(windows)] {
        mod windows;
        pub(crate) use windows::{Reader, Writer, datagrams, inherited, passed, spawn};
    }
}
