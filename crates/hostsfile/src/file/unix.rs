//! The calls that Unix systems need.

use std::ffi::{OsStr, OsString};
use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::options::FileOptions;
use super::target::{Target, os_error};
use crate::error::Error;
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

const LOCK_DIRECTORY: &str = if cfg!(target_os = "linux") {
    "/run/hostsfile"
} else {
    "/var/run/hostsfile"
};

pub(super) fn system_path() -> PathBuf {
    PathBuf::from("/etc/hosts")
}

/// An open directory, so that a path that is changed meanwhile leads nobody astray.
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

    fn open_with(&self, name: &OsStr, flags: OFlags, mode: Mode) -> io::Result<File> {
        // O_NONBLOCK: a pipe in the place of the file holds nobody up.
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        Ok(rustix::fs::openat(&self.fd, name, flags, mode)?.into())
    }

    /// Device and inode of the file under a name.
    fn identity(&self, name: &OsStr) -> io::Result<(u64, u64)> {
        identity(&self.open_with(name, OFlags::RDONLY, Mode::empty())?)
    }
}

fn identity(file: &File) -> io::Result<(u64, u64)> {
    file.metadata().map(|m| (m.dev(), m.ino()))
}

/// Device, inode, length, and times of the last change of content and of attributes.
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

pub(super) fn is_symlink_loop(e: &io::Error) -> bool {
    Errno::from_io_error(e) == Some(Errno::LOOP)
}

/// Whether a file cannot be replaced but perhaps written: another file is bound over it.
pub(super) fn must_stay(e: &io::Error) -> bool {
    e.kind() == ErrorKind::ResourceBusy
}

/// How long a file that another program has open was waited for.
pub(super) const PATIENCE: std::time::Duration = std::time::Duration::ZERO;

/// Windows alone keeps others from a file while it is open.
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

/// Finds out what would make a change fail, or go through although the user marked the file.
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
        let clear = format!("make it writable with: chmod u+w {}", target.real.display());
        return Err(Error::ReadOnlyFile {
            path: target.shown.clone(),
            clear,
        });
    }
    Ok(())
}

/// The error for a file that has a flag against changes.
fn immutable(target: &Target, file: &File) -> Option<Error> {
    let (flag, clear) = flags::immutable(file)?;
    let clear = format!("{clear} {}", target.real.display());
    Some(Error::Immutable {
        path: target.shown.clone(),
        flag,
        clear,
    })
}

/// Takes marks against changes off the target until the result is dropped.
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

/// Marks to be set again.
pub(super) struct Marks<'t> {
    target: &'t Target,
    mode: Option<u32>,
    flags: Option<flags::Saved>,
}

impl Drop for Marks<'_> {
    fn drop(&mut self) {
        let Ok(file) = self.target.open() else { return };
        if let Some(mode) = self.mode {
            // The change itself is done; a mark that cannot be set again is no reason to undo it.
            let _restored = rustix::fs::fchmod(&file, Mode::from_raw_mode(raw_mode(mode & 0o7777)));
        }
        if let Some(flags) = self.flags.take() {
            flags::restore(&file, flags);
        }
    }
}

/// Owner, then mode (a change of owner clears bits of it), then extended attributes.
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
fn raw_mode(mode: u32) -> rustix::fs::RawMode {
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
    // A file that appeared meanwhile is not replaced.
    rustix::fs::linkat(&directory.fd, temp, &directory.fd, target, AtFlags::empty())?;
    directory.remove(temp)
}

/// What a failed rename says.
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

/// What a failure to open for writing says.
pub(super) fn open_error(target: &Target, source: io::Error) -> Error {
    if Errno::from_io_error(&source) == Some(Errno::PERM)
        && let Some(error) = target.open().ok().and_then(|file| immutable(target, &file))
    {
        return error;
    }
    os_error(&target.shown, "write", source)
}

/// Takes space behind the end of a file without changing its length.
pub(super) fn reserve(file: &File, from: u64, bytes: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::KEEP_SIZE, from, bytes) {
        Err(e @ (Errno::NOSPC | Errno::DQUOT | Errno::IO)) => Err(e.into()),
        // A file system that cannot reserve finds out when it writes; then the old end is written again.
        _ => Ok(()),
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _unknown_here = (file, from, bytes);
        Ok(())
    }
}

/// Where the lock for a hosts file is.
pub(super) enum LockPlace {
    /// A file in a directory that only its owner can use.
    Private(PathBuf),
    /// A file beside the hosts file.
    Beside,
}

impl LockPlace {
    pub(super) fn of(target: &Target, options: &FileOptions) -> Self {
        private_lock_directory(target, options).map_or(LockPlace::Beside, LockPlace::Private)
    }

    pub(super) fn shown(&self, target: &Target) -> PathBuf {
        match self {
            LockPlace::Private(directory) => directory.join(LOCK_NAME),
            LockPlace::Beside => target.real.with_file_name(target.beside(LOCK_NAME)),
        }
    }

    pub(super) fn private_directory(&self) -> Option<PathBuf> {
        match self {
            LockPlace::Private(directory) => Some(directory.clone()),
            LockPlace::Beside => None,
        }
    }

    /// `None` while somebody else has it.
    pub(super) fn try_take(&self, target: &Target) -> Result<Option<HeldLock>, Error> {
        let (directory, name, private) = match self {
            LockPlace::Private(path) => match open_private(path) {
                // Its last user removed it a moment ago.
                Err(Error::NotFound { .. }) => return Ok(None),
                opened => (opened?, OsString::from(LOCK_NAME), Some(path.clone())),
            },
            LockPlace::Beside => {
                let directory = target
                    .directory
                    .try_clone()
                    .map_err(|e| os_error(&target.real, "open the directory of", e))?;
                (directory, target.beside(LOCK_NAME), None)
            }
        };
        let failed = |e| os_error(&self.shown(target), "lock", e);
        let flags = OFlags::RDWR | OFlags::CREATE;
        let (file, name) = match directory.open_with(&name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => {
                open_to_owner(target, &file);
                (file, Some(name))
            }
            Err(e)
                if private.is_none()
                    && matches!(
                        e.kind(),
                        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
                    ) =>
            {
                if directory.exists(&name) {
                    return Ok(None);
                }
                // No file can be made here, so that no rename will change the hosts file's inode: it can be the lock.
                (target.open()?, None)
            }
            Err(e) if private.is_some() && e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
        // The one who had it may have removed the file: then this lock holds back nobody.
        let under_name = directory.identity(name.as_deref().unwrap_or(&target.name)).ok();
        let held = HeldLock {
            file,
            directory,
            name,
            private,
        };
        if under_name.is_none() || under_name != identity(&held.file).ok() {
            held.forget();
            return Ok(None);
        }
        Ok(Some(held))
    }
}

/// The directory that keeps others from holding the lock, where there is one.
pub(super) fn private_lock_directory(target: &Target, options: &FileOptions) -> Option<PathBuf> {
    if let Some(directory) = &options.lock_directory {
        return Some(directory.clone());
    }
    let directory = Path::new(LOCK_DIRECTORY);
    let system = rustix::process::geteuid().is_root()
        && std::fs::canonicalize(system_path()).is_ok_and(|path| path == target.real)
        && directory
            .parent()
            .is_some_and(|parent| rustix::fs::access(parent, rustix::fs::Access::WRITE_OK).is_ok());
    system.then(|| directory.to_owned())
}

fn open_private(path: &Path) -> Result<Directory, Error> {
    match rustix::fs::mkdir(path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(os_error(path, "make", e.into())),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::LOOP | Errno::NOTDIR) => {
            return Err(Error::UnsafeLockDirectory {
                path: path.to_owned(),
            });
        }
        opened => opened.map_err(|e| os_error(path, "open", e.into()))?,
    };
    let stat = rustix::fs::fstat(&fd).map_err(|e| os_error(path, "look at", e.into()))?;
    let owner = rustix::process::geteuid().as_raw();
    if (stat.st_uid != owner && stat.st_uid != 0) || stat.st_mode & 0o077 != 0 {
        return Err(Error::UnsafeLockDirectory {
            path: path.to_owned(),
        });
    }
    Ok(Directory { fd })
}

/// Lets those who may write the hosts file use the lock as well, where root made it for a file of theirs.
fn open_to_owner(target: &Target, lock: &File) {
    let (Ok(hosts), Ok(made)) = (
        target
            .open()
            .and_then(|f| f.metadata().map_err(|e| os_error(&target.shown, "look at", e))),
        lock.metadata(),
    ) else {
        return;
    };
    let write = hosts.mode() & 0o222;
    let mode = 0o600 | write | write << 1;
    // Where it fails, others wait for nothing and find the file changed; that is noticed before a write.
    if (made.uid(), made.gid()) != (hosts.uid(), hosts.gid()) && rustix::process::geteuid().is_root() {
        let _given = std::os::unix::fs::fchown(lock, Some(hosts.uid()), Some(hosts.gid()));
    }
    if made.mode() & 0o777 != mode {
        let _opened = rustix::fs::fchmod(lock, Mode::from_raw_mode(raw_mode(mode)));
    }
}

/// A lock that is held; its file goes first, then the lock, then the directory if it is empty.
pub(super) struct HeldLock {
    file: File,
    directory: Directory,
    name: Option<OsString>,
    private: Option<PathBuf>,
}

impl HeldLock {
    /// Gives up a lock on a file that is not under its name.
    fn forget(mut self) {
        self.name = None;
    }
}

impl Drop for HeldLock {
    fn drop(&mut self) {
        // Whoever waits for this very file sees that it is gone and asks again.
        if let Some(name) = &self.name {
            let _removed = self.directory.remove(name);
        }
        let _unlocked = self.file.unlock();
        if let Some(directory) = &self.private {
            // Fails while somebody else has a file in it.
            let _removed = rustix::fs::rmdir(directory);
        }
    }
}

impl Directory {
    fn exists(&self, name: &OsStr) -> bool {
        rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }
}

pub(super) const LOCK_NAME: &str = "lock";

/// Flags against changes.
#[cfg(target_os = "linux")]
mod flags {
    use std::fs::File;
    use std::io;

    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

    pub(super) type Saved = IFlags;

    pub(super) fn immutable(file: &File) -> Option<(&'static str, &'static str)> {
        let flags = ioctl_getflags(file).ok()?;
        if flags.contains(IFlags::IMMUTABLE) {
            Some(("immutable", "chattr -i"))
        } else if flags.contains(IFlags::APPEND) {
            Some(("append only", "chattr -a"))
        } else {
            None
        }
    }

    pub(super) fn clear_immutable(file: &File) -> io::Result<Option<Saved>> {
        let Ok(flags) = ioctl_getflags(file) else {
            return Ok(None);
        };
        let against = IFlags::IMMUTABLE | IFlags::APPEND;
        if !flags.intersects(against) {
            return Ok(None);
        }
        ioctl_setflags(file, flags.difference(against))?;
        Ok(Some(flags))
    }

    pub(super) fn restore(file: &File, flags: Saved) {
        // The change itself is done; a flag that cannot be set again is no reason to undo it.
        let _restored = ioctl_setflags(file, flags);
    }
}

/// Flags against changes: seen, but not cleared.
#[cfg(not(target_os = "linux"))]
mod flags {
    use std::fs::File;
    use std::io;

    pub(super) enum Saved {}

    pub(super) fn immutable(file: &File) -> Option<(&'static str, &'static str)> {
        #[cfg(any(target_os = "macos", target_os = "freebsd"))]
        {
            #[cfg(target_os = "freebsd")]
            use std::os::freebsd::fs::MetadataExt;
            #[cfg(target_os = "macos")]
            use std::os::macos::fs::MetadataExt;
            // UF_IMMUTABLE, UF_APPEND, SF_IMMUTABLE, SF_APPEND of chflags(2).
            let flags = file.metadata().ok()?.st_flags();
            if flags & 0x0000_0002 != 0 {
                return Some(("uchg", "chflags nouchg"));
            }
            if flags & 0x0002_0000 != 0 {
                return Some(("schg", "chflags noschg"));
            }
            if flags & 0x0004_0004 != 0 {
                return Some(("append only", "chflags nouappnd,nosappnd"));
            }
        }
        let _unknown_here = file;
        None
    }

    pub(super) fn clear_immutable(_file: &File) -> io::Result<Option<Saved>> {
        Ok(None)
    }

    pub(super) fn restore(_file: &File, saved: Saved) {
        match saved {}
    }
}

/// Extended attributes: ACLs, labels and the user's own.
#[cfg(any(target_os = "linux", target_vendor = "apple"))]
mod xattr {
    use std::ffi::CString;
    use std::fs::File;
    use std::io;

    use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr};
    use rustix::io::Errno;

    /// Gives `to` the attributes of `from` and no others.
    pub(super) fn copy(from: &File, to: &File) -> io::Result<()> {
        let (wanted, there) = (names(from)?, names(to)?);
        for name in &wanted {
            let value = value(from, name)?;
            if there.contains(name) && self::value(to, name)? == value {
                continue;
            }
            fsetxattr(to, name.as_c_str(), &value, XattrFlags::empty())?;
        }
        // A default ACL of the directory, for instance; labels that the system gives are its own business.
        for name in there
            .iter()
            .filter(|n| !wanted.contains(n) && !n.to_bytes().starts_with(b"security."))
        {
            fremovexattr(to, name.as_c_str())?;
        }
        Ok(())
    }

    fn names(file: &File) -> io::Result<Vec<CString>> {
        let list = match read(|buffer| flistxattr(file, buffer)) {
            Err(Errno::NOTSUP | Errno::NOSYS) => return Ok(Vec::new()),
            list => list?,
        };
        let names = list.split(|b| *b == 0).filter(|n| !n.is_empty());
        Ok(names.filter_map(|n| CString::new(n).ok()).collect())
    }

    fn value(file: &File, name: &CString) -> io::Result<Vec<u8>> {
        Ok(read(|buffer| fgetxattr(file, name.as_c_str(), buffer))?)
    }

    /// Asks with a buffer that grows until it is large enough; the kernel's bound is 64 KiB.
    fn read(mut call: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
        let mut buffer = vec![0; 256];
        loop {
            match call(&mut buffer) {
                Err(Errno::RANGE) if buffer.len() < MAX_BYTES => buffer.resize(buffer.len() * 4, 0),
                Err(e) => return Err(e),
                Ok(length) => {
                    buffer.truncate(length);
                    return Ok(buffer);
                }
            }
        }
    }

    const MAX_BYTES: usize = 1024 * 1024;
}

/// The BSDs' extended attributes have calls of their own, which are not used here.
#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
mod xattr {
    use std::fs::File;
    use std::io;

    pub(super) fn copy(_from: &File, _to: &File) -> io::Result<()> {
        Ok(())
    }
}
