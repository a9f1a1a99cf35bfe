//! What a session asks for. Each step's outcome comes back by the `handle_*` named with it.

use std::net::IpAddr;
use std::time::Duration;

use devbox_helper_client::Endpoint;
use service_catalog::Label;
use tunnel_bridge::Target;

#[cfg(doc)]
use crate::SessionState;
use crate::key::{ProviderId, ServiceKey};
use crate::sink::Records;

/// Something to do. Steps run beside each other and beside whatever else happens; the state machine asks for a step
/// only when nothing that it depends on is still under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Connect to a provider: [`SessionState::handle_connected`], [`SessionState::handle_connect_failed`].
    Connect {
        /// Which one.
        provider: ProviderId,
        /// The environment to ask for.
        environment: Option<Label>,
    },
    /// Find out at once whether a provider's link still carries anything. No outcome, unless it is lost.
    Check {
        /// Which one.
        provider: ProviderId,
    },
    /// Let go of a provider's link; streams that are open on it fail. No outcome.
    Disconnect {
        /// Which one.
        provider: ProviderId,
    },
    /// From here on new connections of the provider's services in this environment may be dialed over its link.
    /// No outcome.
    Admit {
        /// Which one.
        provider: ProviderId,
        /// The environment.
        environment: Label,
    },
    /// Become the one session of this user for the environment: [`SessionState::handle_claimed`].
    Claim {
        /// The environment, as the first catalog tells.
        environment: Label,
    },
    /// Give an environment up. No outcome.
    Unclaim {
        /// The environment.
        environment: Label,
    },
    /// Listen for ports of a service on one address: [`SessionState::handle_bound`].
    Bind {
        /// The service.
        service: ServiceKey,
        /// The address.
        address: IpAddr,
        /// The endpoints, and what each asks of the far side.
        endpoints: Vec<(Endpoint, Target)>,
        /// Whether one endpoint in use means that none is opened, since another address will be tried.
        all_or_none: bool,
    },
    /// An open listener serves another service from here on; its connections go on. No outcome.
    Retarget {
        /// The listener.
        endpoint: Endpoint,
        /// Whom it serves.
        service: ServiceKey,
        /// What a connection asks of the far side.
        target: Target,
    },
    /// Make exactly these names resolvable; empty means none: [`SessionState::handle_published`].
    Publish {
        /// Where, as a place in the session's list of sinks.
        sink: usize,
        /// The whole set.
        records: Records,
    },
    /// Stop listening, and let connections end within the time given: [`SessionState::handle_closed`].
    Close {
        /// The listeners.
        endpoints: Vec<Endpoint>,
        /// For how long connections may go on.
        drain: Duration,
    },
    /// Undo what is left and let go of the machine: [`SessionState::handle_released`].
    Release,
}
