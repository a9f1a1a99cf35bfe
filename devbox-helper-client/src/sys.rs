//! The one place that knows which system this is: how a channel is made and read.

#[cfg(unix)]
mod unix;
#[cfg(unix)]
pub(crate) use unix::{Reader, Writer, inherited, spawn};

#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub(crate) use windows::{Reader, Writer, inherited, spawn};
