//! What std offers only on Unix.

#[cfg(unix)]
mod unix;
#[cfg(unix)]
pub(crate) use unix::{is_root, link, make_executable, mode, own_group};

#[cfg(not(unix))]
mod other;
#[cfg(not(unix))]
pub(crate) use other::{is_root, link, make_executable, mode, own_group};
