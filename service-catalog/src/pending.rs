use std::collections::{BTreeMap, BTreeSet};

use crate::{Catalog, Health, Service, ServiceId, Update};

/// Updates that somebody has not been told yet, merged into one difference.
///
/// A reader that is slow costs no queue: however many updates arrive meanwhile, what is pending is one snapshot or one
/// change, and one health. The law: told what [`poll_update`](Self::poll_update) gives, whenever it is asked, a reader
/// ends with the same catalog and health as one who was told every update.
///
/// ```
/// use service_catalog::{PendingUpdates, Service, Update};
///
/// let mut pending = PendingUpdates::default();
/// let orders = Service::new("orders.backend".parse()?, vec![])?;
/// pending.handle_update(Update::Changed { upserted: vec![orders.clone()], removed: vec![] });
/// pending.handle_update(Update::Changed { upserted: vec![], removed: vec![orders.id.clone()] });
/// let expected = Update::Changed { upserted: vec![], removed: vec![orders.id] };
/// assert_eq!(pending.poll_update(), Some(expected));
/// assert_eq!(pending.poll_update(), None);
/// # Ok::<(), service_catalog::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct PendingUpdates {
    snapshot: Option<Catalog>,
    upserted: BTreeMap<ServiceId, Service>,
    removed: BTreeSet<ServiceId>,
    health: Option<Health>,
    told_health: Health,
}

impl PendingUpdates {
    /// Takes the next update.
    pub fn handle_update(&mut self, update: Update) {
        match update {
            Update::Snapshot(catalog) => {
                self.snapshot = Some(catalog);
                self.upserted.clear();
                self.removed.clear();
            }
            Update::Health(health) => self.health = Some(health),
            Update::Changed { upserted, removed } => match &mut self.snapshot {
                Some(snapshot) => snapshot.apply(&Update::Changed { upserted, removed }),
                None => {
                    for id in removed {
                        self.upserted.remove(&id);
                        self.removed.insert(id);
                    }
                    for service in upserted {
                        self.removed.remove(&service.id);
                        self.upserted.insert(service.id.clone(), service);
                    }
                }
            },
        }
    }

    /// What is to be told next; the catalog before its health.
    pub fn poll_update(&mut self) -> Option<Update> {
        if let Some(snapshot) = self.snapshot.take() {
            return Some(Update::Snapshot(snapshot));
        }
        if !self.upserted.is_empty() || !self.removed.is_empty() {
            return Some(Update::Changed {
                upserted: std::mem::take(&mut self.upserted).into_values().collect(),
                removed: std::mem::take(&mut self.removed).into_iter().collect(),
            });
        }
        let health = self.health.take().filter(|health| *health != self.told_health)?;
        self.told_health = health.clone();
        Some(Update::Health(health))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One of a few services, in one of a few shapes.
    fn service() -> impl Strategy<Value = Service> {
        (0..5_u8, 1..4_u16).prop_map(|(name, port)| {
            let port = crate::Port::tcp(port.try_into().unwrap());
            Service::new(format!("s{name}.x").parse().unwrap(), vec![port]).unwrap()
        })
    }

    fn update() -> impl Strategy<Value = Update> {
        let changed = (
            prop::collection::vec(service(), 0..3),
            prop::collection::vec(service(), 0..3),
        )
            .prop_map(|(upserted, removed)| {
                let upserted: BTreeMap<_, _> = upserted.into_iter().map(|s| (s.id.clone(), s)).collect();
                let removed: BTreeSet<_> = removed
                    .into_iter()
                    .map(|s| s.id)
                    .filter(|id| !upserted.contains_key(id))
                    .collect();
                Update::Changed {
                    upserted: upserted.into_values().collect(),
                    removed: removed.into_iter().collect(),
                }
            });
        let snapshot = prop::collection::vec(service(), 0..4).prop_map(|services| {
            let mut catalog = Catalog::empty("dev".parse().unwrap());
            for service in services {
                catalog.services.insert(service.id.clone(), service);
            }
            Update::Snapshot(catalog)
        });
        prop_oneof![
            4 => changed,
            1 => snapshot,
            1 => Just(Update::Health(Health::Live)),
            1 => Just(Update::Health(Health::stale("why"))),
        ]
    }

    fn tell(known: &mut Catalog, health: &mut Health, update: &Update) {
        known.apply(update);
        if let Update::Health(newer) = update {
            *health = newer.clone();
        }
    }

    proptest! {
        #[test]
        fn who_is_told_late_knows_the_same(updates in prop::collection::vec((update(), any::<bool>()), 0..30)) {
            let start = Catalog::empty("dev".parse().unwrap());
            let (mut at_once, mut late) = (start.clone(), start);
            let (mut health_at_once, mut health_late) = (Health::Live, Health::Live);
            let mut pending = PendingUpdates::default();
            for (update, ask) in updates {
                tell(&mut at_once, &mut health_at_once, &update);
                pending.handle_update(update);
                if ask && let Some(update) = pending.poll_update() {
                    tell(&mut late, &mut health_late, &update);
                }
            }
            // Whatever has piled up is at most a catalog's change and a health.
            for _ in 0..2 {
                if let Some(update) = pending.poll_update() {
                    tell(&mut late, &mut health_late, &update);
                }
            }
            prop_assert_eq!(pending.poll_update(), None);
            prop_assert_eq!(at_once, late);
            prop_assert_eq!(health_at_once, health_late);
        }
    }
}
