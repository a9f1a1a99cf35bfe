//! One writer at a time, by flock(2) on a file that exists only while the lock is held.

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::super::options::FileOptions;
use super::super::target::{Target, os_error};
use super::{Directory, LOCK_NAME, identity, raw_mode, system_path};
use crate::error::Error;

const LOCK_DIRECTORY: &str = if cfg!(target_os = "linux") {
    "/run/hostsfile"
} else {
    "/var/run/hostsfile"
};

/// Where the lock for a hosts file is.
pub(in crate::file) enum LockPlace {
    /// A file in a directory to which only its owner has access.
    Private(PathBuf),
    /// A file beside the hosts file.
    Beside,
}

impl LockPlace {
    pub(in crate::file) fn of(target: &Target, options: &FileOptions) -> Self {
        private_lock_directory(target, options).map_or(LockPlace::Beside, LockPlace::Private)
    }

    pub(in crate::file) fn shown(&self, target: &Target) -> PathBuf {
        match self {
            LockPlace::Private(directory) => directory.join(LOCK_NAME),
            LockPlace::Beside => target.real.with_file_name(target.beside(LOCK_NAME)),
        }
    }

    pub(in crate::file) fn private_directory(&self) -> Option<PathBuf> {
        match self {
            LockPlace::Private(directory) => Some(directory.clone()),
            LockPlace::Beside => None,
        }
    }

    /// `None` while someone else holds it.
    pub(in crate::file) fn try_take(&self, target: &Target) -> Result<Option<HeldLock>, Error> {
        let (directory, name, private) = match self {
            LockPlace::Private(path) => match open_private(path) {
                // The previous holder has just removed it.
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
                // No file can be created here, so no rename can change the hosts file's inode, and it can serve as the lock.
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
        // The previous holder may have removed the file; then a lock on it excludes nobody.
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

/// The directory that prevents others from taking the lock, if there is one.
pub(in crate::file) fn private_lock_directory(target: &Target, options: &FileOptions) -> Option<PathBuf> {
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

/// If root created the lock for someone else's file, lets those who may write that file use the lock too.
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
    // If it fails, others cannot wait for the lock and find the file changed, which they notice before writing.
    if (made.uid(), made.gid()) != (hosts.uid(), hosts.gid()) && rustix::process::geteuid().is_root() {
        let _given = std::os::unix::fs::fchown(lock, Some(hosts.uid()), Some(hosts.gid()));
    }
    if made.mode() & 0o777 != mode {
        let _opened = rustix::fs::fchmod(lock, Mode::from_raw_mode(raw_mode(mode)));
    }
}

/// A held lock. Dropping it removes the file, then releases the lock, then removes the directory if it is empty.
pub(in crate::file) struct HeldLock {
    file: File,
    directory: Directory,
    name: Option<OsString>,
    private: Option<PathBuf>,
}

impl HeldLock {
    /// Gives up the lock on a file that is no longer at its path.
    fn forget(mut self) {
        self.name = None;
    }
}

impl Drop for HeldLock {
    fn drop(&mut self) {
        // Whoever waits for this file sees that it is gone and tries again.
        if let Some(name) = &self.name {
            let _removed = self.directory.remove(name);
        }
        let _unlocked = self.file.unlock();
        if let Some(directory) = &self.private {
            // Fails while someone else has a file in it.
            let _removed = rustix::fs::rmdir(directory);
        }
    }
}
