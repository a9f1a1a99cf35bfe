//! Systems without Unix users and signals: everybody is who they are, and Ctrl-C is the one signal.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;
use std::process::ExitStatus;

use super::{Caller, folder_of};

pub(crate) fn is_root() -> bool {
    false
}

pub(crate) fn caller() -> io::Result<Caller> {
    Ok(Caller {
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        home: folder_of("USERPROFILE"),
    })
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

    pub(crate) fn install(self) -> io::Result<Self> {
        Ok(self)
    }

    pub(crate) async fn end(&mut self) -> i32 {
        std::future::pending().await
    }

    pub(crate) async fn next(&mut self) -> i32 {
        std::future::pending().await
    }
}

/// There are no sessions in the background on this system yet: a process of Windows has its console for life.
#[derive(Debug)]
pub(crate) struct Background;

impl Background {
    pub(crate) fn start(_arguments: impl IntoIterator<Item = OsString>) -> io::Result<Self> {
        Err(no_background())
    }

    pub(crate) fn wait(self) -> io::Result<Option<ExitStatus>> {
        Err(no_background())
    }
}

#[derive(Debug)]
pub(crate) struct Starter;

impl Starter {
    pub(crate) fn take() -> io::Result<Self> {
        Err(no_background())
    }

    pub(crate) async fn gone(&self) -> io::Result<()> {
        std::future::pending().await
    }

    pub(crate) fn ready(&self) -> io::Result<()> {
        Err(no_background())
    }
}

fn no_background() -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        "a session in the background is not supported on this system yet",
    )
}

pub(crate) fn redirect_output(_file: &File) -> io::Result<()> {
    Err(no_background())
}

pub(crate) fn append_privately(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

pub(crate) fn make_private_folder(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)
}

pub(crate) fn is_at(_file: &File, path: &Path) -> bool {
    path.exists()
}
