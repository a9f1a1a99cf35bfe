//! Accounts of Windows. They have security identifiers, not numbers: each is given a number for as long as this process runs, so
//! that the rest of the helper can tell users apart.

use std::collections::HashMap;
use std::io;
use std::os::windows::io::{AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle};
use std::ptr;
use std::sync::{LazyLock, Mutex, PoisonError};

use windows_sys::Win32::Foundation::{ERROR_INSUFFICIENT_BUFFER, LocalFree};
use windows_sys::Win32::Security::Authorization::ConvertSidToStringSidW;
use windows_sys::Win32::Security::{
    GetTokenInformation, LookupAccountNameW, PSID, RevertToSelf, SID_AND_ATTRIBUTES, TOKEN_GROUPS,
    TOKEN_INFORMATION_CLASS, TOKEN_QUERY, TOKEN_USER, TokenGroups, TokenUser,
};
use windows_sys::Win32::System::Pipes::ImpersonateNamedPipeClient;
use windows_sys::Win32::System::Threading::{
    GetCurrentProcess, GetCurrentThread, OpenProcessToken, OpenThreadToken,
};

/// The system itself, which is what root is elsewhere.
const SYSTEM: &str = "S-1-5-18";
/// `SE_GROUP_ENABLED` of winnt.h. An administrator who has not been asked has the group, but not enabled.
const ENABLED: u32 = 4;

/// Numbers of accounts. The system's is 0.
#[derive(Default)]
struct Numbers {
    of: HashMap<String, u32>,
    accounts: HashMap<u32, String>,
}

static NUMBERS: LazyLock<Mutex<Numbers>> = LazyLock::new(Mutex::default);

/// The number of an account, whose last part it is where no other account has that: people know their users by it.
pub(crate) fn number(sid: &str) -> u32 {
    if sid == SYSTEM {
        return 0;
    }
    let mut numbers = NUMBERS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(number) = numbers.of.get(sid) {
        return *number;
    }
    let last = sid.rsplit('-').next().and_then(|last| last.parse().ok());
    let mut number = last.unwrap_or(1).max(1);
    while numbers.accounts.contains_key(&number) {
        number = number.wrapping_add(1).max(1);
    }
    numbers.of.insert(sid.to_owned(), number);
    numbers.accounts.insert(number, sid.to_owned());
    number
}

/// The account that was given this number.
pub(crate) fn account(number: u32) -> String {
    if number == 0 {
        return SYSTEM.to_owned();
    }
    let numbers = NUMBERS.lock().unwrap_or_else(PoisonError::into_inner);
    numbers.accounts.get(&number).cloned().unwrap_or_default()
}

/// The identifier of a user or a group: itself, or what the system knows by that name.
pub(crate) fn find(name: &str) -> Option<String> {
    if name.starts_with("S-1-") {
        return Some(name.to_owned());
    }
    let name: Vec<u16> = name.encode_utf16().chain([0]).collect();
    // SECURITY_MAX_SID_SIZE is 68, a domain's name has at most 255 characters.
    let (mut sid, mut domain) = ([0_u64; 9], [0_u16; 256]);
    let (mut sid_bytes, mut domain_length, mut kind) = (72, 256, 0);
    // SAFETY: the name ends with a NUL; the buffers are ours, of the lengths that are told, and aligned for what goes in.
    let known = unsafe {
        LookupAccountNameW(
            ptr::null(),
            name.as_ptr(),
            sid.as_mut_ptr().cast(),
            &raw mut sid_bytes,
            domain.as_mut_ptr(),
            &raw mut domain_length,
            &raw mut kind,
        )
    };
    // SAFETY: the call succeeded, so the buffer begins with an identifier.
    (known != 0).then(|| unsafe { text(sid.as_mut_ptr().cast()) }.ok())?
}

/// The account of this process.
pub(crate) fn own() -> io::Result<String> {
    let mut raw = ptr::null_mut();
    // SAFETY: the handle of this process needs not be closed, and the result is ours.
    if unsafe { OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &raw mut raw) } == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the handle is from the call above, owned here and closed nowhere else.
    user(&unsafe { OwnedHandle::from_raw_handle(raw) })
}

/// Who has opened the other end of a pipe, and the groups that are enabled for them: what they were at that time.
pub(super) fn client(pipe: BorrowedHandle<'_>) -> io::Result<(String, Vec<String>)> {
    // SAFETY: the handle lives as long as it is borrowed.
    if unsafe { ImpersonateNamedPipeClient(pipe.as_raw_handle()) } == 0 {
        return Err(io::Error::last_os_error());
    }
    let _own_again = Reverting;
    let mut raw = ptr::null_mut();
    // As itself: the client's token may be read by this process, not necessarily by the client.
    // SAFETY: the handle of this thread needs not be closed, and the result is ours.
    if unsafe { OpenThreadToken(GetCurrentThread(), TOKEN_QUERY, 1, &raw mut raw) } == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the handle is from the call above, owned here and closed nowhere else.
    let token = unsafe { OwnedHandle::from_raw_handle(raw) };
    Ok((user(&token)?, groups(&token)?))
}

/// Ends the impersonation.
struct Reverting;

impl Drop for Reverting {
    fn drop(&mut self) {
        // SAFETY: nothing goes in.
        if unsafe { RevertToSelf() } == 0 {
            // Whatever this thread did from here on, it would do as somebody else.
            std::process::abort();
        }
    }
}

fn user(token: &OwnedHandle) -> io::Result<String> {
    let information = information(token, TokenUser)?;
    // SAFETY: the system has filled in a structure of this type, and the buffer is aligned for it.
    let user = unsafe { &*information.as_ptr().cast::<TOKEN_USER>() };
    // SAFETY: the identifier lies in the same buffer.
    unsafe { text(user.User.Sid) }
}

fn groups(token: &OwnedHandle) -> io::Result<Vec<String>> {
    let information = information(token, TokenGroups)?;
    let groups = information.as_ptr().cast::<TOKEN_GROUPS>();
    // SAFETY: the system has filled in a structure of this type, and the buffer is aligned for it.
    let count = unsafe { (*groups).GroupCount };
    // SAFETY: as above; the groups begin at this field, of which the type names only the first.
    let first = unsafe { (&raw const (*groups).Groups).cast::<SID_AND_ATTRIBUTES>() };
    // SAFETY: there are `count` groups from there on.
    let all = unsafe { std::slice::from_raw_parts(first, usize::try_from(count).unwrap_or_default()) };
    all.iter()
        .filter(|group| group.Attributes & ENABLED != 0)
        // SAFETY: the identifiers lie in the same buffer.
        .map(|group| unsafe { text(group.Sid) })
        .collect()
}

/// What a token says, in a buffer that is aligned for pointers.
fn information(token: &OwnedHandle, class: TOKEN_INFORMATION_CLASS) -> io::Result<Vec<u64>> {
    let mut bytes = 0;
    loop {
        let mut buffer = vec![0_u64; usize::try_from(bytes).unwrap_or_default().div_ceil(8)];
        let room = u32::try_from(buffer.len() * 8).unwrap_or(u32::MAX);
        // SAFETY: the buffer is ours and has that room; the handle lives through the call.
        let told = unsafe {
            GetTokenInformation(
                token.as_raw_handle(),
                class,
                buffer.as_mut_ptr().cast(),
                room,
                &raw mut bytes,
            )
        };
        if told != 0 {
            return Ok(buffer);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(ERROR_INSUFFICIENT_BUFFER.cast_signed()) || bytes <= room {
            return Err(error);
        }
    }
}

/// An identifier as text.
///
/// # Safety
/// `sid` points to an identifier.
unsafe fn text(sid: PSID) -> io::Result<String> {
    let mut raw = ptr::null_mut();
    // SAFETY: the caller's promise; the result is ours.
    if unsafe { ConvertSidToStringSidW(sid, &raw mut raw) } == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so that this is a text that ends with a NUL.
    let text = unsafe { wide(raw) };
    // SAFETY: the text is the system's, is freed once, and nothing of it is used afterwards.
    unsafe { LocalFree(raw.cast()) };
    Ok(text)
}

/// A text of the system's.
///
/// # Safety
/// `text` points to characters of which one is a NUL.
pub(crate) unsafe fn wide(text: *const u16) -> String {
    let mut length = 0;
    // SAFETY: the caller's promise: nothing is read beyond the NUL.
    while unsafe { *text.add(length) } != 0 {
        length += 1;
    }
    // SAFETY: as above.
    String::from_utf16_lossy(unsafe { std::slice::from_raw_parts(text, length) })
}
