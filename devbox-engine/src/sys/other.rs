//! Systems without Unix sockets: no control socket, and no limit of open files to raise.

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};

/// WSAEMFILE.
const TOO_MANY_SOCKETS: i32 = 10_024;

pub(crate) fn raise_open_files() -> io::Result<Option<u64>> {
    Ok(None)
}

pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
    error.raw_os_error() == Some(TOO_MANY_SOCKETS)
}

/// Whether this process may make files in a folder: found out by trying.
pub(crate) fn may_make_files(_folder: &Path) -> bool {
    true
}

/// Replaces a file, which is made in the user's own folders and with their rights.
pub(crate) fn write_privately(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(path, bytes)
}

pub(crate) fn control_sockets() -> Vec<PathBuf> {
    Vec::new()
}

pub(crate) async fn remove_dead_control_sockets() {}

pub(crate) type ControlStream = tokio::io::DuplexStream;

pub(crate) async fn connect_control(_path: &Path) -> io::Result<ControlStream> {
    Err(unsupported())
}

/// There is none on this system.
#[derive(Debug)]
pub(crate) struct ControlListener(Infallible);

impl ControlListener {
    pub(crate) async fn claim<F, D>(_name: &str, _displace: D) -> io::Result<Self>
    where
        D: Fn(PathBuf) -> F,
        F: Future<Output = io::Result<bool>>,
    {
        Err(unsupported())
    }

    pub(crate) async fn take(_name: &str) -> io::Result<Taken> {
        Err(unsupported())
    }

    pub(crate) async fn accept(&self) -> io::Result<ControlStream> {
        match self.0 {}
    }
}

/// Whose a shared socket is.
#[derive(Debug)]
#[expect(dead_code, reason = "nobody takes one on this system")]
pub(crate) enum Taken {
    /// Nobody had it.
    Ours(ControlListener),
    /// A connection to whoever has it.
    Theirs(ControlStream),
}

fn unsupported() -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        "control sockets are not supported on this system yet",
    )
}

/// There is no limit to keep away from.
pub(crate) fn is_in_reserve<S>(_socket: &S) -> bool {
    false
}

/// Users have no number here.
pub(crate) fn own_user() -> Option<u32> {
    None
}
