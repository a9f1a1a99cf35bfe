//! Systems without Unix users and signals: everybody is who they are, and Ctrl-C is the one signal.

use std::io;
use std::path::PathBuf;

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
