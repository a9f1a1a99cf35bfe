//! Limits and rights of this process.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::AccessFlags;

/// The user that this process runs as.
pub(crate) fn own_user() -> Option<u32> {
    Some(nix::unistd::geteuid().as_raw())
}

/// Raises the soft limit of open files to the hard one. The soft limit from before, where it could be read.
pub(crate) fn raise_open_files() -> io::Result<Option<u64>> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(Some(soft))
}

/// Whether a call failed because this process (EMFILE) or the whole system (ENFILE) may open no more files.
pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// The most descriptors that listeners leave to connections and files; a quarter of the limit where that is less.
const RESERVE: u64 = 1024;

/// Whether a socket has one of the last descriptors that this process may have. Descriptors are given out lowest
/// first (socket(2)), so that its number tells how many are taken.
pub(crate) fn is_in_reserve(socket: &impl AsRawFd) -> bool {
    let Ok((limit, _)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return false;
    };
    let number = u64::try_from(socket.as_raw_fd()).unwrap_or(0);
    number >= limit - RESERVE.min(limit / 4)
}

/// Replaces a file by one that nobody but this user can read.
pub(crate) fn write_privately(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    // A process that writes at the same time has a name of its own.
    let new = path.with_extension(format!("{}.new", std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(bytes)?;
    fs::rename(&new, path)
}

/// Whether this process may make files in a folder (access(2)).
pub(crate) fn may_make_files(folder: &Path) -> bool {
    let flags = AccessFlags::W_OK | AccessFlags::X_OK;
    cfg_if::cfg_if! {
        if #[cfg(target_vendor = "apple")] {
            nix::unistd::access(folder, flags).is_ok()
        } else {
            nix::unistd::eaccess(folder, flags).is_ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_descriptors_are_not_in_the_reserve_and_a_failure_is_known() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(!is_in_reserve(&listener));
        assert!(is_out_of_descriptors(&io::Error::from_raw_os_error(libc::EMFILE)));
        assert!(!is_out_of_descriptors(&io::Error::from_raw_os_error(
            libc::EACCES
        )));
    }
}
