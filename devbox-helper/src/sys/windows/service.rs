//! What only a helper with several callers needs: its pipe, a file that only administrators have written, accounts, the event log.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::mem;
use std::net::TcpListener;
use std::os::windows::ffi::OsStrExt;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::path::Path;
use std::ptr;
use std::sync::{Mutex, PoisonError};

use devbox_helper_client::{Descriptor, HelperError};
use windows_sys::Win32::Foundation::{
    ERROR_IO_PENDING, ERROR_NO_DATA, ERROR_PIPE_CONNECTED, ERROR_SUCCESS, INVALID_HANDLE_VALUE, LocalFree,
};
use windows_sys::Win32::Security::Authorization::{
    ConvertSecurityDescriptorToStringSecurityDescriptorW,
    ConvertStringSecurityDescriptorToSecurityDescriptorW, GetSecurityInfo, SDDL_REVISION_1, SE_FILE_OBJECT,
};
use windows_sys::Win32::Security::{
    DACL_SECURITY_INFORMATION, OWNER_SECURITY_INFORMATION, PSECURITY_DESCRIPTOR, SECURITY_ATTRIBUTES,
};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_FLAG_BACKUP_SEMANTICS, FILE_FLAG_FIRST_PIPE_INSTANCE, FILE_FLAG_OVERLAPPED, PIPE_ACCESS_DUPLEX,
};
use windows_sys::Win32::System::EventLog::{
    DeregisterEventSource, EVENTLOG_INFORMATION_TYPE, EVENTLOG_WARNING_TYPE, RegisterEventSourceW,
    ReportEventW,
};
use windows_sys::Win32::System::IO::{GetOverlappedResult, OVERLAPPED};
use windows_sys::Win32::System::Pipes::{
    ConnectNamedPipe, CreateNamedPipeW, DisconnectNamedPipe, PIPE_READMODE_BYTE, PIPE_REJECT_REMOTE_CLIENTS,
    PIPE_TYPE_BYTE, PIPE_UNLIMITED_INSTANCES, PIPE_WAIT,
};
use windows_sys::Win32::System::Threading::CreateEventW;

use crate::peer::accounts;
use crate::sys::sddl;

/// Where callers connect: an instance of the pipe waits for the next of them.
#[derive(Debug)]
pub(crate) struct Listener {
    name: Vec<u16>,
    descriptor: Vec<u16>,
    next: Mutex<OwnedHandle>,
}

impl Listener {
    /// A pipe of that name, for the accounts that the policy admits. Those whom it no longer lists are refused later; whom it lists
    /// only from then on, cannot connect.
    pub(crate) fn at(path: &Path, admitted: &[String]) -> io::Result<Self> {
        let own = accounts::own()?;
        let admitted: Vec<String> = admitted.iter().filter_map(|name| accounts::find(name)).collect();
        let descriptor = sddl::of_pipe(&own, admitted.iter().map(String::as_str));
        let (name, descriptor) = (wide(path.as_os_str()), wide(descriptor.as_ref()));
        let first = instance(&name, &descriptor, FILE_FLAG_FIRST_PIPE_INSTANCE)?;
        Ok(Self {
            name,
            descriptor,
            next: Mutex::new(first),
        })
    }

    /// The pipe of the service.
    pub(crate) fn activated(admitted: &[String]) -> io::Result<Self> {
        Self::at(Path::new(devbox_helper_client::PIPE), admitted)
    }

    pub(crate) fn accept(&self) -> io::Result<Descriptor> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        connected(&next)?;
        // Where there is no other one, who has connected is found there again.
        let another = instance(&self.name, &self.descriptor, 0)?;
        Ok(mem::replace(&mut *next, another))
    }
}

fn instance(name: &[u16], descriptor: &[u16], flags: u32) -> io::Result<OwnedHandle> {
    let mut parsed: PSECURITY_DESCRIPTOR = ptr::null_mut();
    // SAFETY: the text ends with a NUL, and the result is ours.
    let is_one = unsafe {
        ConvertStringSecurityDescriptorToSecurityDescriptorW(
            descriptor.as_ptr(),
            SDDL_REVISION_1,
            &raw mut parsed,
            ptr::null_mut(),
        )
    };
    if is_one == 0 {
        return Err(io::Error::last_os_error());
    }
    let attributes = SECURITY_ATTRIBUTES {
        nLength: u32::try_from(size_of::<SECURITY_ATTRIBUTES>()).map_err(io::Error::other)?,
        lpSecurityDescriptor: parsed,
        bInheritHandle: 0,
    };
    // SAFETY: the name ends with a NUL, and everything that is pointed to lives through the call.
    let raw = unsafe {
        CreateNamedPipeW(
            name.as_ptr(),
            PIPE_ACCESS_DUPLEX | FILE_FLAG_OVERLAPPED | flags,
            PIPE_TYPE_BYTE | PIPE_READMODE_BYTE | PIPE_WAIT | PIPE_REJECT_REMOTE_CLIENTS,
            PIPE_UNLIMITED_INSTANCES,
            BUFFER_BYTES,
            BUFFER_BYTES,
            0,
            &raw const attributes,
        )
    };
    let made = if raw == INVALID_HANDLE_VALUE {
        Err(io::Error::last_os_error())
    } else {
        // SAFETY: the handle is from the call above, owned here and closed nowhere else.
        Ok(unsafe { OwnedHandle::from_raw_handle(raw) })
    };
    // SAFETY: the descriptor is the system's, is freed once, and nothing of it is used afterwards.
    unsafe { LocalFree(parsed) };
    made
}

/// Waits until somebody has opened the other end of the instance.
fn connected(pipe: &OwnedHandle) -> io::Result<()> {
    // SAFETY: neither attributes nor a name go in.
    let raw = unsafe { CreateEventW(ptr::null(), 1, 0, ptr::null()) };
    if raw.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the handle is from the call above, owned here and closed nowhere else.
    let event = unsafe { OwnedHandle::from_raw_handle(raw) };
    loop {
        let mut overlapped = OVERLAPPED {
            hEvent: event.as_raw_handle(),
            ..OVERLAPPED::default()
        };
        // SAFETY: the structure lives until the operation is complete, for which this waits below.
        if unsafe { ConnectNamedPipe(pipe.as_raw_handle(), &raw mut overlapped) } != 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error().map(i32::cast_unsigned) {
            Some(ERROR_PIPE_CONNECTED) => return Ok(()),
            // They have gone again.
            Some(ERROR_NO_DATA) => {
                // SAFETY: the handle lives through the call.
                if unsafe { DisconnectNamedPipe(pipe.as_raw_handle()) } == 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Some(ERROR_IO_PENDING) => {
                let mut none = 0;
                // SAFETY: the operation was started, and its structure lives until it is complete, which is when this returns.
                let told = unsafe {
                    GetOverlappedResult(pipe.as_raw_handle(), &raw const overlapped, &raw mut none, 1)
                };
                if told == 0 {
                    return Err(io::Error::last_os_error());
                }
                return Ok(());
            }
            _ => return Err(error),
        }
    }
}

/// The content of a file that nobody but administrators, or the account of this process, can have written.
pub(crate) fn read_trusted(path: &Path) -> io::Result<String> {
    use std::os::windows::fs::OpenOptionsExt;

    let own = accounts::own()?;
    let mut file = File::open(path)?;
    // A folder is opened like a file only so.
    let folder = path.parent().map(|folder| {
        File::options()
            .read(true)
            .custom_flags(FILE_FLAG_BACKUP_SEMANTICS)
            .open(folder)
    });
    for (what, found) in [("it", Some(&file)), ("its folder", folder.transpose()?.as_ref())] {
        let Some(found) = found else { continue };
        if let Some(stranger) = sddl::stranger(&descriptor(found)?, &own) {
            let why = format!("{stranger} can write {what}");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
    }
    let mut text = String::new();
    file.by_ref().take(MAX_POLICY_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// The owner and the access list of an open file.
fn descriptor(file: &File) -> io::Result<String> {
    const WHAT: u32 = OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION;
    let mut found: PSECURITY_DESCRIPTOR = ptr::null_mut();
    let none = ptr::null_mut();
    // SAFETY: the handle lives through the call, and the one result that is asked for is ours.
    let code = unsafe {
        GetSecurityInfo(
            file.as_raw_handle(),
            SE_FILE_OBJECT,
            WHAT,
            none,
            ptr::null_mut(),
            ptr::null_mut(),
            ptr::null_mut(),
            &raw mut found,
        )
    };
    if code != ERROR_SUCCESS {
        return Err(io::Error::from_raw_os_error(code.cast_signed()));
    }
    let mut text = ptr::null_mut();
    // SAFETY: the descriptor is from the call above, and the result is ours.
    let told = unsafe {
        ConvertSecurityDescriptorToStringSecurityDescriptorW(
            found,
            SDDL_REVISION_1,
            WHAT,
            &raw mut text,
            ptr::null_mut(),
        )
    };
    let result = if told == 0 {
        Err(io::Error::last_os_error())
    } else {
        // SAFETY: the call succeeded, so that this is a text that ends with a NUL.
        Ok(unsafe { accounts::wide(text) })
    };
    // SAFETY: the text, if there is one, is the system's, is freed once, and nothing of it is used afterwards.
    unsafe { LocalFree(text.cast()) };
    // SAFETY: the same is true of the descriptor.
    unsafe { LocalFree(found) };
    result
}

pub(crate) fn uid_of(name: &str) -> Option<u32> {
    accounts::find(name).map(|sid| accounts::number(&sid))
}

pub(crate) fn gid_of(name: &str) -> Option<u32> {
    uid_of(name)
}

/// There are no sockets of this kind.
pub(crate) fn send_datagram(_: &Path, _: &[u8]) -> bool {
    false
}

/// Writes to the event log, and says whether that took it. Installing the helper registers its messages; without that, the log shows
/// the text behind a remark.
pub(crate) fn log(text: &str, is_refusal: bool) -> bool {
    let source = wide("devbox-helper".as_ref());
    // SAFETY: the name ends with a NUL and lives through the call.
    let log = unsafe { RegisterEventSourceW(ptr::null(), source.as_ptr()) };
    if log.is_null() {
        return false;
    }
    let (kind, id) = if is_refusal {
        (EVENTLOG_WARNING_TYPE, 2)
    } else {
        (EVENTLOG_INFORMATION_TYPE, 1)
    };
    let text = wide(text.as_ref());
    let texts = [text.as_ptr()];
    // SAFETY: one text, which ends with a NUL and lives through the call; no data and no account.
    let told = unsafe {
        ReportEventW(
            log,
            kind,
            0,
            id,
            ptr::null_mut(),
            1,
            0,
            texts.as_ptr(),
            ptr::null(),
        )
    };
    // SAFETY: the handle is from the call above, and is closed once.
    unsafe { DeregisterEventSource(log) };
    told != 0
}

/// The account behind a number.
pub(crate) fn user_text(uid: u32) -> String {
    accounts::account(uid)
}

/// The account of this process, as a policy names it.
pub(crate) fn own_account() -> io::Result<String> {
    accounts::own()
}

pub(crate) fn passable(tun: netif::TunHandle) -> Result<TcpListener, HelperError> {
    match tun {}
}

fn wide(text: &OsStr) -> Vec<u16> {
    text.encode_wide().chain([0]).collect()
}

/// There is none.
pub(crate) const SYSLOG: &str = "";
/// The pipe's access list has their identifiers.
pub(crate) const LETS_IN_BY_NAME: bool = true;
/// Accounts have identifiers: a number in a policy names nobody.
pub(crate) const USERS_ARE_NUMBERS: bool = false;
pub(crate) const POLICY_FILE: &str = r"C:\ProgramData\devbox\policy.toml";
pub(crate) const STATE_DIR: &str = r"C:\ProgramData\devbox\state";
const MAX_POLICY_BYTES: u64 = 1 << 20;
const BUFFER_BYTES: u32 = 64 << 10;
