//! Why a far side could not be connected to.

use std::time::Duration;

use devbox_provider::ConnectError;

/// Why a far side could not be connected to.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Enum)]
pub enum ConnectFailure {
    /// Nobody answered there.
    Unreachable {
        /// The far side.
        far_side: String,
        /// What the system says.
        reason: String,
    },
    /// Nobody answered in time.
    TimedOut {
        /// The far side.
        far_side: String,
        /// How long was waited.
        after: Duration,
        /// For what, where that is known: `TCP connection to 10.1.2.3:443`.
        waits_for: Option<String>,
    },
    /// It answered that it cannot serve at the moment.
    Unavailable {
        /// The far side.
        far_side: String,
        /// What it said.
        message: String,
    },
    /// The credential is not accepted.
    CredentialRefused {
        /// The far side.
        far_side: String,
        /// The file that the credential was read from, if it was.
        file: Option<String>,
        /// What the far side said.
        message: String,
    },
    /// Its certificate is not accepted.
    Certificate {
        /// The far side.
        far_side: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The environment is not served there.
    UnknownEnvironment {
        /// The far side.
        far_side: String,
        /// What it said.
        message: String,
    },
    /// What answers there is something else, or speaks another version.
    NotAGateway {
        /// The far side.
        far_side: String,
        /// What was seen.
        reason: String,
    },
    /// A newer connection of the same session is up.
    Superseded {
        /// The far side.
        far_side: String,
        /// What it said; may be empty.
        message: String,
    },
    /// Something on this side (a file, a setting) keeps it from connecting.
    Setup {
        /// What, and why.
        reason: String,
    },
    /// Something that these bindings have no case for.
    Other,
}

impl From<ConnectError> for ConnectFailure {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Unreachable { far_side, reason } => Self::Unreachable { far_side, reason },
            ConnectError::TimedOut {
                far_side,
                after,
                waited_for,
            } => Self::TimedOut {
                far_side,
                after,
                waits_for: waited_for,
            },
            ConnectError::Unavailable { far_side, message } => Self::Unavailable { far_side, message },
            ConnectError::CredentialRefused {
                far_side,
                file,
                message,
            } => Self::CredentialRefused {
                far_side,
                file: file.map(|file| file.display().to_string()),
                message,
            },
            ConnectError::Certificate { far_side, message } => Self::Certificate {
                far_side,
                reason: message,
            },
            ConnectError::UnknownEnvironment { far_side, message } => {
                Self::UnknownEnvironment { far_side, message }
            }
            ConnectError::NotAGateway { far_side, message } => Self::NotAGateway {
                far_side,
                reason: message,
            },
            ConnectError::Superseded { far_side, message } => Self::Superseded { far_side, message },
            ConnectError::Setup { message } => Self::Setup { reason: message },
            _ => Self::Other,
        }
    }
}
