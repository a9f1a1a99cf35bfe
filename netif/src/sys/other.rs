use std::time::Instant;

use super::Woken;
use crate::Error;
use crate::watch::Change;

const UNSUPPORTED: Error = Error::Unsupported {
    what: "news of the network",
};

#[derive(Debug)]
pub(crate) struct Source {}

impl Source {
    pub(crate) fn open() -> Result<Self, Error> {
        Err(UNSUPPORTED)
    }

    pub(crate) fn wait(&mut self, _until: Option<Instant>, _change: &mut Change) -> Result<Woken, Error> {
        Err(UNSUPPORTED)
    }

    pub(crate) fn interrupter(&self) -> Interrupter {
        Interrupter {}
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Interrupter {}

impl Interrupter {
    pub(crate) fn interrupt(&self) {}
}
