use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

/// Why a far side cannot be used. The text goes to the user; decisions are made on the variant.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Nobody answered there.
    #[error("{far_side} is not reachable: {reason}")]
    Unreachable {
        /// The far side.
        far_side: String,
        /// What the system says.
        reason: String,
    },
    /// Nobody answered in time.
    #[error("{far_side} did not answer within {} s{}", after.as_secs_f32(), waited_for.as_ref().map_or_else(String::new, |what| format!(" ({what})")))]
    TimedOut {
        /// The far side.
        far_side: String,
        /// How long was waited.
        after: Duration,
        /// For what, where that is known: `TCP connection to 10.1.2.3:443`.
        waited_for: Option<String>,
    },
    /// It answered that it cannot serve at the moment.
    #[error("{far_side} is not available: {message}")]
    Unavailable {
        /// The far side.
        far_side: String,
        /// What it said.
        message: String,
    },
    /// The credential is not accepted.
    #[error("{far_side} refused the token{}: {message}", .file.as_ref().map_or_else(String::new, |file| format!(" in {}", file.display())))]
    CredentialRefused {
        /// The far side.
        far_side: String,
        /// The file that the credential was read from, if it was.
        file: Option<PathBuf>,
        /// What the far side said.
        message: String,
    },
    /// The far side's certificate is not accepted.
    #[error("{far_side}: its certificate is not accepted: {message}")]
    Certificate {
        /// The far side.
        far_side: String,
        /// What is wrong with it.
        message: String,
    },
    /// The environment is not served there.
    #[error("{far_side}: {message}")]
    UnknownEnvironment {
        /// The far side.
        far_side: String,
        /// What it said.
        message: String,
    },
    /// What answers there is something else, or a version that this one cannot talk to.
    #[error("{far_side} is not a devbox gateway: {message}")]
    NotAGateway {
        /// The far side.
        far_side: String,
        /// What was seen.
        message: String,
    },
    /// A newer connection of the same session is up: this one must make way.
    #[error("{far_side}: a newer connection of this session is up{}", colon(.message))]
    Superseded {
        /// The far side.
        far_side: String,
        /// What it said; may be empty.
        message: String,
    },
    /// Something on this side (a file, a setting) keeps it from connecting.
    #[error("{message}")]
    Setup {
        /// What, and why.
        message: String,
    },
}

/// What a session does about a [`ConnectError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Another try may help.
    Retry,
    /// Another try cannot help until the user changes something. A session that was connected before keeps trying:
    /// what was accepted once may be accepted again (a token that is being rotated).
    Final,
    /// Another connection of this session is in charge: never connect again.
    Superseded,
}

impl ConnectError {
    /// What to do about it.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Unavailable { .. } => Verdict::Retry,
            Self::Superseded { .. } => Verdict::Superseded,
            Self::CredentialRefused { .. }
            | Self::Certificate { .. }
            | Self::UnknownEnvironment { .. }
            | Self::NotAGateway { .. }
            | Self::Setup { .. } => Verdict::Final,
        }
    }
}

fn colon(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(": {message}")
    }
}

/// An error and its causes in one line.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}
