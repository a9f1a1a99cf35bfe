//! Where the helper listens that is installed as a service of the system.

use std::path::{Path, PathBuf};

use crate::sys;

/// Where callers connect on Linux.
pub const SOCKET: &str = "/run/devbox/helper.sock";
/// Where callers connect on macOS, which has no `/run`.
pub const SOCKET_APPLE: &str = "/var/run/devbox-helper.sock";
/// Where callers connect on Windows: only administrators can make a pipe below this prefix, so that nobody can
/// wait there in the helper's place.
pub const PIPE: &str = r"\\.\pipe\ProtectedPrefix\Administrators\devbox-helper";

/// Where callers connect on this machine, whether or not a helper is installed.
#[must_use]
pub fn installed_socket() -> PathBuf {
    if sys::HAS_PIPES {
        PIPE.into()
    } else if Path::new("/run").is_dir() {
        SOCKET.into()
    } else {
        SOCKET_APPLE.into()
    }
}
