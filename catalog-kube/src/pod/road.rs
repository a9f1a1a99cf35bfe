//! Connections through a gateway pod.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use devbox_provider::{Connection, with_causes};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use service_catalog::{Catalog, Source, SourceError, Target, Update};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};
use tunnel_bridge::{ByteStream, DatagramFlow, Dialer, GoAwayReason, Link, LinkEnd, Refusal, RefusalKind};

use super::pushed;
use super::standing::{Standing, standing};
use crate::Cluster;
use crate::road::{Endpoint, PodRef, Road};

/// How long a connection waits until the gateway knows its endpoint, which is being told to it.
const TELLING: Duration = Duration::from_secs(2);

/// How often a pod is looked at whose link has lost its connection.
const STILL_THERE: Duration = Duration::from_secs(1);

/// The mux to a gateway pod as a way to endpoints.
pub(crate) struct PodRoad {
    dialer: Arc<dyn Dialer>,
    /// What the gateway says it has been told.
    known: watch::Receiver<Option<Catalog>>,
    _tasks: JoinSet<()>,
}

/// The pod at the far end.
pub(crate) struct Watched {
    pub(crate) cluster: Cluster,
    pub(crate) pod: PodRef,
}

impl PodRoad {
    /// Takes a connection to a gateway over.
    pub(crate) fn new(connection: Connection, link: Link, watched: Watched) -> Self {
        let Connection { source, dialer, .. } = connection;
        let (told, known) = watch::channel(None);
        let mut tasks = JoinSet::new();
        tasks.spawn(follow(source, told, link.clone()));
        tasks.spawn(watch_over(link, watched));
        Self {
            dialer,
            known,
            _tasks: tasks,
        }
    }

    async fn asked_for(
        &self,
        endpoint: &Endpoint,
        deadline: Instant,
    ) -> Result<tunnel_bridge::Target, Refusal> {
        let internal =
            |error: &dyn std::error::Error| Refusal::new(RefusalKind::Internal, with_causes(error));
        let target = pushed::target(endpoint).map_err(|error| internal(&error))?;
        self.wait_until_known(&target, endpoint, deadline).await?;
        tunnel_bridge::Target::new(&target.to_string()).map_err(|error| internal(&error))
    }

    async fn wait_until_known(
        &self,
        target: &Target,
        endpoint: &Endpoint,
        deadline: Instant,
    ) -> Result<(), Refusal> {
        let has = |known: &Option<Catalog>| known.as_ref().is_some_and(|known| known.port(target).is_some());
        if has(&self.known.borrow()) {
            return Ok(());
        }
        let mut known = self.known.clone();
        let deadline = deadline.min(Instant::now() + TELLING);
        match timeout_at(deadline, known.wait_for(has)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Refusal::new(RefusalKind::LinkLost, "the gateway pod is gone")),
            Err(_) => {
                let message = format!("{endpoint}: the gateway pod has not been told of it");
                Err(Refusal::new(RefusalKind::Unreachable, message))
            }
        }
    }
}

#[async_trait]
impl Road for PodRoad {
    async fn open(&self, endpoint: &Endpoint, deadline: Instant) -> Result<Box<dyn ByteStream>, Refusal> {
        let target = self.asked_for(endpoint, deadline).await?;
        self.dialer.dial(&target).await
    }

    async fn open_datagrams(
        &self,
        endpoint: &Endpoint,
        deadline: Instant,
    ) -> Result<Box<dyn DatagramFlow>, Refusal> {
        let target = self.asked_for(endpoint, deadline).await?;
        self.dialer.dial_datagrams(&target).await
    }

    fn carries_datagrams(&self) -> bool {
        true
    }
}

/// Keeps up with what the gateway says it knows. A gateway that leaves, or lost its client's place, is let go of.
async fn follow(mut source: Box<dyn Source>, told: watch::Sender<Option<Catalog>>, link: Link) {
    let error = loop {
        match source.next().await {
            Ok(Update::Health(health)) => tracing::debug!(?health, "the gateway pod's catalog"),
            Ok(update) => told.send_modify(|known| match (known, update) {
                (known, Update::Snapshot(catalog)) => *known = Some(catalog),
                (Some(known), update) => known.apply(&update),
                (None, _) => {}
            }),
            Err(error) => break error,
        }
    };
    tracing::debug!(error = %with_causes(&error), "the gateway pod's catalog ended");
    link.shutdown().await;
}

/// Ends a link that cannot be taken up again, as its pod is gone: its streams are reset at once, and not when the time for taking it up is over.
pub(crate) async fn watch_over(link: Link, watched: Watched) {
    let pods: Api<Pod> = Api::namespaced(watched.cluster.client().clone(), &watched.pod.namespace);
    let named = ListParams::default().fields(&format!("metadata.name={}", watched.pod.name));
    let mut status = link.watch_status();
    loop {
        if status.wait_for(|status| !status.is_up()).await.is_err() {
            return;
        }
        match pods.list(&named).await {
            Ok(found) => {
                let there = found.items.first().map(standing);
                if !matches!(there, Some(Standing::Reachable { .. } | Standing::Waits { .. })) {
                    return link.close(GoAwayReason::Leaving, "the gateway pod is gone").await;
                }
            }
            Err(error) => {
                tracing::debug!(error = %with_causes(&error), "whether the gateway pod is there is not known");
            }
        }
        sleep(STILL_THERE).await;
    }
}

/// A source that ends with a link.
pub(crate) struct Tied<S> {
    source: S,
    link: Link,
}

impl<S: Source> Tied<S> {
    pub(crate) fn new(source: S, link: Link) -> Self {
        Self { source, link }
    }
}

#[async_trait]
impl<S: Source> Source for Tied<S> {
    async fn next(&mut self) -> Result<Update, SourceError> {
        tokio::select! {
            biased;
            end = self.link.closed() => Err(match end {
                LinkEnd::Superseded { message } => SourceError::Superseded { message },
                end => SourceError::lost(end),
            }),
            update = self.source.next() => update,
        }
    }
}
