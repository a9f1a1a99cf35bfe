//! What the helper could not do.

use std::time::Duration;

use devbox_helper_client::{Error, HelperError};

use super::shown;

/// What went wrong with the helper, or with what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Enum)]
pub enum HelperFailure {
    /// The program could not be run.
    Start {
        /// The program.
        program: String,
    },
    /// No helper listens there.
    NotInstalled {
        /// Its socket.
        socket: String,
    },
    /// It ended before it was ready.
    NoWelcome {
        /// What it wrote to its standard error.
        said: String,
    },
    /// It has ended.
    Ended,
    /// It did not answer in time.
    TimedOut {
        /// The time limit.
        after: Duration,
    },
    /// It speaks another version of the protocol.
    Version {
        /// What this library speaks.
        ours: u32,
        /// What the helper speaks.
        helper: u32,
    },
    /// Its rules forbid it.
    NotAllowed {
        /// What was asked for.
        what: String,
        /// The rule.
        rule: String,
    },
    /// It lacks the permission.
    PermissionDenied {
        /// The hosts file.
        file: String,
    },
    /// Another program holds the file's lock.
    Locked {
        /// The hosts file.
        file: String,
        /// How long it was tried.
        waited: Duration,
    },
    /// The file or its file system is read-only.
    ReadOnly {
        /// The hosts file.
        file: String,
    },
    /// The marker lines of a block are damaged.
    DamagedBlock {
        /// The hosts file.
        file: String,
        /// The line, counted from 1.
        line: u64,
    },
    /// There is a block with the session's tag that is another process's, or the user's.
    TagTaken {
        /// The hosts file.
        file: String,
        /// The tag.
        tag: String,
        /// The process, if the block names one.
        pid: Option<u32>,
    },
    /// These lines were a session's. Somebody has edited them since, so they stay.
    LinesLeft {
        /// The hosts file.
        file: String,
        /// The lines, counted from 1.
        lines: Vec<u64>,
    },
    /// There is no such file.
    NotFound {
        /// The hosts file.
        file: String,
    },
    /// The file could not be read or written for another reason.
    Hosts {
        /// The hosts file.
        file: String,
    },
    /// It could not listen for the session.
    Listen {
        /// Where.
        endpoint: String,
    },
    /// Another session has it.
    Held {
        /// What was asked for.
        what: String,
        /// The user who has it.
        uid: u32,
        /// The process that has it.
        pid: u32,
    },
    /// It allows no more of them.
    Limit {
        /// Of what there are too many.
        what: String,
        /// How many there may be.
        most: u64,
    },
    /// A change of the network failed.
    Network,
    /// This system, or this version of the helper, cannot do it.
    Unsupported {
        /// What is missing.
        what: String,
    },
    /// Something that these bindings have no case for.
    Other,
}

impl From<Error> for HelperFailure {
    fn from(error: Error) -> Self {
        match error {
            Error::Start { program, .. } => Self::Start {
                program: shown(&program),
            },
            Error::Connect { socket, .. } => Self::NotInstalled {
                socket: shown(&socket),
            },
            Error::NoWelcome { message, .. } => Self::NoWelcome { said: message },
            Error::Ended { .. } => Self::Ended,
            Error::TimedOut { after } => Self::TimedOut { after },
            Error::Version { ours, helper } => Self::Version { ours, helper },
            Error::Helper(error) => error.into(),
            _ => Self::Other,
        }
    }
}

impl From<HelperError> for HelperFailure {
    fn from(error: HelperError) -> Self {
        match error {
            HelperError::VersionMismatch { client, server, .. } => Self::Version {
                ours: client,
                helper: server,
            },
            HelperError::NotAllowed { what, why } => Self::NotAllowed { what, rule: why },
            HelperError::TagTaken { file, tag, pid } => Self::TagTaken {
                file: shown(&file),
                tag,
                pid,
            },
            HelperError::PermissionDenied { file, .. } => Self::PermissionDenied { file: shown(&file) },
            HelperError::Locked { file, waited } => Self::Locked {
                file: shown(&file),
                waited,
            },
            HelperError::ReadOnly { file, .. } => Self::ReadOnly { file: shown(&file) },
            HelperError::Damaged { file, line, .. } => Self::DamagedBlock {
                file: shown(&file),
                line: line as u64,
            },
            HelperError::LinesLeft { file, lines } => Self::LinesLeft {
                file: shown(&file),
                lines: lines.into_iter().map(|line| line as u64).collect(),
            },
            HelperError::NotFound { file } => Self::NotFound { file: shown(&file) },
            HelperError::Hosts { file, .. } => Self::Hosts { file: shown(&file) },
            HelperError::Bind { endpoint, .. } => Self::Listen {
                endpoint: endpoint.to_string(),
            },
            HelperError::Held { what, holder } => Self::Held {
                what,
                uid: holder.uid,
                pid: holder.pid,
            },
            HelperError::Limit { what, most } => Self::Limit {
                what,
                most: most as u64,
            },
            HelperError::Network { .. } => Self::Network,
            HelperError::Unsupported { what } => Self::Unsupported { what },
            _ => Self::Other,
        }
    }
}
