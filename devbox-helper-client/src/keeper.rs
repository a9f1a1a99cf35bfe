//! A process that starts helpers for a caller that has given up the rights to do so itself.

use std::process::ChildStderr;

use crate::channel::Channel;
use crate::client::{Client, StartOptions, no_welcome, unexpected};
use crate::error::Error;
use crate::message::{Reply, Request};
use crate::sys;

/// A running keeper: a program with the helper's arguments and `--keep`.
///
/// It keeps the rights that it was started with, serves nobody, and starts a helper with them when it is asked to, one at a time.
/// It ends when its helper has ended by itself, or after the helper that is there when this is dropped.
#[derive(Debug)]
pub struct Keeper {
    client: Client,
    stderr: Option<ChildStderr>,
}

impl Keeper {
    /// Starts a keeper.
    ///
    /// # Errors
    /// [`Error::Start`].
    pub fn start(options: &StartOptions) -> Result<Self, Error> {
        let (client, stderr) = Client::spawn(options, false)?;
        Ok(Self { client, stderr })
    }

    /// Has a helper started, and waits for its welcome. The one before it must have been killed: the keeper replies once it has.
    ///
    /// # Errors
    /// [`Error::NoWelcome`] when the keeper is gone, as after a helper that ended by itself. Otherwise as
    /// [`Client::start_with`].
    pub fn another(&mut self) -> Result<Client, Error> {
        let stderr = self.stderr.take();
        match self.client.ask(&Request::Another) {
            Ok((Reply::Bound, Some(passed))) => {
                let (writer, reader) = sys::passed(passed)?;
                Client::kept(Channel::new(writer, reader), self.client.reply_timeout())
            }
            Ok((reply, _)) => Err(unexpected(&reply)),
            Err(error) => Err(no_welcome(error, stderr)),
        }
    }
}
