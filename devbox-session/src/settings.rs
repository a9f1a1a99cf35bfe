//! What a session is told before it starts, and why it ends.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use devbox_provider::ConnectError;
use service_catalog::Label;

use crate::names_policy::NamesPolicy;
use crate::report::Identity;
use crate::service_options::ListenerPolicy;
use crate::sink::{PublishError, Records};

/// What a session is told before it starts.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Who it is.
    pub identity: Identity,
    /// Its providers; where two give the same name, the earlier one has it.
    pub providers: Vec<ProviderSettings>,
    /// How names are made.
    pub names: NamesPolicy,
    /// How often the first connect to a provider is tried before the session goes on without it, or gives up where
    /// it has no other. Once connected, it never gives up.
    pub first_tries: u32,
    /// The shortest and the longest pause between two tries; doubled from one to the next, with jitter.
    pub backoff: (Duration, Duration),
    /// How long connections may go on after their listener closed.
    pub drain: Duration,
    /// How long one change of this machine may take before it counts as failed.
    pub effect_timeout: Duration,
    /// The seed of the jitter.
    pub seed: u64,
    /// How many connections to its services may be open at once; more are reset at once, told once and counted.
    pub max_connections: usize,
    /// Who may connect to its listeners, and what single services' connections are held to. Default: everybody, to nothing.
    pub listening: ListenerPolicy,
}

/// The usual limit of [`Settings::max_connections`].
pub const MAX_CONNECTIONS: usize = 16 * 1024;

impl Settings {
    /// The usual limits: 4 first tries, pauses of 100 ms to 5 s, 3 s for connections to end, 10 s for a change of the
    /// machine, [`MAX_CONNECTIONS`].
    pub fn new(identity: Identity, providers: Vec<ProviderSettings>, seed: u64) -> Self {
        Self {
            identity,
            providers,
            names: NamesPolicy::default(),
            first_tries: 4,
            backoff: (Duration::from_millis(100), Duration::from_secs(5)),
            drain: Duration::from_secs(3),
            effect_timeout: Duration::from_secs(10),
            seed,
            max_connections: MAX_CONNECTIONS,
            listening: ListenerPolicy::default(),
        }
    }
}

/// One of a session's providers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderSettings {
    /// Its name in the configuration, for messages.
    pub name: String,
    /// The environment to ask for; `None` takes the one that it serves at the first connect, and keeps to it.
    pub environment: Option<Label>,
}

/// Why a session ends.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// Asked for: a signal, or `down`.
    Requested {
        /// By what.
        by: String,
    },
    /// A newer session of the same user took over.
    Displaced {
        /// By whom.
        by: String,
    },
    /// Another connection of this very session is in charge at the far side.
    Superseded {
        /// The provider.
        provider: String,
        /// What the far side said.
        message: String,
    },
    /// No provider can be used, and another try does not mend that.
    Refused(ConnectError),
    /// No provider was reached.
    Unreachable {
        /// The last failure of the first provider.
        last: ConnectError,
        /// How often it was tried.
        tries: u32,
        /// For how long.
        waited: Duration,
    },
    /// The names could not be published at the start.
    Names {
        /// Where they were to go.
        sink: String,
        /// Why.
        error: PublishError,
        /// What would have been published.
        records: Records,
    },
    /// The helper, which alone can undo, is gone.
    HelperLost {
        /// The file in which its block still stands, if one does.
        hosts_file: Option<PathBuf>,
    },
    /// Asked for, but something could not be undone.
    NotUndone {
        /// What is left, and why.
        error: PublishError,
    },
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requested { by } => f.write_str(by),
            Self::Displaced { by } => write!(f, "displaced by {by}"),
            Self::Superseded { provider, .. } => {
                write!(f, "another connection of this session took over at {provider}")
            }
            Self::Refused(failure) => failure.fmt(f),
            Self::Unreachable { last, .. } => last.fmt(f),
            Self::Names { error, .. } => error.fmt(f),
            Self::HelperLost { .. } => f.write_str("the helper process is gone"),
            Self::NotUndone { error } => error.fmt(f),
        }
    }
}
