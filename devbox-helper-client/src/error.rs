//! What can go wrong on the asking side.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use crate::codec::FrameError;
use crate::message::HelperError;

/// Why a request failed, or a helper could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The program could not be run.
    #[error("cannot start the helper {program}")]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No helper listens there.
    #[error("cannot reach a helper at {}", .socket.display())]
    Connect {
        /// Its socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The helper exited before its welcome.
    #[error("the helper did not start{}{}", .status.map_or_else(String::new, |s| format!(" ({s})")), after_colon(.message))]
    NoWelcome {
        /// Its exit status, if known.
        status: Option<ExitStatus>,
        /// What it wrote to its standard error; empty if that is shared with this process.
        message: String,
    },
    /// The helper is gone. What it did is undone, or will be by the next sweep.
    #[error("the helper has ended{}", .status.map_or_else(String::new, |s| format!(" ({s})")))]
    Ended {
        /// Its exit status, if known.
        status: Option<ExitStatus>,
    },
    /// No reply came in time. Whether the request was carried out, or still will be, is unknown. The client remains usable:
    /// a late reply is recognized by its id and dropped.
    #[error("the helper did not answer within {after:?}")]
    TimedOut {
        /// The time limit.
        after: Duration,
    },
    /// The helper speaks another version.
    #[error("the helper speaks version {helper} of the protocol, not {ours}")]
    Version {
        /// See [`crate::VERSION`].
        ours: u32,
        /// What the helper said.
        helper: u32,
    },
    /// The helper refused or failed.
    #[error(transparent)]
    Helper(#[from] HelperError),
    /// The reply does not fit the request.
    #[error("the helper's reply does not fit the request: {reply}")]
    Unexpected {
        /// The reply, for a person.
        reply: String,
    },
    /// What arrived is not a message, or the request is too long.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The channel failed.
    #[error("the channel to the helper failed")]
    Channel(#[from] io::Error),
}

fn after_colon(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(": {message}")
    }
}
