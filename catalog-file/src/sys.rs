//! What the operating systems call a shortage.

/// Error codes that say that no file can be opened: ENFILE and EMFILE have the same numbers on every Unix.
#[cfg(unix)]
pub(crate) const TOO_MANY_OPEN_FILES: &[i32] = &[23, 24];
/// `ERROR_TOO_MANY_OPEN_FILES`.
#[cfg(not(unix))]
pub(crate) const TOO_MANY_OPEN_FILES: &[i32] = &[4];
