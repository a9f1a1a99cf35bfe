//! Limits and rights of this process.

use std::io;
use std::path::Path;

use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::AccessFlags;

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
