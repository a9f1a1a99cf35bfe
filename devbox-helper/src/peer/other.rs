//! Systems that only tell whether a process with that id exists.

use std::io;

use devbox_helper_client::Descriptor;

use super::{Credentials, Started};

/// Whether it is alive, but not when it started.
pub(crate) fn started(pid: u32) -> io::Result<Started> {
    let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else {
        return Ok(Started::Never);
    };
    match rustix::process::test_kill_process(pid) {
        Err(rustix::io::Errno::SRCH) => Ok(Started::Never),
        Ok(()) | Err(_) => Ok(Started::Lives(None)),
    }
}

/// Unknown here.
pub(crate) fn boot() -> &'static str {
    "0"
}

/// Not told here.
pub(crate) fn credentials(_: &Descriptor) -> io::Result<Credentials> {
    Err(io::ErrorKind::Unsupported.into())
}
