//! What a namespace has, as the API server tells it, and what a catalog makes of it. Neither a socket nor a clock.
//!
//! Pods are not watched, not even those of headless services: an EndpointSlice has all that a name and a connection take of a pod (its name,
//! hostname, addresses and zone, whether it is ready or terminating), and the cluster keeps it up to date. So nobody needs the right to list
//! pods, whose specifications hold what is none of a client's business, and a pod that reports its state each second costs a session
//! nothing. `serving` is not looked at: it says more than `ready` of terminating pods, which get no new connections, and where a Service
//! publishes addresses that are not ready, which are to be used all the same.

mod globs;
mod offer;
mod team;
pub(crate) mod wire;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};

use service_catalog::{
    Catalog, Health, Label, PendingUpdates, Protocol, Readiness, ServiceId, Target, Update,
};

pub(crate) use globs::Globs;
pub(crate) use offer::{Answers, Offered, Place, Reach};
pub(crate) use team::{CONFIG_MAP, Team};

use crate::road::PodRef;
use crate::{Forbidden, Who};

/// What is kept of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceObject {
    pub(crate) id: ServiceId,
    pub(crate) kind: Kind,
    pub(crate) has_selector: bool,
    pub(crate) ports: Vec<ServicePort>,
    /// How long a client's connections go to the pod of its last one.
    pub(crate) affinity: Option<Duration>,
    pub(crate) aliases: Vec<Label>,
    /// Its owner does not want it here.
    pub(crate) ignored: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain,
    /// Each pod has a name of its own.
    Headless,
    /// Another name for a host outside (`ExternalName`).
    Outside(Arc<str>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServicePort {
    /// May be empty.
    pub(crate) name: Arc<str>,
    pub(crate) port: NonZeroU16,
    /// `None` for one that is not carried: SCTP.
    pub(crate) protocol: Option<Protocol>,
}

/// What is kept of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SliceObject {
    pub(crate) service: ServiceId,
    pub(crate) name: Arc<str>,
    pub(crate) ports: Vec<SlicePort>,
    pub(crate) endpoints: Vec<SliceEndpoint>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SlicePort {
    /// That of the service's port.
    pub(crate) name: Arc<str>,
    /// Where the pod listens.
    pub(crate) port: NonZeroU16,
    pub(crate) protocol: Protocol,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SliceEndpoint {
    pub(crate) address: IpAddr,
    pub(crate) ready: bool,
    pub(crate) terminating: bool,
    pub(crate) hostname: Option<Label>,
    pub(crate) pod: Option<PodRef>,
    pub(crate) zone: Option<Arc<str>>,
    pub(crate) for_zones: Vec<Arc<str>>,
}

/// What is watched as one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Scope {
    pub(crate) namespace: Label,
    pub(crate) resource: Resource,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Resource {
    Services,
    Slices,
    /// The ConfigMap of a team. Nothing depends on it.
    Team,
}

/// What keeps a scope from being watched as it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The API server does not answer, or not as it should. What was known is in force.
    Away {
        /// Why.
        because: String,
    },
    /// It is listed again and again, since it may not be watched.
    Polled {
        /// What is missing.
        forbidden: Forbidden,
        /// How often.
        every: Duration,
    },
    /// Those that were named are looked at one by one, since it may not be listed.
    Named {
        /// What is missing.
        forbidden: Forbidden,
        /// How often.
        every: Duration,
    },
    /// Nothing of it is known, since it may not be listed and nothing was named.
    Unknown {
        /// What is missing.
        forbidden: Forbidden,
    },
}

/// A new service or member that is not ready stays out of the catalog for so long at most.
const QUIET: Duration = Duration::from_secs(30);

/// The objects of some namespaces of one cluster, and the catalog that they make.
///
/// The law: in whatever order objects came and went, the same objects make the same catalog, except that one that is new and not
/// ready is told later.
#[derive(Debug)]
pub(crate) struct Objects {
    environment: Label,
    globs: Globs,
    reach: Reach,
    services: BTreeMap<ServiceId, ServiceObject>,
    slices: BTreeMap<ServiceId, BTreeMap<Arc<str>, SliceObject>>,
    teams: BTreeMap<Label, Team>,
    /// Which service a slice belonged to when it was seen last.
    owners: HashMap<(Label, Arc<str>), ServiceId>,
    /// Not heard of yet.
    awaited: BTreeSet<Scope>,
    troubles: BTreeMap<Scope, Trouble>,
    /// Services whose objects have changed.
    changed: BTreeSet<ServiceId>,
    /// What each service comes to, its members with it.
    offered: BTreeMap<ServiceId, BTreeMap<ServiceId, Known>>,
    /// New ones that are not ready, and when they are told nevertheless.
    quiet: BTreeMap<ServiceId, Instant>,
    answers: BTreeMap<Target, Option<Arc<Answers>>>,
    started: bool,
    /// What whoever serves the catalog has to say of itself.
    of_the_server: Vec<String>,
    /// What is told besides the services.
    notes: Vec<String>,
    pending: PendingUpdates,
}

#[derive(Debug)]
struct Known {
    offered: Offered,
    told: bool,
}

impl Objects {
    /// Nothing yet. There is no catalog before all of `awaited` was heard of.
    pub(crate) fn new(environment: Label, globs: Globs, reach: Reach, awaited: BTreeSet<Scope>) -> Self {
        Self {
            environment,
            globs,
            reach,
            awaited,
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            teams: BTreeMap::new(),
            owners: HashMap::new(),
            troubles: BTreeMap::new(),
            changed: BTreeSet::new(),
            offered: BTreeMap::new(),
            quiet: BTreeMap::new(),
            answers: BTreeMap::new(),
            started: false,
            of_the_server: Vec::new(),
            notes: Vec::new(),
            pending: PendingUpdates::default(),
        }
    }

    /// The way into the cluster is another one.
    pub(crate) fn handle_reach(&mut self, reach: Reach) {
        if self.reach != reach {
            self.reach = reach;
            self.changed.extend(self.services.keys().cloned());
        }
    }

    /// These are the services of a namespace, and there are no others.
    pub(crate) fn handle_services(&mut self, namespace: &Label, services: Vec<ServiceObject>) {
        let listed: BTreeSet<_> = services.iter().map(|service| service.id.clone()).collect();
        let gone = |id: &&ServiceId| id.namespace == *namespace && !listed.contains(id);
        let gone: Vec<_> = self.services.keys().filter(gone).cloned().collect();
        for id in gone {
            self.handle_service_gone(&id);
        }
        for service in services {
            self.handle_service(service);
        }
        self.heard_of(namespace, Resource::Services);
    }

    /// A service is new or has changed.
    pub(crate) fn handle_service(&mut self, service: ServiceObject) {
        if !self.globs.take(&service.id) || self.services.get(&service.id) == Some(&service) {
            return;
        }
        self.changed.insert(service.id.clone());
        self.services.insert(service.id.clone(), service);
    }

    /// A service is gone.
    pub(crate) fn handle_service_gone(&mut self, id: &ServiceId) {
        if self.services.remove(id).is_some() {
            self.changed.insert(id.clone());
        }
    }

    /// These are the slices of a namespace, and there are no others.
    pub(crate) fn handle_slices(&mut self, namespace: &Label, slices: Vec<SliceObject>) {
        let listed: BTreeSet<_> = slices.iter().map(|slice| Arc::clone(&slice.name)).collect();
        let gone = |(of, name): &&(Label, Arc<str>)| of == namespace && !listed.contains(name);
        let gone: Vec<_> = self.owners.keys().filter(gone).cloned().collect();
        for (namespace, name) in gone {
            self.handle_slice_gone(&namespace, &name);
        }
        for slice in slices {
            self.handle_slice(slice);
        }
        self.heard_of(namespace, Resource::Slices);
    }

    /// A slice is new or has changed.
    pub(crate) fn handle_slice(&mut self, slice: SliceObject) {
        let key = (slice.service.namespace.clone(), Arc::clone(&slice.name));
        if self.owners.get(&key).is_some_and(|owner| *owner != slice.service) {
            self.handle_slice_gone(&key.0, &key.1);
        }
        if !self.globs.take(&slice.service) {
            return;
        }
        let known = self.slices.entry(slice.service.clone()).or_default();
        if known.get(&slice.name) != Some(&slice) {
            self.changed.insert(slice.service.clone());
            self.owners.insert(key, slice.service.clone());
            known.insert(Arc::clone(&slice.name), slice);
        }
    }

    /// A slice is gone.
    pub(crate) fn handle_slice_gone(&mut self, namespace: &Label, name: &Arc<str>) {
        let Some(owner) = self.owners.remove(&(namespace.clone(), Arc::clone(name))) else {
            return;
        };
        if let Some(slices) = self.slices.get_mut(&owner) {
            slices.remove(name);
            if slices.is_empty() {
                self.slices.remove(&owner);
            }
        }
        self.changed.insert(owner);
    }

    /// This is what a namespace's team wants for its services.
    pub(crate) fn handle_team(&mut self, namespace: &Label, team: Option<Team>) {
        let before = self.teams.remove(namespace);
        if before != team {
            let either = [&before, &team].into_iter().flatten();
            let named = either.flat_map(Team::services);
            let ids = named.map(|name| ServiceId::new(namespace.clone(), name.clone()));
            self.changed.extend(ids);
        }
        if let Some(team) = team {
            self.teams.insert(namespace.clone(), team);
        }
        self.heard_of(namespace, Resource::Team);
    }

    /// How well a scope can be watched.
    pub(crate) fn handle_trouble(&mut self, scope: Scope, trouble: Option<Trouble>) {
        let before = self.health();
        if scope.resource == Resource::Team && trouble.is_some() {
            // The catalog is not kept back for it.
            self.awaited.remove(&scope);
        }
        match trouble {
            Some(trouble) => self.troubles.insert(scope, trouble),
            None => self.troubles.remove(&scope),
        };
        let health = self.health();
        if health != before {
            self.pending.handle_update(Update::Health(health));
        }
    }

    /// Whoever serves the catalog says this of itself.
    pub(crate) fn handle_notes(&mut self, notes: Vec<String>) {
        self.of_the_server = notes;
    }

    /// Whether no service is known.
    pub(crate) fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    fn heard_of(&mut self, namespace: &Label, resource: Resource) {
        let namespace = namespace.clone();
        self.awaited.remove(&Scope { namespace, resource });
    }

    fn health(&self) -> Health {
        let stale = |(scope, trouble): (&Scope, &Trouble)| match trouble {
            _ if scope.resource == Resource::Team => None,
            Trouble::Away { because } => Some(Health::stale(because)),
            Trouble::Unknown { forbidden } => Some(Health::stale(&forbidden.to_string())),
            Trouble::Polled { .. } | Trouble::Named { .. } => None,
        };
        self.troubles.iter().find_map(stale).unwrap_or_default()
    }

    /// What keeps scopes from being watched as they should.
    pub(crate) fn troubles(&self) -> impl Iterator<Item = (&Scope, &Trouble)> {
        self.troubles.iter()
    }

    /// Who answers for which port from here on; `None` for a port that is gone.
    pub(crate) fn poll_answers(&mut self, now: Instant) -> Option<(Target, Option<Arc<Answers>>)> {
        self.settle(now);
        self.answers.pop_first()
    }

    /// What is to be told of the catalog next. Ask for the answers first: what is told can be dialed then.
    pub(crate) fn poll_update(&mut self, now: Instant) -> Option<Update> {
        if !self.awaited.is_empty() {
            return None;
        }
        self.settle(now);
        let notes = self.notes();
        if !self.started {
            self.started = true;
            self.quiet.clear();
            for known in self.offered.values_mut().flat_map(BTreeMap::values_mut) {
                known.told = true;
            }
            self.tell_all(notes);
        } else if notes != self.notes {
            self.tell_all(notes);
        }
        self.pending.poll_update()
    }

    /// Tells everything anew, with these notes.
    fn tell_all(&mut self, notes: Vec<String>) {
        let mut catalog = Catalog::empty(self.environment.clone());
        for note in &notes {
            catalog.note(note);
        }
        let known = self.offered.values().flat_map(BTreeMap::values);
        for known in known.filter(|known| known.told) {
            let service = known.offered.service.clone();
            catalog.services.insert(service.id.clone(), service);
        }
        self.notes = notes;
        self.pending.handle_update(Update::Snapshot(catalog));
    }

    /// What of the teams' wishes is not known or not understood; and of a gateway, which has no other way to tell its clients, what it
    /// cannot watch as it should.
    fn notes(&self) -> Vec<String> {
        let without = self.troubles.iter().filter_map(|(scope, trouble)| {
            let of_a_team = scope.resource == Resource::Team;
            match trouble {
                Trouble::Unknown { forbidden } if of_a_team => Some(format!(
                    "{forbidden}, so a team's names, pins and order are not known"
                )),
                Trouble::Polled { forbidden, every } | Trouble::Named { forbidden, every } if of_a_team => {
                    Some(format!(
                        "{forbidden}, so a team's names, pins and order are looked at every {} s",
                        every.as_secs()
                    ))
                }
                Trouble::Polled { forbidden, every } if forbidden.who == Who::Gateway => Some(format!(
                    "{forbidden}, so they are listed every {} s",
                    every.as_secs()
                )),
                // The catalog's health says it, or it is the status of this process.
                _ => None,
            }
        });
        let faults = self.teams.values().flat_map(Team::faults).cloned();
        let of_the_server = self.of_the_server.iter().cloned();
        without.chain(faults).chain(of_the_server).collect()
    }

    /// When to ask again although nothing was handled.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let told = self.started.then(|| self.quiet.values().min().copied());
        told.flatten()
    }

    /// Works out what has changed. What it costs depends on that alone, not on how much there is.
    fn settle(&mut self, now: Instant) {
        let (mut upserted, mut removed) = (Vec::new(), Vec::new());
        while let Some(id) = self.changed.pop_first() {
            let before = self.offered.remove(&id).unwrap_or_default();
            let after = self.offer(&id, before, now, &mut upserted, &mut removed);
            if !after.is_empty() {
                self.offered.insert(id, after);
            }
        }
        self.end_quiet(now, &mut upserted);
        if self.started && !(upserted.is_empty() && removed.is_empty()) {
            self.pending.handle_update(Update::Changed { upserted, removed });
        }
    }

    fn offer(
        &mut self,
        id: &ServiceId,
        mut before: BTreeMap<ServiceId, Known>,
        now: Instant,
        upserted: &mut Vec<service_catalog::Service>,
        removed: &mut Vec<ServiceId>,
    ) -> BTreeMap<ServiceId, Known> {
        let slices = self.slices.get(id);
        let slices = slices.into_iter().flat_map(BTreeMap::values);
        let offered = self
            .services
            .get(id)
            .map(|service| offer::offer(service, &slices, self.reach));
        let team = self.teams.get(&id.namespace);
        let dressed = |mut offered: Offered| {
            if let Some(team) = team {
                team.dress(&mut offered.service);
            }
            offered
        };
        let offered: Vec<_> = offered.into_iter().flatten().map(dressed).collect();
        let mut after = BTreeMap::new();
        for offered in offered {
            let id = offered.service.id.clone();
            let known = before.remove(&id);
            self.note_answers(&id, known.as_ref().map(|known| &known.offered), Some(&offered));
            let was_told = known.as_ref().is_some_and(|known| known.told);
            let is_quiet = !was_told && !offered.never && offered.service.readiness != Readiness::Ready;
            if is_quiet {
                self.quiet.entry(id.clone()).or_insert(now + QUIET);
            } else {
                self.quiet.remove(&id);
                if known.is_none_or(|known| !known.told || known.offered.service != offered.service) {
                    upserted.push(offered.service.clone());
                }
            }
            let told = !is_quiet;
            after.insert(id, Known { offered, told });
        }
        for (id, known) in before {
            self.note_answers(&id, Some(&known.offered), None);
            self.quiet.remove(&id);
            if known.told {
                removed.push(id);
            }
        }
        after
    }

    fn note_answers(&mut self, id: &ServiceId, before: Option<&Offered>, after: Option<&Offered>) {
        let target = |(port, protocol): (NonZeroU16, Protocol)| Target {
            service: id.clone(),
            port,
            protocol,
        };
        let of =
            |offered: Option<&Offered>, key| offered.and_then(|offered| offered.answers.get(key).cloned());
        for key in before.into_iter().flat_map(|before| before.answers.keys()) {
            if of(after, key).is_none() {
                self.answers.insert(target(*key), None);
            }
        }
        for (key, answers) in after.into_iter().flat_map(|after| &after.answers) {
            if of(before, key).as_ref() != Some(answers) {
                self.answers.insert(target(*key), Some(Arc::clone(answers)));
            }
        }
    }

    /// What was kept back long enough is told as it is.
    fn end_quiet(&mut self, now: Instant, upserted: &mut Vec<service_catalog::Service>) {
        if !self.started || self.quiet.values().all(|until| *until > now) {
            return;
        }
        let due = |(id, until): (&ServiceId, &Instant)| (*until <= now).then(|| id.clone());
        let due: Vec<_> = self.quiet.iter().filter_map(due).collect();
        for id in due {
            self.quiet.remove(&id);
            let base = ServiceId::new(id.namespace.clone(), id.name.clone());
            let known = self
                .offered
                .get_mut(&base)
                .and_then(|members| members.get_mut(&id));
            if let Some(known) = known {
                known.told = true;
                upserted.push(known.offered.service.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests;
