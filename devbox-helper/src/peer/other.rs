//! Systems of which only this is known: whether a process of that id is there.

use std::io;

use super::Started;

/// Whether it lives; not when it started.
pub(crate) fn started(pid: u32) -> io::Result<Started> {
    let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else {
        return Ok(Started::Never);
    };
    match rustix::process::test_kill_process(pid) {
        Err(rustix::io::Errno::SRCH) => Ok(Started::Never),
        Ok(()) | Err(_) => Ok(Started::Lives(None)),
    }
}

/// Not known here.
pub(crate) fn boot() -> &'static str {
    "0"
}
