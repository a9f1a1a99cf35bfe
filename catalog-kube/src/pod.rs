//! Rung 1: one mux to a gateway pod of ours, which is created with the user's rights and lives as long as the sessions that use it.
//!
//! * The pod is a Job's. It has no rights of its own and no token of a service account; what it dials is what the sessions push to it, each
//!   for itself. The sessions of one user share a pod, and with it the Secret with its token.
//! * The mux runs in one stream through the API server's proxy subresource, which copies bytes from the pod and to it and passes neither
//!   the kubelet nor the container runtime; where that right or way is missing, through one port-forward. Either way it is taken up again
//!   when its connection is lost, with the user's credential of that moment.
//! * The gateway ends five seconds after its last session has said goodbye, so that commands which are run one after the other share
//!   it, and two minutes after it was lost; the Job is then removed by the cluster, and the Secret with it. A pod that never starts is ended by the Job's deadline, which is lifted once the gateway is reached.

pub(crate) mod approach;
mod create;
mod manifest;
mod pushed;
mod road;
pub(crate) mod standing;

use std::sync::Arc;
use std::time::Duration;

use devbox_gateway_client::{Approach, GatewayProvider, TokenSource};
use devbox_provider::{ConnectError, Connection, Provider as _, Wanted, with_causes};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch_objects};
use service_catalog::{Label, Protocol, Source};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tunnel_bridge::Link;
use tunnel_bridge::dial::Carriage;

use crate::Cluster;
use crate::road::{Endpoint, Host, PodRef, Road};

use approach::{ApiProxy, OneForward};
use create::Ours;
pub(crate) use create::may_get;
pub(crate) use manifest::{PORT, released_image};
pub(crate) use pushed::Feed;
use pushed::Pushed;
use road::{PodRoad, Tied};
pub(crate) use road::{Watched, watch_over};
use standing::{Standing, standing};

/// How long the pod may take until its gateway answers, the pull of its image included. Less than the Job's deadline.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long a gateway whose container runs may be silent before another way to it is tried.
const GRACE: Duration = Duration::from_secs(3);

/// How long one attempt to reach the gateway may take.
const ATTEMPT: Duration = Duration::from_secs(5);

/// The pauses between two attempts: while the gateway may answer any moment, and while the pull of an image goes on.
const SOON: Duration = Duration::from_millis(50);
const LATER: Duration = Duration::from_secs(1);

/// How often the Job's events are looked at while it has no pod.
const NO_POD_YET: Duration = Duration::from_millis(300);

/// What a gateway pod is to be.
#[derive(Debug, Clone)]
pub(crate) struct PodOptions {
    /// Where it runs.
    pub(crate) namespace: String,
    /// Its image. Default: the released one of this version.
    pub(crate) image: Option<String>,
    /// The session's name.
    pub(crate) session: String,
    /// What the environment is called.
    pub(crate) environment: Label,
}

/// A gateway pod that was reached.
pub(crate) struct Up {
    pub(crate) road: PodRoad,
    /// The mux to it. Shutting it down says goodbye, and lets the gateway end if nobody else is connected.
    pub(crate) link: Link,
    /// The way, as a status shows it.
    pub(crate) way: String,
    /// What the mux runs over, and why over that.
    pub(crate) over: String,
}

impl Up {
    /// A source that ends when the mux does, so that its session connects again.
    pub(crate) fn tie<S: Source>(&self, source: S) -> Tied<S> {
        Tied::new(source, self.link.clone())
    }
}

/// Why there is no gateway pod to be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotUp {
    /// Another try would fail the same way, until somebody changes something.
    #[error("{because}")]
    StepDown {
        /// One clause, to be read after "because".
        because: String,
    },
    /// The API server cannot be asked, or the session is over.
    #[error(transparent)]
    Failed(#[from] ConnectError),
    /// The pod ended meanwhile, as when its last session left.
    #[error("the gateway pod ended")]
    Gone,
}

impl NotUp {
    fn step_down(because: impl Into<String>) -> Self {
        Self::StepDown {
            because: because.into(),
        }
    }
}

/// Reaches the user's gateway pod, which is created where there is none. `tell` hears what is waited for.
///
/// # Errors
/// [`NotUp::StepDown`] and [`NotUp::Failed`].
///
/// # Cancel safety
/// Dropping the future abandons the attempt. A pod that was created ends by itself.
pub(crate) async fn connect(
    cluster: &Cluster,
    options: &PodOptions,
    feed: &Feed,
    forward: &Arc<dyn Road>,
    wanted: &Wanted,
    tell: &(dyn Fn(String) + Send + Sync),
) -> Result<Up, NotUp> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let ours = create::ensure(cluster, options, deadline).await?;
        let attempt = Attempt {
            cluster,
            options,
            feed,
            forward,
            wanted,
            tell,
            ours: &ours,
        };
        match attempt.reach(deadline).await {
            // No session has it any more, and the cluster takes seconds to remove it.
            Err(NotUp::Gone) if Instant::now() < deadline => create::remove(cluster, options, &ours).await,
            Err(error @ (NotUp::StepDown { .. } | NotUp::Gone)) => {
                create::remove(cluster, options, &ours).await;
                return Err(error);
            }
            done => return done,
        }
    }
}

struct Attempt<'a> {
    cluster: &'a Cluster,
    options: &'a PodOptions,
    feed: &'a Feed,
    forward: &'a Arc<dyn Road>,
    wanted: &'a Wanted,
    tell: &'a (dyn Fn(String) + Send + Sync),
    ours: &'a Ours,
}

/// The ways to the pod, the better one first.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    Proxy,
    Forward { because: String },
}

/// What is known of a pod that has an address.
#[derive(Debug, Clone)]
struct Seen {
    gateway: Endpoint,
    pod: PodRef,
    since: Instant,
    running_since: Option<Instant>,
}

impl Attempt<'_> {
    async fn reach(&self, deadline: Instant) -> Result<Up, NotUp> {
        let pods: Api<Pod> = Api::namespaced(self.cluster.client().clone(), &self.options.namespace);
        let selector = manifest::selector(&self.ours.job);
        let events = watch_objects(pods, watcher::Config::default().labels(&selector)).default_backoff();
        tokio::pin!(events);
        let mut without_pod = interval(NO_POD_YET);
        without_pod.set_missed_tick_behavior(MissedTickBehavior::Delay);
        without_pod.reset();
        let mut seen: Option<Seen> = None;
        let mut way = Way::Proxy;
        let mut connecting: Option<BoxFuture<'_, Result<(Connection, String), ConnectError>>> = None;
        let mut waits_for = "its Job to create it".to_owned();
        let mut exists = false;
        (self.tell)(format!("gateway pod of {}", self.ours.job));
        loop {
            tokio::select! {
                event = events.next() => {
                    let pod = match event {
                        None => return Err(NotUp::Gone),
                        Some(Ok(Event::Apply(pod) | Event::InitApply(pod))) => pod,
                        Some(Ok(Event::Delete(pod))) if self.ours.owns(&pod) => return Err(NotUp::Gone),
                        Some(Ok(_)) => continue,
                        Some(Err(error)) => {
                            if let Some(because) = forbids_watching(&error) {
                                return Err(NotUp::step_down(because));
                            }
                            tracing::debug!(error = %with_causes(&error), "the gateway pod cannot be watched");
                            continue;
                        }
                    };
                    if !self.ours.owns(&pod) {
                        continue;
                    }
                    exists = true;
                    match standing(&pod) {
                        Standing::Waits { what } => {
                            (self.tell)(format!("gateway pod, which waits for {what}"));
                            waits_for = what;
                        }
                        Standing::Broken { because } => return Err(NotUp::StepDown { because }),
                        Standing::Over => return Err(NotUp::Gone),
                        Standing::Reachable { pod, address, running } => {
                            let now = Instant::now();
                            let begun = running && seen.as_ref().is_none_or(|seen| seen.running_since.is_none());
                            let seen = seen.get_or_insert_with(|| Seen {
                                gateway: Endpoint {
                                    host: Host::Address(address),
                                    port: manifest::PORT,
                                    protocol: Protocol::Tcp,
                                    pod: Some(pod.clone()),
                                },
                                pod,
                                since: now,
                                running_since: None,
                            });
                            waits_for = "an answer of its gateway".to_owned();
                            if begun {
                                seen.running_since = Some(now);
                            }
                            if begun || connecting.is_none() {
                                connecting = Some(Box::pin(self.try_once(seen.clone(), way.clone(), Duration::ZERO)));
                            }
                        }
                    }
                }
                outcome = async { match &mut connecting {
                    Some(connecting) => connecting.await,
                    None => std::future::pending().await,
                }} => {
                    connecting = None;
                    let Some(seen) = &seen else { continue };
                    match (outcome, &way) {
                        (Ok((connection, over)), _) => return self.up(seen, connection, &over, &way).await,
                        (Err(error @ ConnectError::Superseded { .. }), _) => return Err(NotUp::Failed(error)),
                        (Err(error), way_now) => {
                            tracing::debug!(%error, way = ?way_now, "the gateway pod is not reached");
                            if !is_hopeless(&error, seen) {
                                let pause = pause(seen);
                                connecting = Some(Box::pin(self.try_once(seen.clone(), way.clone(), pause)));
                                continue;
                            }
                            match way_now {
                                Way::Proxy => {
                                    let because = self.why_not_proxied(&error).await;
                                    way = Way::Forward { because };
                                    connecting = Some(Box::pin(self.try_once(seen.clone(), way.clone(), Duration::ZERO)));
                                }
                                Way::Forward { because } => {
                                    return Err(NotUp::step_down(format!("{because}, and over a port-forward: {error}")));
                                }
                            }
                        }
                    }
                }
                _ = without_pod.tick(), if !exists => {
                    // It may have ended before its pods were looked at.
                    if create::is_gone(self.cluster, self.options, self.ours).await {
                        return Err(NotUp::Gone);
                    }
                    if let Some(because) = create::why_no_pod(self.cluster, self.options, self.ours).await {
                        return Err(NotUp::step_down(because));
                    }
                }
                () = sleep_until(deadline) => {
                    return Err(NotUp::step_down(format!(
                        "the gateway pod was not ready within {} s: it was waiting for {waits_for}",
                        PATIENCE.as_secs()
                    )));
                }
            }
        }
    }

    /// One attempt to connect to the gateway, after a pause. What it runs over is told with it.
    async fn try_once(
        &self,
        seen: Seen,
        way: Way,
        pause: Duration,
    ) -> Result<(Connection, String), ConnectError> {
        sleep(pause).await;
        let approach: Arc<dyn Approach> = match &way {
            Way::Proxy => Arc::new(ApiProxy::new(self.cluster.clone(), &seen.pod)),
            Way::Forward { .. } => Arc::new(OneForward::new(Arc::clone(self.forward), seen.gateway.clone())),
        };
        let named = format!("ws://{}.{}:{}", seen.pod.name, seen.pod.namespace, manifest::PORT);
        let named = named.parse().map_err(|error| ConnectError::Setup {
            message: format!("{named}: {error}"),
        })?;
        let token = TokenSource::Fixed(self.ours.token.clone());
        let mut gateway = GatewayProvider::new(named, token, self.options.session.clone());
        gateway.approach = Some(approach);
        gateway.carriage = Carriage::Raw;
        gateway.connect_timeout = ATTEMPT;
        gateway.push = Some(Arc::new(Pushed::new(
            self.options.environment.clone(),
            self.feed.clone(),
        )));
        let wanted = Wanted {
            generation: self.wanted.generation,
            environment: None,
        };
        let connected = gateway.connect(wanted.clone()).await;
        let connection = match connected {
            // Something in front of the API server may know no switch but that to WebSocket.
            Err(ConnectError::NotAGateway { .. }) if seen.running_since.is_some() => {
                gateway.carriage = Carriage::WebSocket;
                gateway.connect(wanted).await?
            }
            connected => connected?,
        };
        let over = gateway.status().over.unwrap_or_default();
        Ok((connection, over))
    }

    async fn up(&self, seen: &Seen, connection: Connection, over: &str, way: &Way) -> Result<Up, NotUp> {
        create::keep(self.cluster, self.options, self.ours).await?;
        let Some(link) = connection.link.clone() else {
            return Err(NotUp::step_down("the gateway's connection has no link"));
        };
        let over = match way {
            Way::Proxy => format!("one {over} through the API server"),
            Way::Forward { because } => format!("one port-forward, because {because}"),
        };
        let road = PodRoad::new(
            connection,
            link.clone(),
            road::Watched {
                cluster: self.cluster.clone(),
                pod: seen.pod.clone(),
            },
        );
        Ok(Up {
            road,
            link,
            way: format!("gateway pod {} in {}", seen.pod.name, seen.pod.namespace),
            over,
        })
    }

    /// Why the gateway is not reached through the API server.
    async fn why_not_proxied(&self, error: &ConnectError) -> String {
        let namespace = &self.options.namespace;
        if matches!(error, ConnectError::CredentialRefused { .. })
            && create::may_get(self.cluster, namespace, "proxy").await == Some(false)
        {
            let forbidden = crate::Forbidden {
                who: crate::Who::You,
                verb: "get".to_owned(),
                resource: "pods/proxy".to_owned(),
                namespace: Some(namespace.clone()),
            };
            return forbidden.to_string();
        }
        format!("the API server does not get through to the pod: {error}")
    }
}

/// Whether another attempt by the same way would most likely fail as well.
fn is_hopeless(error: &ConnectError, seen: &Seen) -> bool {
    match error {
        ConnectError::CredentialRefused { .. } => true,
        _ => seen.running_since.is_some_and(|since| since.elapsed() >= GRACE),
    }
}

fn pause(seen: &Seen) -> Duration {
    if seen.running_since.is_some() || seen.since.elapsed() < GRACE {
        SOON
    } else {
        LATER
    }
}

fn forbids_watching(error: &watcher::Error) -> Option<String> {
    let (watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error)) = error else {
        return None;
    };
    match error {
        kube::Error::Api(status) if status.code == 403 => Some(status.message.clone()),
        _ => None,
    }
}
