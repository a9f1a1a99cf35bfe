//! The one place that knows which system this is: how a channel is made, written and read.

cfg_if::cfg_if! {
    if #[cfg(unix)] {
        mod unix;
        pub use unix::Descriptor;
        pub(crate) use unix::{Reader, Writer, connect, datagrams, descriptor, inherited, of_descriptor, passed, spawn};
    } else if #[cfg(windows)] {
        mod windows;
        pub use windows::Descriptor;
        pub(crate) use windows::{Reader, Writer, connect, datagrams, descriptor, inherited, of_descriptor, passed, spawn};
    }
}

/// Whether callers connect to a named pipe.
pub(crate) const HAS_PIPES: bool = cfg!(windows);
