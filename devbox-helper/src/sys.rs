//! The lines that the system performs: leaving the caller's session, taking on a caller's rights.

#[cfg(unix)]
mod unix;
#[cfg(unix)]
pub(crate) use unix::{PASSES_LISTENERS, detach, end_on_terminate, listen, with_rights_of};

#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub(crate) use windows::{PASSES_LISTENERS, detach, end_on_terminate, listen, with_rights_of};
