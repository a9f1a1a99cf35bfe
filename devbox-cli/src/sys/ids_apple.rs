//! Apple's systems: who the caller is. Giving up root for them is not there yet: setgroups(2) takes 16 groups there, and the
//! rest come from a directory service that only initgroups(3) asks.

use std::io;

use nix::unistd::{Gid, Uid};

use super::{Caller, folder_of};

/// Whether this process runs as root now.
pub(crate) fn is_root() -> bool {
    Uid::effective().is_root()
}

/// The calling user. Under sudo that would be another one, whom this process cannot become.
pub(crate) fn caller() -> io::Result<Caller> {
    if is_root() && std::env::var_os("SUDO_UID").is_some() {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "running under sudo is not supported on this system yet: the session would stay root",
        ));
    }
    own_identity()
}

/// The user of this process, sudo or not.
pub(crate) fn own_identity() -> io::Result<Caller> {
    Ok(Caller {
        uid: Uid::effective().as_raw(),
        gid: Gid::effective().as_raw(),
        groups: Vec::new(),
        home: folder_of("HOME"),
    })
}

/// The caller is whoever runs this process already.
pub(crate) fn drop_to_caller(_caller: &Caller) -> io::Result<()> {
    Ok(())
}

/// The caller is whoever runs this process already.
pub(crate) fn as_caller<T>(_caller: &Caller, work: impl FnOnce() -> T) -> io::Result<T> {
    Ok(work())
}
