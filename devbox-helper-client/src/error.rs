//! What can go wrong on the asking side.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use crate::codec::FrameError;
use crate::message::HelperError;

/// Why a request has no answer, or a helper could not be started.
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
    /// The helper ended before its welcome.
    #[error("the helper did not start{}{}", .status.map_or_else(String::new, |s| format!(" ({s})")), after_colon(.message))]
    NoWelcome {
        /// How it ended, when that is known.
        status: Option<ExitStatus>,
        /// What it wrote to its standard error, unless that is ours.
        message: String,
    },
    /// The helper has gone. What it did is undone, or will be by the next sweep.
    #[error("the helper has ended{}", .status.map_or_else(String::new, |s| format!(" ({s})")))]
    Ended {
        /// How, when that is known.
        status: Option<ExitStatus>,
    },
    /// No reply came in time. Whether the request was carried out, or still will be, is unknown. The client remains usable:
    /// a late reply is recognized by its id and dropped.
    #[error("the helper did not answer within {after:?}")]
    TimedOut {
        /// How long was waited.
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
    /// The helper said no.
    #[error(transparent)]
    Helper(#[from] HelperError),
    /// The helper answered something else than was asked.
    #[error("the helper's answer is not one to the request: {reply}")]
    Unexpected {
        /// What it answered, for a person.
        reply: String,
    },
    /// What arrived is no message, or the request is too long.
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
