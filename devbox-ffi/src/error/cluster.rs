//! What keeps a Kubernetes cluster from being used.

use std::time::Duration;

use super::shown;

/// What keeps a Kubernetes cluster from being used.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Enum)]
pub enum ClusterFailure {
    /// The kubeconfig cannot be used.
    Kubeconfig {
        /// The file, where one was named.
        file: Option<String>,
    },
    /// There is neither a kubeconfig nor a cluster around this process.
    NoCluster {
        /// Where a kubeconfig was looked for.
        looked_at: Vec<String>,
    },
    /// The kubeconfig has no current context, and none was asked for.
    NoContext {
        /// Those that it has.
        known: Vec<String>,
    },
    /// The kubeconfig has no such context.
    UnknownContext {
        /// What was asked for.
        context: String,
        /// The one that was most likely meant.
        similar: Option<String>,
        /// Those that it has.
        known: Vec<String>,
    },
    /// None of the namespaces that were asked for is there.
    UnknownNamespaces {
        /// The cluster.
        cluster: String,
        /// What was asked for.
        namespaces: Vec<String>,
    },
    /// The user may not do this.
    Forbidden {
        /// `get`, `list`, `watch`, `create`.
        verb: String,
        /// The resource in the plural, with its subresource: `pods/portforward`.
        resource: String,
        /// The namespace; none for the whole cluster.
        namespace: Option<String>,
    },
    /// The credential is not accepted, or could not be had.
    Unauthorized {
        /// The cluster.
        cluster: String,
    },
    /// The API server answered with something else than what was asked for.
    Api {
        /// The cluster.
        cluster: String,
        /// The HTTP status.
        code: u16,
    },
    /// The API server did not answer, or the answer is no answer of one.
    Unreachable {
        /// The cluster.
        cluster: String,
    },
    /// The API server did not answer in time.
    TimedOut {
        /// The cluster.
        cluster: String,
        /// How long was waited.
        after: Duration,
    },
    /// Something that these bindings have no case for.
    Other,
}

impl From<catalog_kube::Error> for ClusterFailure {
    fn from(error: catalog_kube::Error) -> Self {
        match error {
            catalog_kube::Error::Kubeconfig { path, .. } => Self::Kubeconfig {
                file: path.map(|path| shown(&path)),
            },
            catalog_kube::Error::NoCluster { looked_at } => Self::NoCluster {
                looked_at: looked_at.iter().map(|path| shown(path)).collect(),
            },
            catalog_kube::Error::NoContext { known } => Self::NoContext { known },
            catalog_kube::Error::UnknownContext {
                context,
                similar,
                known,
            } => Self::UnknownContext {
                context,
                similar,
                known,
            },
            catalog_kube::Error::UnknownNamespaces { cluster, unknown } => Self::UnknownNamespaces {
                cluster,
                namespaces: unknown.into_iter().map(|namespace| namespace.name).collect(),
            },
            catalog_kube::Error::Forbidden(forbidden) => Self::Forbidden {
                verb: forbidden.verb,
                resource: forbidden.resource,
                namespace: forbidden.namespace,
            },
            catalog_kube::Error::Unauthorized { cluster, .. } => Self::Unauthorized { cluster },
            catalog_kube::Error::Api { cluster, code, .. } => Self::Api { cluster, code },
            catalog_kube::Error::Unreachable { cluster, .. } => Self::Unreachable { cluster },
            catalog_kube::Error::Silent { cluster, after } => Self::TimedOut { cluster, after },
            _ => Self::Other,
        }
    }
}
