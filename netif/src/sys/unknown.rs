//! Systems that netif does not know how to change.

use crate::backend::{Applied, Backend, Capabilities, ChangeError, Found, TunHandle, Undone};
use crate::{Change, Error, InterfaceName, Observed, Owner};

#[derive(Debug)]
pub(crate) enum Machine {}

impl Machine {
    pub(crate) fn open(_: Owner) -> Result<Self, Error> {
        Err(Error::Unsupported {
            what: "changes of the network",
        })
    }
}

impl Backend for Machine {
    fn capabilities(&mut self) -> Capabilities {
        match *self {}
    }

    fn observe(&mut self) -> Result<Observed, Error> {
        match *self {}
    }

    fn find(&mut self, _: &[Change]) -> Vec<Result<Found, ChangeError>> {
        match *self {}
    }

    fn apply(&mut self, _: &[Change]) -> Vec<Result<Applied, ChangeError>> {
        match *self {}
    }

    fn undo(&mut self, _: &[Change]) -> Vec<Result<Undone, ChangeError>> {
        match *self {}
    }

    fn open_tun(&mut self, _: &InterfaceName) -> Result<TunHandle, ChangeError> {
        match *self {}
    }
}
