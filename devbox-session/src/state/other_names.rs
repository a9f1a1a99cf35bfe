//! Which services are other names for which.

use std::collections::{BTreeMap, BTreeSet};

use crate::key::ServiceKey;

/// Services by the one that they are other names for, whether that one is there or not.
#[derive(Debug, Default)]
pub(super) struct OtherNames(BTreeMap<ServiceKey, BTreeSet<ServiceKey>>);

impl OtherNames {
    /// A service that was another name for `former` is one for `target`.
    pub(super) fn set(
        &mut self,
        service: &ServiceKey,
        former: Option<ServiceKey>,
        target: Option<ServiceKey>,
    ) {
        if former == target {
            return;
        }
        if let Some(former) = former
            && let Some(names) = self.0.get_mut(&former)
        {
            names.remove(service);
            if names.is_empty() {
                self.0.remove(&former);
            }
        }
        if let Some(target) = target {
            self.0.entry(target).or_default().insert(service.clone());
        }
    }

    /// The other names for a service.
    pub(super) fn of(&self, service: &ServiceKey) -> impl Iterator<Item = &ServiceKey> {
        self.0.get(service).into_iter().flatten()
    }
}
