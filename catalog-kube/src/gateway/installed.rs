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

    /// Goes to the first of these replicas that lets the client in: through the API server, or over one port-forward.
    pub(crate) async fn to_replicas(
        &self,
        replicas: Vec<Replica>,
        forward: &Arc<dyn Road>,
        wanted: &Wanted,
    ) -> Result<In, ConnectError> {
        let mut last = None;
        for replica in replicas {
            match self.to_replica(&replica, forward, wanted).await {
                Ok(up) => return Ok(up),
                Err(
                    error @ (ConnectError::Unreachable { .. }
                    | ConnectError::TimedOut { .. }
                    | ConnectError::NotAGateway { .. }
                    | ConnectError::Unavailable { .. }),
                ) => {
                    tracing::debug!(%error, pod = %replica.pod.name, "another replica is tried");
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| ConnectError::Unavailable {
            far_side: self.cluster.name().to_owned(),
            message: "the gateway has no pod that is ready".to_owned(),
        }))
    }

    async fn to_replica(
        &self,
        replica: &Replica,
        forward: &Arc<dyn Road>,
        wanted: &Wanted,
    ) -> Result<In, ConnectError> {
        let PodRef { namespace, name } = &replica.pod;
        let named = format!("ws://{name}.{namespace}:{PORT}");
        let named: Url = named.parse().map_err(|error| ConnectError::Setup {
            message: format!("{named}: {error}"),
        })?;
        let mut gateway = self.provider(named);
        gateway.connect_timeout = ATTEMPT;
        let proxied: Arc<dyn Approach> = Arc::new(ApiProxy::new(self.cluster.clone(), &replica.pod));
        gateway.approach = Some(proxied);
        let (connected, why_forward) = match gateway.connect(wanted.clone()).await {
            Ok(connection) => (connection, None),
            Err(error @ ConnectError::CredentialRefused { .. }) => {
                // It may be the API server's answer, and not the gateway's.
                if may_get(self.cluster, namespace, "proxy").await != Some(false) {
                    return Err(error);
                }
                let forbidden = |resource: &str| crate::Forbidden {
                    who: crate::Who::You,
                    verb: "get".to_owned(),
                    resource: resource.to_owned(),
                    namespace: Some(namespace.to_string()),
                };
                if may_get(self.cluster, namespace, "portforward").await == Some(false) {
                    let neither = forbidden("pods/proxy or pods/portforward");
                    let message = format!(
                        "{neither}, so there is no way to the gateway; `devbox rbac --via gateway` prints what is needed"
                    );
                    return Err(ConnectError::Setup { message });
                }
                let forbidden = forbidden("pods/proxy");
                let forwarded = OneForward::new(Arc::clone(forward), replica.endpoint.clone());
                gateway.approach = Some(Arc::new(forwarded));
                (gateway.connect(wanted.clone()).await?, Some(forbidden))
            }
            Err(error) => return Err(error),
        };
        let over = gateway.status().over.unwrap_or_default();
        let over = match why_forward {
            None => format!("one {over} through the API server"),
            Some(forbidden) => format!("one port-forward, because {forbidden}"),
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
