use std::fs::File;
use std::os::fd::AsRawFd;

/// Whether anybody has the file open for writing; false where that cannot be found out. `file` is open for reading only, and
/// has no name any more, so that nobody can open it between the two calls and be held up.
///
/// The kernel grants a read lease only on a file that nobody has open for writing (fcntl(2), "Leases").
#[expect(unsafe_code, reason = "no safe wrapper has F_SETLEASE")]
pub(in crate::file) fn has_writer(file: &File) -> bool {
    let fd = file.as_raw_fd();
    // SAFETY: the descriptor is open for as long as `file` lives; the argument is a number.
    let granted = unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK) };
    if granted == -1 {
        return std::io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN);
    }
    // SAFETY: as above.
    unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK) };
    false
}
