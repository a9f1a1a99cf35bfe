//! The session as others see it.

use std::num::NonZeroU16;

use service_catalog::ServiceId;

use super::{Entry, Link, PortEntry, SessionState};
use crate::report::{LinkState, PortReport, ServiceReport, StatusReport};

impl SessionState {
    /// The session as it stands.
    pub fn report(&self) -> StatusReport {
        StatusReport {
            identity: self.settings.identity.clone(),
            environment: self.environment.as_ref().map(ToString::to_string),
            link: match &self.link {
                Link::Connecting { attempt, .. } => LinkState::Connecting { attempt: *attempt },
                Link::Waiting { attempt, reason, .. } => LinkState::Waiting {
                    attempt: *attempt,
                    reason: reason.clone(),
                },
                Link::Up { .. } => LinkState::Up,
            },
            // One that is about to end is not to be joined.
            ready: self.ready && self.stop.is_none(),
            stale: self.stale.clone(),
            services: self
                .entries
                .iter()
                .map(|(id, entry)| self.report_service(id, entry))
                .collect(),
            taken: self
                .hosts
                .taken
                .iter()
                .map(|(name, line)| (name.clone(), *line))
                .collect(),
        }
    }

    pub(super) fn names_of(&self, id: &ServiceId) -> Vec<String> {
        self.environment
            .as_ref()
            .map_or_else(Vec::new, |environment| self.settings.names.names(id, environment))
    }

    pub(super) fn report_service(&self, id: &ServiceId, entry: &Entry) -> ServiceReport {
        let names = if entry.has_listener() {
            self.names_of(id)
        } else {
            Vec::new()
        };
        ServiceReport {
            service: id.clone(),
            address: entry.address,
            names: names
                .into_iter()
                .filter(|name| !self.hosts.taken.contains_key(name))
                .collect(),
            ports: entry
                .ports
                .iter()
                .map(|((number, _), port)| port.report(*number))
                .collect(),
        }
    }
}

impl PortEntry {
    fn report(&self, port: NonZeroU16) -> PortReport {
        PortReport {
            port: port.get(),
            name: self.name.as_ref().map(ToString::to_string),
            target: self.target.clone(),
            state: self.state.clone(),
            connections: self.counts.connections,
            active: self.counts.active,
            sent_bytes: self.counts.sent_bytes,
            received_bytes: self.counts.received_bytes,
            last_failure: self.counts.last_failure.as_ref().map(ToString::to_string),
        }
    }
}
