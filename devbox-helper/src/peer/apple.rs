//! `proc_pidinfo` (libproc.h); for processes of other users it may answer root only.

use std::io;
use std::mem::{MaybeUninit, size_of};

use devbox_helper_client::Descriptor;
use nix::sys::socket::{getsockopt, sockopt};

use super::{Credentials, Started, audit_token};

/// Microseconds since 1970. A zombie counts as ended.
pub(crate) fn started(pid: u32) -> io::Result<Started> {
    let Ok(raw) = i32::try_from(pid) else {
        return Ok(Started::Never);
    };
    let size = i32::try_from(size_of::<libc::proc_bsdinfo>()).map_err(io::Error::other)?;
    let mut info = MaybeUninit::<libc::proc_bsdinfo>::zeroed();
    // SAFETY: the buffer is ours and of the size that is told.
    let filled =
        unsafe { libc::proc_pidinfo(raw, libc::PROC_PIDTBSDINFO, 0, info.as_mut_ptr().cast(), size) };
    if filled != size {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ESRCH) => Ok(Started::Never),
            Some(libc::EPERM) => Ok(Started::Lives(None)),
            _ => Err(error),
        };
    }
    // SAFETY: it was zeroed, the call filled all of it, and every bit pattern of its integers is valid.
    let info = unsafe { info.assume_init() };
    if info.pbi_status == libc::SZOMB {
        return Ok(Started::Never);
    }
    Ok(Started::Lives(Some(
        info.pbi_start_tvsec * 1_000_000 + info.pbi_start_tvusec,
    )))
}

/// Start times here do not restart with a boot.
pub(crate) fn boot() -> &'static str {
    "0"
}

/// LOCAL_PEERCRED (unix(4)), which is who connected, and LOCAL_PEERTOKEN (sys/un.h), which is the process at the other end.
pub(crate) fn credentials(socket: &Descriptor) -> io::Result<Credentials> {
    let peer = getsockopt(socket, sockopt::LocalPeerCred)?;
    let token = getsockopt(socket, sockopt::LocalPeerToken)?;
    let pid = audit_token::pid_of(token.val, peer.uid())?;
    let groups = peer.groups();
    Ok(Credentials {
        uid: peer.uid(),
        gid: groups.first().copied().unwrap_or(u32::MAX),
        groups: groups.to_vec(),
        pid,
        program: None,
    })
}
