//! Systems without mount namespaces: nothing is pretended.

use std::fs::File;
use std::io;
use std::process::{Child, ExitCode, ExitStatus};

use crate::{Error, ExitOutcome, Scope, Scoped, ScopedCommand, Side};

const WHAT: &str = "a hosts file for one command alone";

pub(crate) fn spawn(_scope: &Scope, _command: &ScopedCommand) -> Result<Scoped, Error> {
    Err(Error::Unsupported { what: WHAT })
}

pub(crate) fn probe(_scope: &Scope) -> Result<(), Error> {
    Err(Error::Unsupported { what: WHAT })
}

pub(crate) fn enter(_alone: bool) -> ExitCode {
    ExitCode::from(125)
}

pub(crate) fn wait(child: &mut Child) -> Result<ExitOutcome, Error> {
    child
        .wait()
        .map(ExitOutcome::from)
        .map_err(|source| Error::Setup {
            step: "wait for the command",
            source,
        })
}

pub(crate) fn rewrite(_file: &File, _bytes: &[u8]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn signal_ignored(_signal: i32) -> bool {
    false
}

#[cfg(unix)]
pub(crate) fn signal_of(status: ExitStatus) -> i32 {
    std::os::unix::process::ExitStatusExt::signal(&status).unwrap_or(0)
}

#[cfg(not(unix))]
pub(crate) fn signal_of(_status: ExitStatus) -> i32 {
    0
}

/// Returns; the caller exits with the code that stands for the signal.
pub(crate) fn die_by(_signal: i32) {}

pub(crate) fn split() -> Result<Side, Error> {
    Err(Error::Unsupported { what: WHAT })
}

/// There is none: nothing is ever split here.
#[derive(Debug)]
pub(crate) enum Front {}

impl Front {
    pub(crate) fn wait(self) -> Result<ExitOutcome, Error> {
        match self {}
    }
}

#[derive(Debug)]
pub(crate) enum Back {}

impl Back {
    pub(crate) fn job(&self) -> Group {
        match *self {}
    }

    pub(crate) fn adopt_orphans(&self) -> Result<(), Error> {
        match *self {}
    }

    pub(crate) fn command_runs(&self) -> Result<(), Error> {
        match *self {}
    }

    pub(crate) fn release(&mut self, _outcome: ExitOutcome) -> Result<(), Error> {
        match *self {}
    }

    pub(crate) fn watch(&self) -> Result<Watch, Error> {
        match *self {}
    }
}

#[derive(Debug)]
pub(crate) enum Watch {}

impl Watch {
    pub(crate) fn wait(self) {
        match self {}
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {}

#[derive(Debug)]
pub(crate) enum Tree {}

impl Tree {
    pub(crate) fn of(_child: &Child, back: &Back) -> Result<Tree, Error> {
        match *back {}
    }

    pub(crate) fn wait(&mut self) -> Result<ExitOutcome, Error> {
        match *self {}
    }

    pub(crate) fn wait_for_rest(&mut self) {
        match *self {}
    }

    pub(crate) fn is_over(&mut self) -> bool {
        match *self {}
    }
}

/// There is none: nothing is ever spawned here.
#[derive(Debug)]
pub(crate) enum Signaller {}

impl Signaller {
    pub(crate) fn of(_child: &Child) -> Result<Signaller, Error> {
        Err(Error::Unsupported { what: WHAT })
    }

    pub(crate) fn send(&self, _signal: i32) -> Result<bool, Error> {
        match *self {}
    }
}
