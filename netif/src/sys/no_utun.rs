//! utun interfaces, which only macOS has.

use std::io;

use crate::backend::TunHandle;

#[derive(Debug)]
pub(crate) enum Utun {}

pub(super) fn create() -> io::Result<Utun> {
    Err(io::ErrorKind::Unsupported.into())
}

impl Utun {
    pub(super) fn name(&self) -> &str {
        match *self {}
    }

    pub(super) fn handle(&self) -> io::Result<TunHandle> {
        match *self {}
    }
}
