use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::Arc;

use async_trait::async_trait;
use service_catalog::{Label, Source, SourceError, Update};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use crate::endpoints::Endpoints;
use crate::gateway::TEAM;
use crate::objects::{CONFIG_MAP, Globs, Objects, Reach, Resource, Scope, Trouble, wire};
use crate::watch::{Event, Follow, What, of_the_team};
use crate::{Cluster, Error, Forbidden, KubeOptions, Who};

/// Events that were seen and not handled yet; the watches wait while there are more.
const EVENTS: usize = 256;

/// The services of some namespaces of a cluster, and who answers for them. The watches end with it.
pub(crate) struct KubeSource {
    cluster: Arc<str>,
    objects: Objects,
    endpoints: Endpoints,
    events: mpsc::Receiver<Event>,
    /// The first update, which was waited for while connecting.
    first: Option<Update>,
    /// Degraded modes, for [`KubeProvider::status`](crate::KubeProvider).
    shown: watch::Sender<Vec<String>>,
    /// What follows the ConfigMaps of teams that may be told.
    teams: BTreeMap<Label, AbortHandle>,
    _watches: JoinSet<()>,
}

/// What is followed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Followed<'a> {
    pub(crate) namespaces: &'a BTreeSet<Label>,
    /// Those of them whose team's ConfigMap is, too. Of the others whoever is told the catalog may not read it.
    pub(crate) teams: &'a BTreeSet<Label>,
}

/// Why the first catalog did not come.
#[derive(Debug)]
pub(crate) enum NoCatalog {
    /// As the API server says.
    Failed(Error),
    /// It does not answer.
    Away { because: String },
}

impl KubeSource {
    /// Begins to watch. `endpoints` is kept up to date as long as the updates are asked for.
    pub(crate) fn new(
        cluster: &Cluster,
        environment: Label,
        followed: Followed<'_>,
        options: &KubeOptions,
        reach: Reach,
        endpoints: Endpoints,
        shown: watch::Sender<Vec<String>>,
    ) -> Self {
        let (sender, events) = mpsc::channel(EVENTS);
        let mut watches = JoinSet::new();
        let mut awaited = BTreeSet::new();
        let mut teams = BTreeMap::new();
        for namespace in followed.namespaces {
            let named = options.services.iter().filter(|id| id.namespace == *namespace);
            let services = Follow {
                cluster: cluster.clone(),
                namespace: namespace.clone(),
                label_selector: options.label_selector.clone(),
                field_selector: options.field_selector.clone(),
                named: named.map(|id| id.name.clone()).collect(),
                events: sender.clone(),
            };
            // A service's labels and fields are not those of its slices.
            let slices = Follow {
                cluster: cluster.clone(),
                namespace: namespace.clone(),
                label_selector: None,
                field_selector: None,
                named: services.named.clone(),
                events: sender.clone(),
            };
            let team = Follow {
                cluster: cluster.clone(),
                namespace: namespace.clone(),
                label_selector: None,
                field_selector: Some(of_the_team()),
                named: CONFIG_MAP.parse().into_iter().collect(),
                events: sender.clone(),
            };
            if followed.teams.contains(namespace) {
                let following = watches.spawn(team.run::<wire::ConfigMap>());
                teams.insert(namespace.clone(), following);
            }
            watches.spawn(services.run::<wire::Service>());
            watches.spawn(slices.run::<wire::Slice>());
            awaited.extend(
                [Resource::Services, Resource::Slices, Resource::Team].map(|resource| Scope {
                    namespace: namespace.clone(),
                    resource,
                }),
            );
        }
        let globs = Globs::new(options.include.clone(), options.exclude.clone());
        let mut source = Self {
            cluster: cluster.name().into(),
            objects: Objects::new(environment, globs, reach, awaited),
            endpoints,
            events,
            first: None,
            shown,
            teams,
            _watches: watches,
        };
        for namespace in followed.namespaces.difference(followed.teams) {
            source.without_team(namespace);
        }
        source
    }

    /// Whoever is told the catalog may not read, or no longer, what this namespace's team wants.
    fn without_team(&mut self, namespace: &Label) {
        if let Some(following) = self.teams.remove(namespace) {
            following.abort();
        }
        let (verb, resource, _) = TEAM;
        let forbidden = Forbidden {
            who: Who::You,
            verb: verb.to_owned(),
            resource: resource.to_owned(),
            namespace: Some(namespace.to_string()),
        };
        let scope = Scope {
            namespace: namespace.clone(),
            resource: Resource::Team,
        };
        self.objects.handle_team(namespace, None);
        self.objects
            .handle_trouble(scope, Some(Trouble::Unknown { forbidden }));
    }

    /// Of the teams' ConfigMaps only these may be told from here on.
    pub(crate) fn keep_teams(&mut self, namespaces: &BTreeSet<Label>) {
        let lost = self.teams.keys().filter(|team| !namespaces.contains(*team));
        let lost: Vec<_> = lost.cloned().collect();
        for namespace in lost {
            self.without_team(&namespace);
        }
    }

    /// The way into the cluster is another one than was thought.
    pub(crate) fn set_reach(&mut self, reach: Reach) {
        self.objects.handle_reach(reach);
    }

    /// Whoever serves the catalog says this of itself.
    pub(crate) fn set_notes(&mut self, notes: Vec<String>) {
        self.objects.handle_notes(notes);
    }

    /// Namespaces of which the services, or who answers for them, cannot be known.
    pub(crate) fn unknown(&self) -> BTreeMap<Label, Forbidden> {
        let unknown = |(scope, trouble): (&Scope, &Trouble)| match trouble {
            Trouble::Unknown { forbidden } if scope.resource != Resource::Team => {
                Some((scope.namespace.clone(), forbidden.clone()))
            }
            _ => None,
        };
        self.objects.troubles().filter_map(unknown).collect()
    }

    /// There are namespaces that whoever is told the catalog may not see, and that are not followed.
    pub(crate) fn set_forbidden(&mut self, namespaces: &BTreeMap<Label, Forbidden>) {
        for (namespace, forbidden) in namespaces {
            let scope = Scope {
                namespace: namespace.clone(),
                resource: Resource::Services,
            };
            let forbidden = forbidden.clone();
            self.objects
                .handle_trouble(scope, Some(Trouble::Unknown { forbidden }));
        }
    }

    /// Waits for the first catalog, which [`next`](Source::next) gives.
    pub(crate) async fn first(&mut self) -> Result<(), NoCatalog> {
        while self.first.is_none() {
            self.first = self.poll();
            if self.first.is_some() {
                break;
            }
            match self.events.recv().await {
                None => {
                    let because = "the watches have ended".to_owned();
                    return Err(NoCatalog::Away { because });
                }
                Some(Event {
                    what: What::Unauthorized(message),
                    ..
                }) => {
                    return Err(NoCatalog::Failed(Error::Unauthorized {
                        cluster: self.cluster.to_string(),
                        message,
                    }));
                }
                Some(Event {
                    what: What::Trouble(Some(Trouble::Away { because })),
                    scope,
                }) if scope.resource != Resource::Team => return Err(NoCatalog::Away { because }),
                Some(event) => self.handle(event),
            }
        }
        let unknown = |(scope, trouble): (&Scope, &Trouble)| match trouble {
            Trouble::Unknown { forbidden } if scope.resource == Resource::Services => Some(forbidden.clone()),
            _ => None,
        };
        let unknown: Vec<_> = self.objects.troubles().filter_map(unknown).collect();
        match unknown.into_iter().next() {
            // Of several namespaces, those that can be seen are shown.
            Some(forbidden) if self.objects.is_empty() => Err(NoCatalog::Failed(forbidden.into())),
            _ => Ok(()),
        }
    }

    fn handle(&mut self, Event { scope, what }: Event) {
        if scope.resource == Resource::Team && !self.teams.contains_key(&scope.namespace) {
            // It was seen before it was not to be followed any more.
            return;
        }
        match what {
            What::Services(services) => self.objects.handle_services(&scope.namespace, services),
            What::Service(service) => self.objects.handle_service(service),
            What::ServiceGone(id) => self.objects.handle_service_gone(&id),
            What::Slices(slices) => self.objects.handle_slices(&scope.namespace, slices),
            What::Slice(slice) => self.objects.handle_slice(slice),
            What::SliceGone(name) => self.objects.handle_slice_gone(&scope.namespace, &name),
            What::Team(team) => self.objects.handle_team(&scope.namespace, team),
            What::Trouble(trouble) => {
                self.objects.handle_trouble(scope, trouble);
                let away = self
                    .objects
                    .troubles()
                    .find_map(|(scope, trouble)| match trouble {
                        Trouble::Away { because } if scope.resource != Resource::Team => {
                            Some(because.as_str())
                        }
                        _ => None,
                    });
                self.endpoints.set_away(away);
                self.show();
            }
            // The trouble that comes with it says so.
            What::Unauthorized(_) => {}
        }
    }

    /// Says what is not as it should be, each thing once.
    fn show(&self) {
        let told = |(scope, trouble): (&Scope, &Trouble)| {
            let (what, seen) = match scope.resource {
                Resource::Services => ("services", "looked at"),
                Resource::Slices => ("endpoints", "looked at"),
                // The catalog's notes say it.
                Resource::Team => return None,
            };
            match trouble {
                Trouble::Polled { forbidden, every } => {
                    let seconds = every.as_secs();
                    Some(format!("{forbidden}, so they are listed every {seconds} s"))
                }
                Trouble::Named { forbidden, every } => {
                    let seconds = every.as_secs();
                    Some(format!(
                        "{forbidden}, so the {what} of those that are named are {seen} every {seconds} s"
                    ))
                }
                Trouble::Away { .. } | Trouble::Unknown { .. } => None,
            }
        };
        let troubles: Vec<_> = self.objects.troubles().filter_map(told).collect();
        self.shown.send_if_modified(|before| {
            let differs = *before != troubles;
            *before = troubles;
            differs
        });
    }

    /// The next update, and before it who answers.
    fn poll(&mut self) -> Option<Update> {
        let now = Instant::now().into_std();
        let objects = &mut self.objects;
        self.endpoints
            .set(std::iter::from_fn(|| objects.poll_answers(now)));
        self.objects.poll_update(now)
    }
}

#[async_trait]
impl Source for KubeSource {
    async fn next(&mut self) -> Result<Update, SourceError> {
        if let Some(update) = self.first.take() {
            return Ok(update);
        }
        loop {
            // What came together is told together.
            for _ in 0..EVENTS {
                match self.events.try_recv() {
                    Ok(event) => self.handle(event),
                    Err(_) => break,
                }
            }
            if let Some(update) = self.poll() {
                return Ok(update);
            }
            let timeout = self.objects.poll_timeout();
            tokio::select! {
                event = self.events.recv() => match event {
                    Some(event) => self.handle(event),
                    None => return Err(SourceError::Ended),
                },
                () = until(timeout) => {}
            }
        }
    }
}

async fn until(instant: Option<std::time::Instant>) {
    match instant {
        Some(instant) => sleep_until(Instant::from_std(instant)).await,
        None => pending().await,
    }
}
