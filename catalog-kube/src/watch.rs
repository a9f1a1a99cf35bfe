//! Following one kind of object of one namespace: one LIST, then a watch that goes on from there.

use std::sync::Arc;
use std::time::Duration;

use devbox_provider::with_causes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use kube::core::params::{GetParams, ListParams, WatchParams};
use kube::core::{Request, WatchEvent};
use serde::de::DeserializeOwned;
use service_catalog::{Label, ServiceId};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::objects::wire::{self, List};
use crate::objects::{CONFIG_MAP, Resource, Scope, ServiceObject, SliceObject, Team, Trouble};
use crate::{Cluster, Error, Forbidden};

/// The API server is asked again so often about what may not be watched.
pub(crate) const POLL: Duration = Duration::from_secs(5);

/// A watch ends by itself after so long, and goes on from where it was: a connection that died unnoticed is noticed then.
const WATCH_SECONDS: u32 = 60;

/// An answer to begin with, or the end of a watch that is due, is waited for so long.
const SILENCE: Duration = Duration::from_secs(15);

/// An API server that has just come back is believed that something is forbidden when it has said so this often.
const DOUBTS: u32 = 3;

/// What was seen of a scope.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) scope: Scope,
    pub(crate) what: What,
}

#[derive(Debug)]
pub(crate) enum What {
    /// All services of the namespace.
    Services(Vec<ServiceObject>),
    Service(ServiceObject),
    ServiceGone(ServiceId),
    /// All slices of the namespace.
    Slices(Vec<SliceObject>),
    Slice(SliceObject),
    SliceGone(Arc<str>),
    /// What the namespace's team wants, if it wants anything.
    Team(Option<Team>),
    /// How well it can be watched; `None` where nothing is amiss.
    Trouble(Option<Trouble>),
    /// The credential is not accepted.
    Unauthorized(String),
}

/// An object as it comes from the API server.
pub(crate) trait Watched: DeserializeOwned + Clone + Send + 'static {
    const RESOURCE: Resource;
    /// The path before the namespaces.
    const API: &'static str;
    const PLURAL: &'static str;
    /// What cannot be known is asked for again so often.
    const AGAIN: Duration = POLL;

    fn resource_version(&self) -> &str;
    fn listed(items: Vec<Self>) -> What;
    fn applied(self) -> Option<What>;
    fn gone(self) -> Option<What>;

    /// Looks at what belongs to the services that were named, one by one.
    fn named(follow: &Follow, names: &[Label]) -> impl Future<Output = Result<What, Error>> + Send;
}

impl Watched for wire::Service {
    const RESOURCE: Resource = Resource::Services;
    const API: &'static str = "/api/v1";
    const PLURAL: &'static str = "services";

    fn resource_version(&self) -> &str {
        &self.metadata.resource_version
    }

    fn listed(items: Vec<Self>) -> What {
        What::Services(items.into_iter().filter_map(Self::object).collect())
    }

    fn applied(self) -> Option<What> {
        self.object().map(What::Service)
    }

    fn gone(self) -> Option<What> {
        self.object().map(|object| What::ServiceGone(object.id))
    }

    async fn named(follow: &Follow, names: &[Label]) -> Result<What, Error> {
        let found: Vec<Self> = follow.each(Self::PLURAL, names).await?;
        Ok(Self::listed(found))
    }
}

impl Watched for wire::Slice {
    const RESOURCE: Resource = Resource::Slices;
    const API: &'static str = "/apis/discovery.k8s.io/v1";
    const PLURAL: &'static str = "endpointslices";

    fn resource_version(&self) -> &str {
        &self.metadata.resource_version
    }

    fn listed(items: Vec<Self>) -> What {
        What::Slices(items.into_iter().filter_map(Self::object).collect())
    }

    fn applied(self) -> Option<What> {
        self.object().map(What::Slice)
    }

    fn gone(self) -> Option<What> {
        self.object().map(|object| What::SliceGone(object.name))
    }

    /// Slices have names that nobody can know; the `Endpoints` of a service has the service's.
    async fn named(follow: &Follow, names: &[Label]) -> Result<What, Error> {
        let found: Vec<wire::Endpoints> = follow.each("endpoints", names).await?;
        let slices = found.into_iter().flat_map(wire::Endpoints::objects);
        Ok(What::Slices(slices.collect()))
    }
}

/// Of the namespace's ConfigMaps only the one that is the team's: [`Follow::field_selector`] names it, so that a role may do so too.
impl Watched for wire::ConfigMap {
    const RESOURCE: Resource = Resource::Team;
    const API: &'static str = "/api/v1";
    const PLURAL: &'static str = "configmaps";
    const AGAIN: Duration = Duration::from_secs(60);

    fn resource_version(&self) -> &str {
        &self.metadata.resource_version
    }

    fn listed(items: Vec<Self>) -> What {
        What::Team(items.into_iter().find_map(Self::team))
    }

    fn applied(self) -> Option<What> {
        self.team().map(|team| What::Team(Some(team)))
    }

    fn gone(self) -> Option<What> {
        self.team().map(|_| What::Team(None))
    }

    async fn named(follow: &Follow, names: &[Label]) -> Result<What, Error> {
        Ok(Self::listed(follow.each(Self::PLURAL, names).await?))
    }
}

/// A selector of just the team's ConfigMap.
pub(crate) fn of_the_team() -> String {
    format!("metadata.name={CONFIG_MAP}")
}

/// Follows one kind of object of one namespace.
pub(crate) struct Follow {
    pub(crate) cluster: Cluster,
    pub(crate) namespace: Label,
    pub(crate) label_selector: Option<String>,
    pub(crate) field_selector: Option<String>,
    /// Services to look at one by one where listing is forbidden.
    pub(crate) named: Vec<Label>,
    /// Whoever reads them is waited for: nothing is dropped, and the API server ends a watch that is read too slowly.
    pub(crate) events: mpsc::Sender<Event>,
}

/// Nobody listens to what is seen.
struct Unheard;

impl Follow {
    /// Tells what there is and what changes, until nobody listens.
    pub(crate) async fn run<K: Watched>(self) {
        // The end of the listener is the only way out.
        if let Err(Unheard) = self.follow::<K>().await {
            tracing::debug!(namespace = %self.namespace, resource = K::PLURAL, "no longer followed");
        }
    }

    async fn follow<K: Watched>(&self) -> Result<(), Unheard> {
        let mut failures = Failures::default();
        loop {
            let mut version = match self.list::<K>().await {
                Ok(list) => {
                    self.tell::<K>(K::listed(list.items.unwrap_or_default())).await?;
                    list.metadata.resource_version
                }
                Err(Error::Forbidden(forbidden)) if failures.are_over() => {
                    let again = self.look_at_named::<K>(forbidden).await?;
                    sleep(again).await;
                    continue;
                }
                Err(error) => {
                    self.fail::<K>(&error, &mut failures).await?;
                    continue;
                }
            };
            loop {
                match self.watch::<K>(&mut version, &mut failures).await? {
                    Watch::Ended => {}
                    Watch::Outdated => break,
                    Watch::Failed(Error::Forbidden(forbidden)) if failures.are_over() => {
                        let every = POLL;
                        let trouble = Trouble::Polled { forbidden, every };
                        self.tell::<K>(What::Trouble(Some(trouble))).await?;
                        sleep(every).await;
                        break;
                    }
                    Watch::Failed(error) => self.fail::<K>(&error, &mut failures).await?,
                }
            }
        }
    }

    async fn tell<K: Watched>(&self, what: What) -> Result<(), Unheard> {
        let scope = Scope {
            namespace: self.namespace.clone(),
            resource: K::RESOURCE,
        };
        self.events.send(Event { scope, what }).await.map_err(|_| Unheard)
    }

    /// Says that it failed, and waits before the next attempt.
    async fn fail<K: Watched>(&self, error: &Error, failures: &mut Failures) -> Result<(), Unheard> {
        let because = with_causes(error);
        tracing::debug!(namespace = %self.namespace, resource = K::PLURAL, %because, "cannot be followed");
        if let Error::Unauthorized { .. } = error {
            self.tell::<K>(What::Unauthorized(because.clone())).await?;
        }
        self.tell::<K>(What::Trouble(Some(Trouble::Away { because })))
            .await?;
        sleep(failures.handle(error)).await;
        Ok(())
    }

    fn path<K: Watched>(&self) -> String {
        format!("{}/namespaces/{}/{}", K::API, self.namespace, K::PLURAL)
    }

    fn failed(&self, error: kube::Error, verb: &str, resource: &str) -> Error {
        self.cluster
            .failed(error, verb, resource, Some(self.namespace.as_str()))
    }

    async fn list<K: Watched>(&self) -> Result<List<K>, Error> {
        // Without a limit: one answer, which the API server makes of what it has in memory.
        let params = ListParams {
            label_selector: self.label_selector.clone(),
            field_selector: self.field_selector.clone(),
            ..ListParams::default()
        };
        let failed = |error| self.failed(error, "list", K::PLURAL);
        let request = Request::new(self.path::<K>()).list(&params);
        let request = request.map_err(|error| failed(kube::Error::BuildRequest(error)))?;
        let list = self
            .in_time(self.cluster.client().request(request))
            .await?
            .map_err(failed)?;
        self.done::<K>("list");
        Ok(list)
    }

    /// Where it was refused before, it is no more.
    fn done<K: Watched>(&self, verb: &str) {
        let namespace = Some(self.namespace.as_str());
        self.cluster.lacking().handle_done(verb, K::PLURAL, namespace);
    }

    /// Lets the API server answer for a while.
    async fn in_time<T>(&self, answer: impl Future<Output = T>) -> Result<T, Error> {
        timeout(SILENCE, answer).await.map_err(|_| Error::Silent {
            cluster: self.cluster.name().to_owned(),
            after: SILENCE,
        })
    }

    /// Says when to look again.
    async fn look_at_named<K: Watched>(&self, forbidden: Forbidden) -> Result<Duration, Unheard> {
        let every = POLL;
        let (what, trouble) = match K::named(self, &self.named).await {
            Ok(what) if !self.named.is_empty() => (Some(what), Trouble::Named { forbidden, every }),
            // The namespace is heard of: it has nothing that could be known.
            Ok(nothing) => (Some(nothing), Trouble::Unknown { forbidden }),
            Err(Error::Forbidden(forbidden)) => (Some(K::listed(Vec::new())), Trouble::Unknown { forbidden }),
            Err(error) => (
                None,
                Trouble::Away {
                    because: with_causes(&error),
                },
            ),
        };
        let again = match trouble {
            Trouble::Unknown { .. } => K::AGAIN,
            _ => every,
        };
        self.tell::<K>(What::Trouble(Some(trouble))).await?;
        if let Some(what) = what {
            self.tell::<K>(what).await?;
        }
        Ok(again)
    }

    /// One object for each name that has one.
    async fn each<T: DeserializeOwned>(&self, plural: &str, names: &[Label]) -> Result<Vec<T>, Error> {
        let mut found = Vec::new();
        for name in names {
            let failed = |error| self.failed(error, "get", plural);
            let path = format!("/api/v1/namespaces/{}/{plural}", self.namespace);
            let request = Request::new(path).get(name.as_str(), &GetParams::default());
            let request = request.map_err(|error| failed(kube::Error::BuildRequest(error)))?;
            match self.in_time(self.cluster.client().request(request)).await? {
                Ok(object) => found.push(object),
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(found)
    }

    /// Watches from `version` on, which moves along.
    async fn watch<K: Watched>(
        &self,
        version: &mut String,
        failures: &mut Failures,
    ) -> Result<Watch, Unheard> {
        let params = WatchParams {
            label_selector: self.label_selector.clone(),
            field_selector: self.field_selector.clone(),
            timeout: Some(WATCH_SECONDS),
            bookmarks: true,
            send_initial_events: false,
        };
        let failed = |error| match error {
            kube::Error::Api(status) if status.code == 410 => Watch::Outdated,
            error => Watch::Failed(self.failed(error, "watch", K::PLURAL)),
        };
        let request = match Request::new(self.path::<K>()).watch(&params, version) {
            Ok(request) => request,
            Err(error) => return Ok(failed(kube::Error::BuildRequest(error))),
        };
        let mut stream: Events<K> = match self.in_time(self.cluster.client().request_events(request)).await {
            Ok(Ok(stream)) => stream.boxed(),
            Ok(Err(error)) => return Ok(failed(error)),
            Err(error) => return Ok(Watch::Failed(error)),
        };
        *failures = Failures::default();
        self.done::<K>("watch");
        self.tell::<K>(What::Trouble(None)).await?;
        let limit = Duration::from_secs(WATCH_SECONDS.into()) + SILENCE;
        loop {
            let what = match timeout(limit, stream.next()).await {
                Err(_) | Ok(None) => return Ok(Watch::Ended),
                Ok(Some(Err(error))) => return Ok(failed(error)),
                Ok(Some(Ok(WatchEvent::Error(status)))) => return Ok(failed(kube::Error::Api(status))),
                Ok(Some(Ok(WatchEvent::Bookmark(mark)))) => {
                    *version = mark.metadata.resource_version;
                    continue;
                }
                Ok(Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)))) => {
                    object.resource_version().clone_into(version);
                    object.applied()
                }
                Ok(Some(Ok(WatchEvent::Deleted(object)))) => {
                    object.resource_version().clone_into(version);
                    object.gone()
                }
            };
            if let Some(what) = what {
                self.tell::<K>(what).await?;
            }
        }
    }
}

type Events<K> = BoxStream<'static, kube::Result<WatchEvent<K>>>;

/// How a watch went.
enum Watch {
    /// Its time was up; it can go on.
    Ended,
    /// It cannot go on from there: everything is listed again.
    Outdated,
    Failed(Error),
}

/// Failures in a row, by what they say of the API server. What it is said to be at the moment does not count for the pause after something else: an
/// API server that has just come back may answer with an error while it reads its storage, and refuse everything while it reads the roles.
#[derive(Debug, Default)]
struct Failures {
    /// It was not there, or silent.
    away: u32,
    /// It answered with an error.
    answered: u32,
    /// It said that something is forbidden, since it was away last.
    forbidden: u32,
}

impl Failures {
    /// How long to wait after this one. An API server that restarts is found soon; one that says that something is wrong with the request, or
    /// that it has too much to do, is left alone for longer.
    fn handle(&mut self, error: &Error) -> Duration {
        let of_its_kind = match error {
            Error::Unreachable { .. } | Error::Silent { .. } => {
                self.forbidden = 0;
                &mut self.away
            }
            Error::Forbidden(_) => &mut self.forbidden,
            _ => &mut self.answered,
        };
        let before = *of_its_kind;
        *of_its_kind = before.saturating_add(1);
        let doubled = |first: u64, most: u64| {
            let factor = 1_u64.checked_shl(before.min(16)).unwrap_or(u64::MAX);
            Duration::from_millis(first.saturating_mul(factor).min(most))
        };
        match error {
            Error::Unreachable { .. } if before < 60 => doubled(100, 1_000),
            Error::Unreachable { .. } | Error::Silent { .. } => Duration::from_secs(5),
            _ => doubled(500, 15_000),
        }
    }

    /// Whether what is refused now is refused because of what is allowed, and not because the API server does not know the roles yet.
    const fn are_over(&self) -> bool {
        (self.away == 0 && self.answered == 0) || self.forbidden >= DOUBTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long is waited after each of so many failures, in milliseconds.
    fn delays(failures: &mut Failures, error: &Error, times: usize) -> Vec<u128> {
        (0..times).map(|_| failures.handle(error).as_millis()).collect()
    }

    fn busy() -> Error {
        Error::Api {
            cluster: "staging".to_owned(),
            code: 429,
            message: "too many requests".to_owned(),
        }
    }

    fn unreachable() -> Error {
        Error::Unreachable {
            cluster: "staging".to_owned(),
            source: Box::new(kube::Error::LinesCodecMaxLineLengthExceeded),
        }
    }

    #[test]
    fn an_api_server_that_restarts_is_found_soon_and_one_that_stays_away_is_asked_less_often() {
        let delays = delays(&mut Failures::default(), &unreachable(), 62);
        assert_eq!(delays[..6], [100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(delays[59..], [1_000, 5_000, 5_000]);
    }

    #[test]
    fn an_api_server_that_has_too_much_to_do_is_left_alone_for_longer_each_time() {
        let delays = delays(&mut Failures::default(), &busy(), 100);
        assert_eq!(delays[..7], [500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000]);
        assert_eq!(delays[99], 15_000);
    }

    /// While it reads its storage it answers 429, and 403 while it reads the roles.
    #[test]
    fn one_that_has_just_come_back_is_asked_again_soon_whatever_it_says_and_however_long_it_was_away() {
        let mut failures = Failures::default();
        let forbidden = Error::Forbidden(Forbidden {
            who: crate::Who::You,
            verb: "watch".to_owned(),
            resource: "services".to_owned(),
            namespace: Some("orders".to_owned()),
        });
        assert!(failures.are_over(), "a refusal is believed at once");
        delays(&mut failures, &unreachable(), 30);
        assert_eq!(delays(&mut failures, &busy(), 2), [500, 1_000]);
        assert!(!failures.are_over());
        assert_eq!(delays(&mut failures, &forbidden, 2), [500, 1_000]);
        assert!(!failures.are_over());
        assert_eq!(delays(&mut failures, &forbidden, 1), [2_000]);
        assert!(failures.are_over(), "it means it");
        // The next time that it was away, it is doubted again.
        delays(&mut failures, &unreachable(), 1);
        assert!(!failures.are_over());
    }

    /// As behind a load balancer of which one server is away.
    #[test]
    fn one_that_is_away_and_too_busy_in_turns_is_left_alone_for_longer_as_well() {
        let mut failures = Failures::default();
        let pairs = (0..6).map(|_| failures.handle(&unreachable()) + failures.handle(&busy()));
        let pauses: Vec<_> = pairs.map(|pause| pause.as_millis()).collect();
        assert_eq!(pauses, [600, 1_200, 2_400, 4_800, 9_000, 16_000]);
    }

    #[test]
    fn one_that_was_silent_was_waited_for_already() {
        let silent = Error::Silent {
            cluster: "staging".to_owned(),
            after: Duration::from_secs(15),
        };
        assert_eq!(delays(&mut Failures::default(), &silent, 3), [5_000; 3]);
    }
}
