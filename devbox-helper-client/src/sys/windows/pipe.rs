//! A named pipe that is read and written at once, with time limits. A pipe that is opened without overlapped input and output takes one
//! operation after the other: whoever waits for a message could send none.
#![expect(
    unsafe_code,
    reason = "no crate that is kept reads and writes a pipe with a time limit"
)]

use std::fs::OpenOptions;
use std::io;
use std::os::windows::ffi::OsStrExt;
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::path::Path;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use windows_sys::Win32::Foundation::{
    ERROR_BROKEN_PIPE, ERROR_IO_PENDING, ERROR_PIPE_BUSY, ERROR_PIPE_NOT_CONNECTED, HANDLE, WAIT_OBJECT_0,
    WAIT_TIMEOUT,
};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_FLAG_OVERLAPPED, ReadFile, SECURITY_IDENTIFICATION, WriteFile,
};
use windows_sys::Win32::System::IO::{CancelIoEx, GetOverlappedResult, OVERLAPPED};
use windows_sys::Win32::System::Pipes::WaitNamedPipeW;
use windows_sys::Win32::System::Threading::{CreateEventW, INFINITE, SetEvent, WaitForMultipleObjects};

/// To read and write, and not to make further instances of the pipe (`FILE_APPEND_DATA`), which only the server may.
const ACCESS: u32 = 0x0012_019b;
/// How long all instances of the pipe may be taken, in milliseconds.
const BUSY_MS: u32 = 5000;

/// One direction of a pipe.
#[derive(Debug)]
pub(crate) struct Half {
    pipe: Arc<Pipe>,
    /// Set by the system when an operation of this half is complete.
    done: OwnedHandle,
    limit_ms: AtomicU32,
}

#[derive(Debug)]
struct Pipe {
    handle: OwnedHandle,
    /// Set when either half has been closed.
    closing: OwnedHandle,
}

/// What ended a wait without a result.
enum Ended {
    Closing,
    TimedOut,
    Failed(io::Error),
}

/// Opens the pipe. Its server may learn who this is, and nothing in this name.
pub(super) fn open(path: &Path) -> io::Result<OwnedHandle> {
    let mut options = OpenOptions::new();
    options
        .access_mode(ACCESS)
        .custom_flags(FILE_FLAG_OVERLAPPED)
        .security_qos_flags(SECURITY_IDENTIFICATION);
    match options.open(path) {
        Err(error) if is(&error, ERROR_PIPE_BUSY) => {
            let name: Vec<u16> = path.as_os_str().encode_wide().chain([0]).collect();
            // SAFETY: the name ends with a NUL and lives through the call.
            if unsafe { WaitNamedPipeW(name.as_ptr(), BUSY_MS) } == 0 {
                return Err(io::Error::last_os_error());
            }
            options.open(path).map(OwnedHandle::from)
        }
        opened => opened.map(OwnedHandle::from),
    }
}

/// The two directions of a pipe that was opened for overlapped input and output.
pub(super) fn halves(handle: OwnedHandle) -> io::Result<(Half, Half)> {
    let pipe = Arc::new(Pipe {
        handle,
        closing: event()?,
    });
    let half = || {
        Ok::<_, io::Error>(Half {
            pipe: Arc::clone(&pipe),
            done: event()?,
            limit_ms: AtomicU32::new(INFINITE),
        })
    };
    Ok((half()?, half()?))
}

impl Half {
    /// Zero bytes at the end of the stream.
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
        let at = buffer.as_mut_ptr();
        let read = self.perform(|handle, overlapped| {
            // SAFETY: the buffer has that length, and `perform` returns only when the system is done with both pointers.
            unsafe { ReadFile(handle, at, length, ptr::null_mut(), overlapped) }
        });
        match read {
            Ok(count) => Ok(count),
            Err(Ended::Closing) => Ok(0),
            Err(Ended::TimedOut) => Err(io::ErrorKind::TimedOut.into()),
            Err(Ended::Failed(error)) if is_end(&error) => Ok(0),
            Err(Ended::Failed(error)) => Err(error),
        }
    }

    /// Writes at least one byte.
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let at = bytes.as_ptr();
        let written = self.perform(|handle, overlapped| {
            // SAFETY: as in `read`.
            unsafe { WriteFile(handle, at, length, ptr::null_mut(), overlapped) }
        });
        match written {
            Ok(count) => Ok(count),
            Err(Ended::Closing) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(Ended::TimedOut) => Err(io::ErrorKind::TimedOut.into()),
            Err(Ended::Failed(error)) if is_end(&error) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(Ended::Failed(error)) => Err(error),
        }
    }

    /// How long an operation may take; rounded up to milliseconds.
    pub(super) fn set_limit(&self, limit: Option<Duration>) {
        let limit = limit.map_or(INFINITE, |limit| {
            let ms = limit.as_nanos().div_ceil(1_000_000);
            u32::try_from(ms).unwrap_or(INFINITE - 1)
        });
        self.limit_ms.store(limit, Ordering::Relaxed);
    }

    /// Ends both directions here, whoever waits in them. The other end sees that once both halves are dropped.
    pub(super) fn close(&self) {
        // SAFETY: the event lives as long as the pipe.
        unsafe { SetEvent(self.pipe.closing.as_raw_handle()) };
    }

    /// Starts an operation and waits for it. Whatever this returns, the system is done with what the operation was given.
    fn perform(&self, start: impl FnOnce(HANDLE, *mut OVERLAPPED) -> i32) -> Result<usize, Ended> {
        let handle = self.pipe.handle.as_raw_handle();
        let mut overlapped = OVERLAPPED {
            hEvent: self.done.as_raw_handle(),
            ..OVERLAPPED::default()
        };
        if start(handle, &raw mut overlapped) == 0 {
            let error = io::Error::last_os_error();
            if !is(&error, ERROR_IO_PENDING) {
                return Err(Ended::Failed(error));
            }
        }
        let events = [self.done.as_raw_handle(), self.pipe.closing.as_raw_handle()];
        let limit = self.limit_ms.load(Ordering::Relaxed);
        // SAFETY: two events, which live as long as this half.
        let woken = unsafe { WaitForMultipleObjects(2, events.as_ptr(), 0, limit) };
        let waited = match woken {
            WAIT_OBJECT_0 => None,
            WAIT_TIMEOUT => Some(Ended::TimedOut),
            woken if woken == WAIT_OBJECT_0 + 1 => Some(Ended::Closing),
            _ => Some(Ended::Failed(io::Error::last_os_error())),
        };
        if waited.is_some() {
            // SAFETY: the operation is this one. One that is complete meanwhile cannot be cancelled, and has a result.
            unsafe { CancelIoEx(handle, &raw const overlapped) };
        }
        let mut count = 0;
        // SAFETY: the operation was started, and its structure lives until this returns, which is when it is complete.
        let told = unsafe { GetOverlappedResult(handle, &raw const overlapped, &raw mut count, 1) };
        match (told, waited) {
            (0, None) => Err(Ended::Failed(io::Error::last_os_error())),
            (0, Some(ended)) => Err(ended),
            _ => Ok(usize::try_from(count).unwrap_or_default()),
        }
    }
}

/// One that stays set until it is reset, and is not set.
fn event() -> io::Result<OwnedHandle> {
    // SAFETY: neither attributes nor a name go in.
    let raw = unsafe { CreateEventW(ptr::null(), 1, 0, ptr::null()) };
    if raw.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the handle is from the call above, owned here and closed nowhere else.
    Ok(unsafe { OwnedHandle::from_raw_handle(raw) })
}

fn is_end(error: &io::Error) -> bool {
    is(error, ERROR_BROKEN_PIPE) || is(error, ERROR_PIPE_NOT_CONNECTED)
}

fn is(error: &io::Error, code: u32) -> bool {
    error.raw_os_error() == Some(code.cast_signed())
}
