//! Systems without Unix sockets: no control socket, and the one signal that there is.

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};

use super::Caller;

pub(crate) fn is_root() -> bool {
    false
}

pub(crate) fn caller() -> io::Result<Caller> {
    let home = std::env::var_os("USERPROFILE").map(PathBuf::from);
    Ok(Caller {
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        home,
    })
}

/// Whether this process may make files in a folder: told by trying.
pub(crate) fn may_make_files(_folder: &Path) -> bool {
    true
}

pub(crate) fn own_identity() -> io::Result<Caller> {
    caller()
}

pub(crate) fn drop_to_caller(_caller: &Caller) -> io::Result<()> {
    Ok(())
}

pub(crate) fn as_caller<T>(_caller: &Caller, work: impl FnOnce() -> T) -> io::Result<T> {
    Ok(work())
}

pub(crate) fn raise_open_files() {}

pub(crate) fn control_sockets() -> Vec<PathBuf> {
    Vec::new()
}

pub(crate) async fn remove_dead_control_sockets() {}

pub(crate) async fn connect_control(_path: &Path) -> io::Result<tokio::io::DuplexStream> {
    Err(unsupported())
}

/// There is none on this system.
#[derive(Debug)]
pub(crate) struct ControlListener(Infallible);

impl ControlListener {
    pub(crate) async fn claim<F, D>(_name: &str, _displace: D) -> io::Result<Self>
    where
        D: Fn(tokio::io::DuplexStream) -> F,
        F: Future<Output = io::Result<()>>,
    {
        Err(unsupported())
    }

    pub(crate) async fn accept(&self) -> io::Result<tokio::io::DuplexStream> {
        match self.0 {}
    }
}

fn unsupported() -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        "control sockets are not there yet on this system",
    )
}

/// Ctrl-C.
#[derive(Debug)]
pub(crate) struct Signals;

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self)
    }

    pub(crate) async fn next(&mut self) -> &'static str {
        match tokio::signal::ctrl_c().await {
            Ok(()) => "Ctrl-C",
            Err(_) => std::future::pending().await,
        }
    }
}

/// There is no `exec` on this system, so there is nothing to pass on.
#[derive(Debug)]
pub(crate) struct ExecSignals;

impl ExecSignals {
    pub(crate) fn before_handlers() -> Self {
        Self
    }

    pub(crate) fn install(&mut self) -> io::Result<()> {
        Ok(())
    }

    pub(crate) async fn any(&mut self) -> i32 {
        std::future::pending().await
    }

    pub(crate) async fn next(&mut self) -> i32 {
        std::future::pending().await
    }
}
