//! Why a session ended.

use std::time::Duration;

use devbox_engine as engine;

use super::{ConnectFailure, HelperFailure, shown};

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, uniffi::Enum)]
pub enum StopReason {
    /// It was asked to.
    #[error("{by}")]
    Requested {
        /// By whom.
        by: String,
    },
    /// A newer session of the same user took over.
    #[error("displaced by {by}")]
    Displaced {
        /// By whom.
        by: String,
    },
    /// Another connection of this very session is in charge at the far side.
    #[error("another connection of this session took over at {provider}")]
    Superseded {
        /// The provider.
        provider: String,
        /// What the far side said; may be empty.
        message: String,
    },
    /// No provider can be used, and another try does not mend that.
    #[error("{text}")]
    Refused {
        /// What went wrong.
        failure: ConnectFailure,
        /// The same for people.
        text: String,
    },
    /// No provider was reached.
    #[error("{text}")]
    Unreachable {
        /// What went wrong last.
        failure: ConnectFailure,
        /// The same for people.
        text: String,
        /// How often it was tried.
        tries: u32,
        /// For how long.
        waited: Duration,
    },
    /// The names could not be published at the start.
    #[error("{text}")]
    Names {
        /// Where they were to go.
        sink: String,
        /// Why they could not.
        failure: PublishFailure,
        /// The same for people.
        text: String,
    },
    /// The helper, which alone can undo, is gone.
    #[error("the helper process is gone")]
    HelperLost {
        /// The file in which its block still stands, if one does.
        hosts_file: Option<String>,
    },
    /// Asked for, but something could not be undone.
    #[error("{text}")]
    NotUndone {
        /// Why.
        failure: PublishFailure,
        /// What is left, and why, for people.
        text: String,
    },
    /// Something that these bindings have no case for.
    #[error("{text}")]
    Other {
        /// It, for people.
        text: String,
    },
}

/// Why names could not be published, or withdrawn.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Enum)]
pub enum PublishFailure {
    /// The helper refused, or could not.
    Helper {
        /// What went wrong.
        failure: HelperFailure,
    },
    /// There was no answer in time.
    TimedOut {
        /// Who did not answer.
        what: String,
        /// How long was waited.
        after: Duration,
    },
    /// Anything else; the text beside it says what.
    Other,
}

impl From<engine::StopReason> for StopReason {
    fn from(reason: engine::StopReason) -> Self {
        let text = reason.to_string();
        match reason {
            engine::StopReason::Requested { by } => Self::Requested { by },
            engine::StopReason::Displaced { by } => Self::Displaced { by },
            engine::StopReason::Superseded { provider, message } => Self::Superseded { provider, message },
            engine::StopReason::Refused(failure) => Self::Refused {
                failure: failure.into(),
                text,
            },
            engine::StopReason::Unreachable { last, tries, waited } => Self::Unreachable {
                failure: last.into(),
                text,
                tries,
                waited,
            },
            engine::StopReason::Names { sink, error, .. } => Self::Names {
                sink,
                failure: error.into(),
                text,
            },
            engine::StopReason::HelperLost { hosts_file } => Self::HelperLost {
                hosts_file: hosts_file.map(|file| shown(&file)),
            },
            engine::StopReason::NotUndone { error } => Self::NotUndone {
                failure: error.into(),
                text,
            },
            _ => Self::Other { text },
        }
    }
}

impl From<engine::PublishError> for PublishFailure {
    fn from(error: engine::PublishError) -> Self {
        match error {
            engine::PublishError::Helper(error) => Self::Helper {
                failure: error.into(),
            },
            engine::PublishError::TimedOut { what, after } => Self::TimedOut { what, after },
            _ => Self::Other,
        }
    }
}
