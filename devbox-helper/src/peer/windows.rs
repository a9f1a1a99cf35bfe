//! Process handles, and who has opened a pipe.

pub(crate) mod accounts;

use std::io;
use std::os::windows::io::{AsHandle, AsRawHandle, FromRawHandle, OwnedHandle};

use windows_sys::Win32::Foundation::{ERROR_INVALID_PARAMETER, FILETIME, WAIT_TIMEOUT};
use windows_sys::Win32::System::Pipes::GetNamedPipeClientProcessId;
use windows_sys::Win32::System::Threading::{
    GetProcessTimes, OpenProcess, PROCESS_QUERY_LIMITED_INFORMATION, PROCESS_SYNCHRONIZE, WaitForSingleObject,
};

use devbox_helper_client::Descriptor;

use super::{Credentials, Started};

/// Units of 100 ns since 1601. A process may have ended although somebody still holds a handle to it.
pub(crate) fn started(pid: u32) -> io::Result<Started> {
    // SAFETY: no pointers go in.
    let raw = unsafe { OpenProcess(PROCESS_QUERY_LIMITED_INFORMATION | PROCESS_SYNCHRONIZE, 0, pid) };
    if raw.is_null() {
        let error = io::Error::last_os_error();
        let none = i32::try_from(ERROR_INVALID_PARAMETER).ok();
        return if error.raw_os_error() == none {
            Ok(Started::Never)
        } else {
            Err(error)
        };
    }
    // SAFETY: the handle is from OpenProcess above, owned here and closed nowhere else.
    let process = unsafe { OwnedHandle::from_raw_handle(raw) };
    // SAFETY: the handle lives until the end of this function.
    if unsafe { WaitForSingleObject(process.as_raw_handle(), 0) } != WAIT_TIMEOUT {
        return Ok(Started::Never);
    }
    let zero = FILETIME {
        dwLowDateTime: 0,
        dwHighDateTime: 0,
    };
    let (mut created, mut exited, mut kernel, mut user) = (zero, zero, zero, zero);
    // SAFETY: all four are ours; the handle lives until the end of this function.
    let told = unsafe {
        GetProcessTimes(
            process.as_raw_handle(),
            &mut created,
            &mut exited,
            &mut kernel,
            &mut user,
        )
    };
    if told == 0 {
        return Err(io::Error::last_os_error());
    }
    let start = u64::from(created.dwHighDateTime) << 32 | u64::from(created.dwLowDateTime);
    Ok(Started::Lives(Some(start)))
}

/// Start times here do not restart with a boot.
pub(crate) fn boot() -> &'static str {
    "0"
}

/// The token and the process of who has opened the pipe.
pub(crate) fn credentials(pipe: &Descriptor) -> io::Result<Credentials> {
    let (user, groups) = accounts::client(pipe.as_handle())?;
    let mut pid = 0;
    // SAFETY: the handle lives through the call, and the number is ours.
    if unsafe { GetNamedPipeClientProcessId(pipe.as_raw_handle(), &raw mut pid) } == 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Credentials {
        uid: accounts::number(&user),
        // There is no primary group that means anything: nobody's.
        gid: u32::MAX,
        groups: groups.iter().map(|group| accounts::number(group)).collect(),
        pid,
        program: None,
    })
}
