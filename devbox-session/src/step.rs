//! What a session is told, what it asks for, and why it ends.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use devbox_helper_client::{HelperError, HostsEntry};
use service_catalog::{Label, ServiceId};
use tunnel_bridge::Target;

#[cfg(doc)]
use crate::SessionState;
use crate::names::NamesPolicy;
use crate::provider::ConnectFailure;
use crate::report::Identity;

/// What a session is told before it starts.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Who it is.
    pub identity: Identity,
    /// The environment to ask for; `None` takes the one that the gateway serves.
    pub environment: Option<Label>,
    /// How names are made.
    pub names: NamesPolicy,
    /// Whether a hosts block is kept.
    pub write_hosts: bool,
    /// Tries of the first connect before the session gives up. Once connected, it never does.
    pub first_tries: u32,
    /// The shortest and the longest pause between two tries; doubled from one to the next, with jitter.
    pub backoff: (Duration, Duration),
    /// How long connections may go on after their listener closed.
    pub drain: Duration,
    /// The seed of the jitter.
    pub seed: u64,
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
    /// The gateway refused for a reason that another try does not mend.
    Refused(ConnectFailure),
    /// The gateway was not reached.
    Unreachable {
        /// The last failure.
        last: ConnectFailure,
        /// How often it was tried.
        tries: u32,
        /// For how long.
        waited: Duration,
    },
    /// The hosts file could not be edited at the start.
    Hosts {
        /// Why.
        error: HelperError,
        /// What would have been written.
        entries: Vec<HostsEntry>,
    },
    /// The helper, which alone can undo, is gone.
    HelperLost {
        /// The file in which its block still stands, if one does.
        hosts_file: Option<PathBuf>,
    },
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requested { by } => f.write_str(by),
            Self::Displaced { by } => write!(f, "displaced by {by}"),
            Self::Refused(failure) => failure.fmt(f),
            Self::Unreachable { last, .. } => last.fmt(f),
            Self::Hosts { error, .. } => error.fmt(f),
            Self::HelperLost { .. } => f.write_str("the helper process is gone"),
        }
    }
}

/// Something to do; its outcome comes back by the `handle_*` named here.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Become the one session of this user for the environment, once: [`SessionState::handle_claimed`].
    Claim {
        /// The environment, as the first catalog tells.
        environment: Label,
    },
    /// Connect to the far side: [`SessionState::handle_connected`], [`SessionState::handle_connect_failed`].
    Connect,
    /// Listen for ports of a service: [`SessionState::handle_opened`].
    Open {
        /// The service.
        service: ServiceId,
        /// Its address.
        address: IpAddr,
        /// Its ports and what each asks of the far side.
        ports: Vec<(NonZeroU16, Target)>,
        /// Whether one port in use means that none is opened, since another address will be tried.
        all_or_none: bool,
    },
    /// Write the hosts block; empty means that it goes: [`SessionState::handle_hosts_written`].
    WriteHosts {
        /// The whole block.
        entries: Vec<HostsEntry>,
    },
    /// Stop listening, let connections end within the time given: [`SessionState::handle_closed`].
    Close {
        /// The listeners.
        listeners: Vec<SocketAddr>,
        /// For how long connections may go on.
        drain: Duration,
    },
    /// Let the helper undo what is left and go: [`SessionState::handle_released`].
    Release,
}
