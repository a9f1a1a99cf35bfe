//! The calls for Windows.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::windows::ffi::{OsStrExt, OsStringExt};
use std::os::windows::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_CANT_RESOLVE_FILENAME, ERROR_LOCK_VIOLATION, ERROR_SHARING_VIOLATION,
    ERROR_SUCCESS, ERROR_UNABLE_TO_REMOVE_REPLACED, GENERIC_WRITE,
};
use windows_sys::Win32::Storage::FileSystem::{
    DELETE, FILE_FLAG_DELETE_ON_CLOSE, REPLACEFILE_WRITE_THROUGH, ReplaceFileW,
};
use windows_sys::Win32::System::Registry::{HKEY_LOCAL_MACHINE, RRF_RT_REG_SZ, RegGetValueW};

use super::options::FileOptions;
use super::target::{Target, os_error};
use crate::error::Error;
use crate::lint::Resolver;
use crate::scan::LineEnding;

pub(crate) const PLATFORM_LINE_ENDING: LineEnding = LineEnding::CrLf;

pub(crate) const PLATFORM_RESOLVER: Resolver = Resolver::Windows;

/// The file `hosts` in the directory given by the TCP/IP service's `DataBasePath`.
pub(super) fn system_path() -> PathBuf {
    let directory = database_path().unwrap_or_else(|| {
        let root = std::env::var_os("SystemRoot").unwrap_or_else(|| OsString::from("C:\\Windows"));
        Path::new(&root).join("System32\\drivers\\etc")
    });
    directory.join("hosts")
}

fn database_path() -> Option<PathBuf> {
    let key = wide("SYSTEM\\CurrentControlSet\\Services\\Tcpip\\Parameters".as_ref());
    let value = wide("DataBasePath".as_ref());
    let mut buffer = [0_u16; 512];
    let mut bytes = u32::try_from(size_of_val(&buffer)).ok()?;
    // RRF_RT_REG_SZ also accepts REG_EXPAND_SZ, and expands the variables between percent signs.
    // SAFETY: the strings end with NUL; the buffer is writable and `bytes` is its length; null means that no type is requested.
    let status = unsafe {
        RegGetValueW(
            HKEY_LOCAL_MACHINE,
            key.as_ptr(),
            value.as_ptr(),
            RRF_RT_REG_SZ,
            std::ptr::null_mut(),
            buffer.as_mut_ptr().cast(),
            &mut bytes,
        )
    };
    if status != ERROR_SUCCESS {
        return None;
    }
    let length = buffer.iter().position(|c| *c == 0)?;
    (length > 0).then(|| PathBuf::from(OsString::from_wide(&buffer[..length])))
}

/// A directory by its path.
pub(super) struct Directory {
    path: PathBuf,
}

impl Directory {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        if std::fs::metadata(path)?.is_dir() {
            Ok(Directory {
                path: path.to_owned(),
            })
        } else {
            Err(ErrorKind::NotADirectory.into())
        }
    }

    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Directory {
            path: self.path.clone(),
        })
    }

    pub(super) fn open_file(&self, name: &OsStr) -> io::Result<File> {
        patiently(is_held_by_other, || File::open(self.path.join(name)))
    }

    pub(super) fn open_for_writing(&self, name: &OsStr) -> io::Result<File> {
        patiently(is_held_by_other, || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .open(self.path.join(name))
        })
    }

    pub(super) fn create_file(&self, name: &OsStr) -> io::Result<File> {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(self.path.join(name))
    }

    pub(super) fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        patiently(is_held_by_other, || {
            std::fs::rename(self.path.join(from), self.path.join(to))
        })
    }

    pub(super) fn remove(&self, name: &OsStr) -> io::Result<()> {
        patiently(is_held_by_other, || std::fs::remove_file(self.path.join(name)))
    }

    /// Does nothing: directories cannot be synced on Windows, and the replacement itself is written through.
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn names(&self) -> Vec<OsString> {
        let Ok(entries) = std::fs::read_dir(&self.path) else {
            return Vec::new();
        };
        entries.filter_map(Result::ok).map(|e| e.file_name()).collect()
    }
}

/// Repeats, with growing pauses, a call that fails because another program has the file open: the DNS client, virus scanners
/// and Docker Desktop read the file right after each change.
fn patiently<T>(
    is_passing: impl Fn(&io::Error) -> bool,
    mut call: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(10);
    loop {
        match call() {
            Err(e) if is_passing(&e) && Instant::now() + pause < deadline => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_secs(1));
            }
            done => return done,
        }
    }
}

/// Length, and time of the last change.
pub(super) type Stamp = (u64, Option<std::time::SystemTime>);

pub(super) fn stamp(file: &File) -> io::Result<Stamp> {
    let m = file.metadata()?;
    Ok((m.len(), m.modified().ok()))
}

/// Always true: whoever may create files beside the system's hosts file is an administrator.
pub(super) fn is_own_private_file(_: &File) -> io::Result<bool> {
    Ok(true)
}

pub(super) fn is_symlink_loop(e: &io::Error) -> bool {
    is_code(e, &[ERROR_CANT_RESOLVE_FILENAME])
}

pub(super) fn is_held_by_other(e: &io::Error) -> bool {
    is_code(e, &[ERROR_SHARING_VIOLATION, ERROR_LOCK_VIOLATION])
}

/// How long we waited for another program to close the file.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn is_refused(e: &io::Error) -> bool {
    e.kind() == ErrorKind::PermissionDenied
}

/// Whether a file cannot be replaced, but perhaps written.
pub(super) fn must_stay(e: &io::Error) -> bool {
    may_pass_by_itself(e)
}

fn may_pass_by_itself(e: &io::Error) -> bool {
    is_code(
        e,
        &[
            ERROR_ACCESS_DENIED,
            ERROR_SHARING_VIOLATION,
            ERROR_LOCK_VIOLATION,
            ERROR_UNABLE_TO_REMOVE_REPLACED,
        ],
    )
}

fn is_code(e: &io::Error, codes: &[u32]) -> bool {
    e.raw_os_error()
        .and_then(|code| u32::try_from(code).ok())
        .is_some_and(|code| codes.contains(&code))
}

pub(super) fn check_writable(target: &Target, file: &File, override_read_only: bool) -> Result<(), Error> {
    let metadata = file
        .metadata()
        .map_err(|e| os_error(&target.shown, "look at", e))?;
    if metadata.permissions().readonly() && !override_read_only {
        let clear = format!(
            "clear the attribute with: attrib -R \"{}\"",
            target.shown.display()
        );
        return Err(Error::ReadOnlyFile {
            path: target.shown.clone(),
            clear,
        });
    }
    Ok(())
}

/// Removes the read-only attribute from the target until the result is dropped.
pub(super) fn clear_marks(target: &Target, override_read_only: bool) -> Result<Option<Marks<'_>>, Error> {
    if !override_read_only || !target.exists() {
        return Ok(None);
    }
    let failed = |e| os_error(&target.shown, "clear the read-only attribute of", e);
    if !std::fs::metadata(&target.real)
        .map_err(failed)?
        .permissions()
        .readonly()
    {
        return Ok(None);
    }
    set_read_only(&target.real, false).map_err(failed)?;
    Ok(Some(Marks { target }))
}

/// The read-only attribute, to set again.
pub(super) struct Marks<'t> {
    target: &'t Target,
}

impl Drop for Marks<'_> {
    fn drop(&mut self) {
        // The change itself is done, and failing to set the mark again is no reason to undo it.
        let _restored = set_read_only(&self.target.real, true);
    }
}

fn set_read_only(path: &Path, read_only: bool) -> io::Result<()> {
    let mut permissions = std::fs::metadata(path)?.permissions();
    permissions.set_readonly(read_only);
    std::fs::set_permissions(path, permissions)
}

/// `ReplaceFileW` gives the new file the attributes and the ACL of the old one.
pub(super) fn copy_attributes(_from: &File, _to: &File) -> io::Result<()> {
    Ok(())
}

/// A new file has the ACL of its directory.
pub(super) fn set_default_mode(_file: &File) -> io::Result<()> {
    Ok(())
}

pub(super) fn replace_file(
    directory: &Directory,
    temp: &OsStr,
    open: File,
    target: &OsStr,
    exists: bool,
) -> io::Result<()> {
    drop(open);
    let (temp, target) = (directory.path.join(temp), directory.path.join(target));
    if !exists {
        // Does not replace a file that appeared meanwhile.
        std::fs::hard_link(&temp, &target)?;
        return std::fs::remove_file(&temp);
    }
    let (replacement, replaced) = (wide(temp.as_os_str()), wide(target.as_os_str()));
    patiently(may_pass_by_itself, || {
        // SAFETY: both names end with NUL; the null pointers mean no backup, or are reserved.
        let done = unsafe {
            ReplaceFileW(
                replaced.as_ptr(),
                replacement.as_ptr(),
                std::ptr::null(),
                REPLACEFILE_WRITE_THROUGH,
                std::ptr::null(),
                std::ptr::null(),
            )
        };
        if done == 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    })
}

/// Always false: there is none where nothing is kept open.
pub(super) fn has_writer(_: &File) -> bool {
    false
}

/// An open file cannot be replaced, neither while we have it open nor while an appender has.
pub(super) fn kept_open(_: File) -> Option<File> {
    None
}

pub(super) fn rename_error(target: &Target, source: io::Error) -> Error {
    if source.kind() == ErrorKind::AlreadyExists {
        return Error::Changed {
            path: target.shown.clone(),
            attempts: 1,
        };
    }
    os_error(&target.shown, "replace", source)
}

pub(super) fn open_error(target: &Target, source: io::Error) -> Error {
    os_error(&target.shown, "write", source)
}

/// Does nothing: a lack of space shows when writing; then the old tail is restored.
pub(super) fn reserve(_file: &File, _from: u64, _bytes: u64) -> io::Result<()> {
    Ok(())
}

/// Where the lock for a hosts file is: beside it, in a directory that only administrators can write to.
pub(super) struct LockPlace {
    path: PathBuf,
    private: Option<PathBuf>,
}

impl LockPlace {
    pub(super) fn of(target: &Target, options: &FileOptions) -> Self {
        let private = private_lock_directory(target, options);
        let path = match &private {
            Some(directory) => directory.join(LOCK_NAME),
            None => target.real.with_file_name(target.beside(LOCK_NAME)),
        };
        LockPlace { path, private }
    }

    pub(super) fn shown(&self, _target: &Target) -> PathBuf {
        self.path.clone()
    }

    pub(super) fn private_directory(&self) -> Option<PathBuf> {
        self.private.clone()
    }

    /// Opens a file that nobody else can open at the same time and that is removed when it is closed, even by a crash.
    /// `None` while someone else has it open.
    pub(super) fn try_take(&self, target: &Target) -> Result<Option<HeldLock>, Error> {
        let failed = |e| os_error(&target.shown, "lock", e);
        if let Some(directory) = &self.private {
            match std::fs::create_dir(directory) {
                Ok(()) => {}
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(failed(e)),
            }
        }
        let opened = OpenOptions::new()
            .access_mode(GENERIC_WRITE | DELETE)
            .create(true)
            .truncate(false)
            .write(true)
            .share_mode(0)
            .custom_flags(FILE_FLAG_DELETE_ON_CLOSE)
            .open(&self.path);
        match opened {
            Ok(file) => Ok(Some(HeldLock {
                file: Some(file),
                private: self.private.clone(),
            })),
            Err(e) if is_held_by_other(&e) => Ok(None),
            // Access is also denied for a moment while the previous holder's file is being removed.
            Err(e) if is_code(&e, &[ERROR_ACCESS_DENIED]) && self.path.exists() => Ok(None),
            // The previous holder has just removed the directory.
            Err(e) if e.kind() == ErrorKind::NotFound && self.private.is_some() => Ok(None),
            Err(e) => Err(failed(e)),
        }
    }
}

pub(super) fn private_lock_directory(_target: &Target, options: &FileOptions) -> Option<PathBuf> {
    options.lock_directory.clone()
}

/// A held lock.
pub(super) struct HeldLock {
    file: Option<File>,
    private: Option<PathBuf>,
}

impl Drop for HeldLock {
    fn drop(&mut self) {
        drop(self.file.take());
        if let Some(directory) = &self.private {
            // Fails while someone else has a file in it.
            let _removed = std::fs::remove_dir(directory);
        }
    }
}

fn wide(text: &OsStr) -> Vec<u16> {
    text.encode_wide().chain(std::iter::once(0)).collect()
}

pub(super) const LOCK_NAME: &str = "lock";
