//! The calls for Unix systems.

mod flags;
mod lock;
mod writers;
mod xattr;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

pub(super) use self::lock::{HeldLock, LockPlace, private_lock_directory};
pub(super) use self::writers::has_writer;
use super::target::{Target, os_error};
use crate::error::Error;
use crate::instructions::single_quoted;
use crate::lint::Resolver;
use crate::scan::LineEnding;

pub(crate) const PLATFORM_LINE_ENDING: LineEnding = LineEnding::Lf;

pub(crate) const PLATFORM_RESOLVER: Resolver = if cfg!(target_vendor = "apple") {
    Resolver::MacOs
} else if cfg!(any(
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd",
    target_os = "openbsd"
)) {
    Resolver::FreeBsd
} else if cfg!(target_env = "musl") {
    Resolver::Musl
} else {
    Resolver::Glibc
};

pub(super) fn system_path() -> PathBuf {
    PathBuf::from("/etc/hosts")
}

/// An open directory, so that a path that is changed meanwhile does no harm.
pub(super) struct Directory {
    fd: OwnedFd,
}

impl Directory {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let fd = rustix::fs::open(
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        Ok(Directory { fd })
    }

    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Directory {
            fd: self.fd.try_clone()?,
        })
    }

    pub(super) fn open_file(&self, name: &OsStr) -> io::Result<File> {
        self.open_with(name, OFlags::RDONLY, Mode::empty())
    }

    pub(super) fn open_for_writing(&self, name: &OsStr) -> io::Result<File> {
        self.open_with(name, OFlags::RDWR, Mode::empty())
    }

    pub(super) fn create_file(&self, name: &OsStr) -> io::Result<File> {
        self.open_with(
            name,
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL,
            Mode::RUSR | Mode::WUSR,
        )
    }

    pub(super) fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.fd, from, &self.fd, to)?)
    }

    pub(super) fn remove(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())?)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        match rustix::fs::fsync(&self.fd) {
            // A file system that cannot sync directories has nothing to sync.
            Err(Errno::INVAL | Errno::NOTSUP | Errno::ROFS) | Ok(()) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// The names in it; none if it cannot be listed.
    pub(super) fn names(&self) -> Vec<OsString> {
        let Ok(entries) = rustix::fs::Dir::read_from(&self.fd) else {
            return Vec::new();
        };
        entries
            .filter_map(Result::ok)
            .map(|e| OsStr::from_bytes(e.file_name().to_bytes()).to_owned())
            .collect()
    }

    pub(super) fn open_with(&self, name: &OsStr, flags: OFlags, mode: Mode) -> io::Result<File> {
        // O_NONBLOCK, so that opening a pipe in the file's place does not block.
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        Ok(rustix::fs::openat(&self.fd, name, flags, mode)?.into())
    }

    /// The device and inode of the file with a name.
    pub(super) fn identity(&self, name: &OsStr) -> io::Result<(u64, u64)> {
        identity(&self.open_with(name, OFlags::RDONLY, Mode::empty())?)
    }
}

pub(super) fn identity(file: &File) -> io::Result<(u64, u64)> {
    file.metadata().map(|m| (m.dev(), m.ino()))
}

/// Device, inode, length, and the times of the last change of content and of attributes.
pub(super) type Stamp = (u64, u64, u64, (i64, i64), (i64, i64));

pub(super) fn stamp(file: &File) -> io::Result<Stamp> {
    let m = file.metadata()?;
    Ok((
        m.dev(),
        m.ino(),
        m.size(),
        (m.mtime(), m.mtime_nsec()),
        (m.ctime(), m.ctime_nsec()),
    ))
}

/// Whether a file is one that [`Directory::create_file`] made for this user and that nobody else can write.
pub(super) fn is_own_private_file(file: &File) -> io::Result<bool> {
    let m = file.metadata()?;
    let owner = rustix::process::geteuid().as_raw();
    Ok(m.is_file() && m.uid() == owner && m.mode() & 0o7777 == 0o600 && m.nlink() == 1)
}

pub(super) fn is_symlink_loop(e: &io::Error) -> bool {
    Errno::from_io_error(e) == Some(Errno::LOOP)
}

/// Whether a file cannot be replaced, but perhaps written: it is bind-mounted.
pub(super) fn must_stay(e: &io::Error) -> bool {
    e.kind() == ErrorKind::ResourceBusy
}

/// How long we waited for another program to close the file.
pub(super) const PATIENCE: std::time::Duration = std::time::Duration::ZERO;

/// Always false: only Windows locks others out of an open file.
pub(super) fn is_held_by_other(_: &io::Error) -> bool {
    false
}

/// Whether an attribute cannot be set by this caller or on this file system.
pub(super) fn is_refused(e: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(e),
        Some(Errno::PERM | Errno::ACCESS | Errno::NOTSUP)
    )
}

/// Finds whatever would make a change fail, or make it succeed although the user marked the file.
pub(super) fn check_writable(target: &Target, file: &File, override_read_only: bool) -> Result<(), Error> {
    if target.real.starts_with("/nix/store") {
        return Err(Error::ManagedByNix {
            path: target.shown.clone(),
            target: target.real.clone(),
        });
    }
    if override_read_only {
        return Ok(());
    }
    if let Some(error) = immutable(target, file) {
        return Err(error);
    }
    let mode = file
        .metadata()
        .map_err(|e| os_error(&target.shown, "look at", e))?
        .mode();
    if mode & 0o222 == 0 {
        let clear = format!("make it writable with: chmod u+w {}", quoted(&target.real));
        return Err(Error::ReadOnlyFile {
            path: target.shown.clone(),
            clear,
        });
    }
    Ok(())
}

/// The error for a file with a flag that forbids changes.
fn immutable(target: &Target, file: &File) -> Option<Error> {
    let (flag, clear) = flags::immutable(file)?;
    let clear = format!("{clear} {}", quoted(&target.real));
    Some(Error::Immutable {
        path: target.shown.clone(),
        flag,
        clear,
    })
}

/// Removes the marks that forbid changes from the target, until the result is dropped.
pub(super) fn clear_marks(target: &Target, override_read_only: bool) -> Result<Option<Marks<'_>>, Error> {
    if !override_read_only || !target.exists() {
        return Ok(None);
    }
    let file = target.open()?;
    let flags =
        flags::clear_immutable(&file).map_err(|e| os_error(&target.shown, "clear the flags of", e))?;
    let mode = file
        .metadata()
        .map_err(|e| os_error(&target.shown, "look at", e))?
        .mode();
    let read_only = mode & 0o222 == 0;
    if read_only {
        let writable = Mode::from_raw_mode(raw_mode(mode & 0o7777 | 0o200));
        rustix::fs::fchmod(&file, writable)
            .map_err(|e| os_error(&target.shown, "change the mode of", e.into()))?;
    }
    Ok(Some(Marks {
        target,
        mode: read_only.then_some(mode),
        flags,
    }))
}

/// Marks to set again.
pub(super) struct Marks<'t> {
    target: &'t Target,
    mode: Option<u32>,
    flags: Option<flags::Saved>,
}

impl Drop for Marks<'_> {
    fn drop(&mut self) {
        let Ok(file) = self.target.open() else { return };
        if let Some(mode) = self.mode {
            // The change itself is done, and failing to set the mark again is no reason to undo it.
            let _restored = rustix::fs::fchmod(&file, Mode::from_raw_mode(raw_mode(mode & 0o7777)));
        }
        if let Some(flags) = self.flags.take() {
            flags::restore(&file, flags);
        }
    }
}

/// Copies the owner, then the mode (changing the owner clears bits of it), then the extended attributes.
pub(super) fn copy_attributes(from: &File, to: &File) -> io::Result<()> {
    let (old, new) = (from.metadata()?, to.metadata()?);
    if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
        std::os::unix::fs::fchown(to, Some(old.uid()), Some(old.gid()))?;
    }
    rustix::fs::fchmod(to, Mode::from_raw_mode(raw_mode(old.mode() & 0o7777)))?;
    xattr::copy(from, to)
}

pub(super) fn set_default_mode(file: &File) -> io::Result<()> {
    Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(0o644))?)
}

/// `mode_t` has 16 bits on some systems.
pub(super) fn raw_mode(mode: u32) -> rustix::fs::RawMode {
    rustix::fs::RawMode::try_from(mode & 0o7777).unwrap_or(0o600)
}

pub(super) fn replace_file(
    directory: &Directory,
    temp: &OsStr,
    _open: File,
    target: &OsStr,
    exists: bool,
) -> io::Result<()> {
    if exists {
        return directory.rename(temp, target);
    }
    // Does not replace a file that appeared meanwhile.
    rustix::fs::linkat(&directory.fd, temp, &directory.fd, target, AtFlags::empty())?;
    directory.remove(temp)
}

/// A file that stays open while another one takes its place.
pub(super) fn kept_open(file: File) -> Option<File> {
    Some(file)
}

/// The error for a failed rename.
pub(super) fn rename_error(target: &Target, source: io::Error) -> Error {
    if Errno::from_io_error(&source) == Some(Errno::PERM)
        && let Some(error) = target.open().ok().and_then(|file| immutable(target, &file))
    {
        return error;
    }
    if source.kind() == ErrorKind::AlreadyExists {
        return Error::Changed {
            path: target.shown.clone(),
            attempts: 1,
        };
    }
    os_error(&target.shown, "replace", source)
}

/// The error for a failure to open for writing.
pub(super) fn open_error(target: &Target, source: io::Error) -> Error {
    if Errno::from_io_error(&source) == Some(Errno::PERM)
        && let Some(error) = target.open().ok().and_then(|file| immutable(target, &file))
    {
        return error;
    }
    os_error(&target.shown, "write", source)
}

/// Reserves space after the end of a file without changing its length.
pub(super) fn reserve(file: &File, from: u64, bytes: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::KEEP_SIZE, from, bytes) {
        Err(e @ (Errno::NOSPC | Errno::DQUOT | Errno::IO)) => Err(e.into()),
        // A file system that cannot reserve space fails when writing; then the old tail is restored.
        _ => Ok(()),
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _unknown_here = (file, from, bytes);
        Ok(())
    }
}

impl Directory {
    pub(super) fn exists(&self, name: &OsStr) -> bool {
        rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }
}

pub(super) const LOCK_NAME: &str = "lock";

/// A path as a word of a POSIX shell, in quotes only where it needs them.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+,@%:".contains(c);
    if text.chars().all(plain) {
        text
    } else {
        single_quoted(&text, "'\\''")
    }
}
