//! What everything in a session is keyed by.

use std::fmt;

use serde::{Deserialize, Serialize};
use service_catalog::{Label, ServiceId};

/// One of a session's providers: its place in the configured order. Where two provide the same name, the lower one
/// has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProviderId(pub usize);

/// A service as a session knows it: by which provider, in which environment, under which name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServiceKey {
    /// The provider.
    pub provider: ProviderId,
    /// The environment that the provider serves it from.
    pub environment: Label,
    /// Its id in that environment.
    pub service: ServiceId,
}

impl ServiceKey {
    /// The service that this is a member of, if it is one.
    pub(crate) fn whole(&self) -> Option<Self> {
        self.service.member.as_ref()?;
        let mut whole = self.clone();
        whole.service.member = None;
        Some(whole)
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.service.fmt(f)
    }
}
