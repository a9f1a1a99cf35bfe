//! The way of a client to a gateway that is installed in the cluster, or to one at a URL.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use devbox_gateway_client::handshake::SCOPE;
use devbox_gateway_client::{Approach, GatewayProvider, TokenSource};
use devbox_provider::{ConnectError, Connection, Provider as _, Wanted, with_causes};
use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use service_catalog::{Protocol, Source, SourceError, Update};
use tokio::task::JoinSet;
use tunnel_bridge::Trust;
use url::{Host, Url};

use super::scope::Scope;
use crate::pod::approach::{ApiProxy, OneForward};
use crate::pod::standing::{Standing, standing};
use crate::pod::{PORT, Watched, may_get, watch_over};
use crate::road::{self, Endpoint, PodRef, Road};
use crate::{Cluster, KubeOptions};

/// What the pods of an installed gateway are found by.
pub(crate) const SELECTOR: &str = "devbox.dev/gateway=installed";

/// Where a gateway is looked for that serves more than one namespace.
pub(crate) const HOME: &str = "devbox";

/// How long one of several replicas may take to let the client in.
const ATTEMPT: Duration = Duration::from_secs(5);

/// A replica of an installed gateway.
#[derive(Debug, Clone)]
pub(crate) struct Replica {
    pub(crate) pod: PodRef,
    endpoint: Endpoint,
}

/// Why there is no gateway to go to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoGateway {
    #[error("no gateway is installed in {}{}", places.join(" or "), colon(unknown))]
    NotInstalled {
        places: Vec<String>,
        /// Where it is not known, and why.
        unknown: Vec<String>,
    },
    #[error("the gateway in {namespace} has no pod that is ready")]
    NotReady { namespace: String },
}

fn colon(reasons: &[String]) -> String {
    if reasons.is_empty() {
        String::new()
    } else {
        format!(", as far as can be seen: {}", reasons.join("; "))
    }
}

/// The replicas of an installed gateway that are ready: those in a namespace of the session's own come before those in [`HOME`]. The first
/// one is the same for a session as long as it is there.
pub(crate) async fn find(cluster: &Cluster, scope: &Scope, session: &str) -> Result<Vec<Replica>, NoGateway> {
    let own = scope.namespaces.iter().map(ToString::to_string);
    let mut places: Vec<String> = own.collect();
    if !places.iter().any(|place| place == HOME) {
        places.push(HOME.to_owned());
    }
    let labelled = ListParams::default().labels(SELECTOR);
    let lists = places.iter().map(|namespace| {
        let pods: Api<Pod> = Api::namespaced(cluster.client().clone(), namespace);
        let labelled = &labelled;
        async move { pods.list(labelled).await }
    });
    let mut unknown = Vec::new();
    for (namespace, found) in places.iter().zip(join_all(lists).await) {
        let pods = match found {
            Ok(found) => found.items,
            Err(error) => {
                let error = cluster.failed(error, "list", "pods", Some(namespace));
                unknown.push(with_causes(&error));
                continue;
            }
        };
        if pods.is_empty() {
            continue;
        }
        let mut ready: Vec<_> = pods
            .iter()
            .filter(|pod| is_ready(pod))
            .filter_map(replica)
            .collect();
        ready.sort_by_cached_key(|replica| rank(session, &replica.pod));
        if ready.is_empty() {
            let namespace = namespace.clone();
            return Err(NoGateway::NotReady { namespace });
        }
        return Ok(ready);
    }
    Err(NoGateway::NotInstalled { places, unknown })
}

/// Whether a session with these options finds a gateway.
pub(crate) async fn is_installed(cluster: &Cluster, options: &KubeOptions) -> bool {
    let namespaces = options.namespaces.iter().filter_map(|name| name.parse().ok());
    let scope = Scope::new(namespaces.collect(), options);
    find(cluster, &scope, "").await.is_ok()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref());
    let mut conditions = conditions.unwrap_or_default().iter();
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn replica(pod: &Pod) -> Option<Replica> {
    let Standing::Reachable { pod, address, .. } = standing(pod) else {
        return None;
    };
    Some(Replica {
        endpoint: Endpoint {
            host: road::Host::Address(address),
            port: PORT,
            protocol: Protocol::Tcp,
            pod: Some(pod.clone()),
        },
        pod,
    })
}

/// Spreads sessions over replicas, each in an order of its own (rendezvous hashing).
fn rank(session: &str, pod: &PodRef) -> u64 {
    let mut hasher = DefaultHasher::new();
    (session, pod).hash(&mut hasher);
    hasher.finish()
}

/// What every way to a gateway needs.
pub(crate) struct Client<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) session: &'a str,
    pub(crate) scope: &'a Scope,
    pub(crate) tokens: TokenSource,
    /// Of a gateway at a URL. The API server is trusted as the kubeconfig says.
    pub(crate) trust: &'a Trust,
}

/// How a replica is reached.
#[derive(Clone, Copy)]
enum Way<'a> {
    /// Through the API server's proxy subresource.
    Proxy,
    Forward {
        forward: &'a Arc<dyn Road>,
        because: &'a str,
    },
}

/// A gateway that let the client in.
pub(crate) struct In {
    pub(crate) connection: Connection,
    pub(crate) way: String,
    pub(crate) over: Option<String>,
}

impl Client<'_> {
    fn provider(&self, gateway: Url) -> GatewayProvider {
        let mut provider = GatewayProvider::new(gateway, self.tokens.clone(), self.session);
        provider.headers = vec![(SCOPE.to_owned(), self.scope.to_string())];
        provider
    }

    /// Goes to the first of these replicas that lets the client in: through the API server, or over one port-forward where the user may
    /// not or the API server does not get through to any of them.
    pub(crate) async fn to_replicas(
        &self,
        replicas: Vec<Replica>,
        forward: &Arc<dyn Road>,
        wanted: &Wanted,
    ) -> Result<In, ConnectError> {
        let mut last = None;
        for replica in &replicas {
            let (error, may_proxy) = match self.to_replica(replica, Way::Proxy, wanted).await {
                Ok(up) => return Ok(up),
                Err(error @ ConnectError::CredentialRefused { .. }) => {
                    // It may be the API server's answer, and not the gateway's.
                    let may_proxy = may_get(self.cluster, &replica.pod.namespace, "proxy").await;
                    (error, may_proxy != Some(false))
                }
                Err(error) => (error, true),
            };
            if !may_proxy {
                return self.without_the_right_to_proxy(&replicas, forward, wanted).await;
            }
            if !is_the_replicas(&error) {
                return Err(error);
            }
            tracing::debug!(%error, pod = %replica.pod.name, "another replica is tried");
            last = Some(error);
        }
        let error = last.unwrap_or_else(|| self.nobody());
        // An API server that does not answer opens no port-forward either.
        if matches!(error, ConnectError::Unreachable { .. }) {
            return Err(error);
        }
        let because = format!("the API server does not get through to the gateway: {error}");
        match self.over_a_forward(&replicas, forward, &because, wanted).await {
            // The better way's error says more.
            Err(other) if is_the_replicas(&other) => Err(error),
            done => done,
        }
    }

    async fn without_the_right_to_proxy(
        &self,
        replicas: &[Replica],
        forward: &Arc<dyn Road>,
        wanted: &Wanted,
    ) -> Result<In, ConnectError> {
        let Some(first) = replicas.first() else {
            return Err(self.nobody());
        };
        // All of them are in one namespace.
        let namespace = &first.pod.namespace;
        let forbidden = crate::Forbidden {
            who: crate::Who::You,
            verb: "get".to_owned(),
            resource: "pods/proxy".to_owned(),
            namespace: Some(namespace.to_string()),
        };
        if may_get(self.cluster, namespace, "portforward").await == Some(false) {
            let message = format!(
                "{forbidden}, nor pods/portforward there: there is no way to the gateway; \
                 `devbox rbac --via gateway` prints what is needed"
            );
            return Err(ConnectError::Setup { message });
        }
        self.over_a_forward(replicas, forward, &forbidden.to_string(), wanted)
            .await
    }

    async fn over_a_forward(
        &self,
        replicas: &[Replica],
        forward: &Arc<dyn Road>,
        because: &str,
        wanted: &Wanted,
    ) -> Result<In, ConnectError> {
        let mut last = None;
        for replica in replicas {
            match self
                .to_replica(replica, Way::Forward { forward, because }, wanted)
                .await
            {
                Err(error) if is_the_replicas(&error) => {
                    tracing::debug!(%error, pod = %replica.pod.name, "another replica is tried over a port-forward");
                    last = Some(error);
                }
                done => return done,
            }
        }
        Err(last.unwrap_or_else(|| self.nobody()))
    }

    fn nobody(&self) -> ConnectError {
        ConnectError::Unavailable {
            far_side: self.cluster.name().to_owned(),
            message: "the gateway has no pod that is ready".to_owned(),
        }
    }

    async fn to_replica(&self, replica: &Replica, way: Way<'_>, wanted: &Wanted) -> Result<In, ConnectError> {
        let PodRef { namespace, name } = &replica.pod;
        let named = format!("ws://{name}.{namespace}:{PORT}");
        let named: Url = named.parse().map_err(|error| ConnectError::Setup {
            message: format!("{named}: {error}"),
        })?;
        let mut gateway = self.provider(named);
        gateway.connect_timeout = ATTEMPT;
        gateway.approach = Some(match way {
            Way::Proxy => Arc::new(ApiProxy::new(self.cluster.clone(), &replica.pod)) as Arc<dyn Approach>,
            Way::Forward { forward, .. } => {
                Arc::new(OneForward::new(Arc::clone(forward), replica.endpoint.clone()))
            }
        });
        let connected = gateway.connect(wanted.clone()).await?;
        let over = gateway.status().over.unwrap_or_default();
        let over = match way {
            Way::Proxy => format!("one {over} through the API server"),
            Way::Forward { because, .. } => format!("one port-forward, because {because}"),
        };
        Ok(In {
            connection: self.watched(connected, &replica.pod),
            way: format!("gateway {name} in {namespace}"),
            over: Some(over),
        })
    }

    /// A connection that ends when the pod at its far end is gone, and not only when its link might no longer be taken up.
    fn watched(&self, connection: Connection, pod: &PodRef) -> Connection {
        let Connection {
            source,
            dialer,
            goodbye,
            link,
        } = connection;
        let mut watching = JoinSet::new();
        if let Some(link) = &link {
            let watched = Watched {
                cluster: self.cluster.clone(),
                pod: pod.clone(),
            };
            watching.spawn(watch_over(link.clone(), watched));
        }
        Connection {
            source: Box::new(Held {
                source,
                _watching: watching,
            }),
            dialer,
            goodbye,
            link,
        }
    }

    /// Goes to the gateway at a URL.
    pub(crate) async fn to_url(&self, url: &Url, wanted: &Wanted) -> Result<In, ConnectError> {
        check(url)?;
        let mut gateway = self.provider(url.clone());
        gateway.trust = self.trust.clone();
        let connection = gateway.connect(wanted.clone()).await?;
        Ok(In {
            connection,
            way: format!("gateway at {url}"),
            over: gateway.status().over,
        })
    }
}

/// Whether another replica, or another way to this one, may let the client in.
fn is_the_replicas(error: &ConnectError) -> bool {
    matches!(
        error,
        ConnectError::Unreachable { .. }
            | ConnectError::TimedOut { .. }
            | ConnectError::NotAGateway { .. }
            | ConnectError::Unavailable { .. }
    )
}

/// A token goes to another machine over TLS only.
fn check(url: &Url) -> Result<(), ConnectError> {
    let near = match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    if url.scheme() != "ws" || near {
        return Ok(());
    }
    Err(ConnectError::Setup {
        message: format!("{url}: a token would be sent to another machine in the clear; use wss://"),
    })
}

/// A source, and what goes on as long as it is there.
struct Held {
    source: Box<dyn Source>,
    _watching: JoinSet<()>,
}

#[async_trait]
impl Source for Held {
    async fn next(&mut self) -> Result<Update, SourceError> {
        self.source.next().await
    }
}

impl NoGateway {
    pub(crate) fn into_connect_error(self, cluster: &Cluster) -> ConnectError {
        match self {
            Self::NotInstalled { .. } => ConnectError::Setup {
                message: format!(
                    "{self}; `devbox gateway manifests | kubectl apply -f -` installs one in the namespace {HOME}"
                ),
            },
            Self::NotReady { .. } => ConnectError::Unavailable {
                far_side: cluster.name().to_owned(),
                message: self.to_string(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, ready: &str, deleted: bool) -> Pod {
        let mut pod = json!({
            "metadata": {"namespace": "devbox", "name": name},
            "status": {"phase": "Running", "podIP": "10.1.2.3", "conditions": [{"type": "Ready", "status": ready}]},
        });
        if deleted {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn a_replica_is_a_pod_that_is_ready_and_stays() {
        let usable = |pod: &Pod| is_ready(pod) && replica(pod).is_some();
        assert!(usable(&pod("a", "True", false)));
        assert!(!usable(&pod("a", "False", false)));
        assert!(!usable(&pod("a", "True", true)));
    }

    #[test]
    fn sessions_are_spread_and_each_keeps_its_order() {
        let pods = ["a", "b", "c"].map(|name| PodRef {
            namespace: "devbox".into(),
            name: name.into(),
        });
        let first = |session: &str| {
            let best = pods.iter().min_by_key(|pod| rank(session, pod)).unwrap();
            best.name.clone()
        };
        let sessions: Vec<_> = (0..300).map(|number| format!("laptop-{number}")).collect();
        for pod in &pods {
            let count = sessions
                .iter()
                .filter(|session| first(session) == pod.name)
                .count();
            assert!((50..150).contains(&count), "{count} of 300 at {}", pod.name);
        }
        assert_eq!(first("laptop-1"), first("laptop-1"));
    }

    #[test]
    fn a_token_goes_to_another_machine_over_tls_only() {
        for yes in [
            "wss://gateway.example",
            "quic://gateway.example",
            "ws://127.0.0.1:1",
            "ws://[::1]:1",
        ] {
            check(&yes.parse().unwrap()).unwrap();
        }
        for no in [
            "ws://gateway.example",
            "ws://10.1.2.3:7070",
            "ws://localhost.example",
        ] {
            check(&no.parse().unwrap()).unwrap_err();
        }
    }
}
