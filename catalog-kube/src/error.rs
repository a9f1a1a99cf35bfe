use std::fmt;
use std::path::PathBuf;

/// Why something that was asked of a cluster did not come about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kubeconfig cannot be used.
    #[error("{}{source}", .path.as_ref().map_or_else(String::new, |path| format!("{}: ", path.display())))]
    Kubeconfig {
        /// The file, where one was named.
        path: Option<PathBuf>,
        /// What is wrong with it.
        source: Box<kube::config::KubeconfigError>,
    },
    /// There is neither a kubeconfig nor a cluster around this process.
    #[error(
        "there is no kubeconfig ($KUBECONFIG, ~/.kube/config) and this process does not run in a cluster"
    )]
    NoCluster {
        /// What the kubeconfig lacks.
        source: Box<kube::config::InferConfigError>,
    },
    /// The user may not do this.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// The credential is not accepted, or could not be had.
    #[error("{cluster} does not accept the credential: {message}")]
    Unauthorized {
        /// The cluster.
        cluster: String,
        /// What it said, or what kept the credential from being had.
        message: String,
    },
    /// The API server answered with something else than what was asked for.
    #[error("{cluster}: {message}")]
    Api {
        /// The cluster.
        cluster: String,
        /// The HTTP status.
        code: u16,
        /// What it said.
        message: String,
    },
    /// The API server did not answer, or the answer is no answer of one.
    #[error("{cluster} is not reachable")]
    Unreachable {
        /// The cluster.
        cluster: String,
        /// What happened.
        source: Box<kube::Error>,
    },
}

/// What a user may not do (RBAC), as far as the API server says.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub struct Forbidden {
    /// `get`, `list`, `watch`, `create`.
    pub verb: String,
    /// The resource in the plural, with its subresource: `pods/portforward`.
    pub resource: String,
    /// The namespace; `None` for the whole cluster.
    pub namespace: Option<String>,
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            verb,
            resource,
            namespace,
        } = self;
        match namespace {
            Some(namespace) => write!(f, "you may not {verb} {resource} in the namespace {namespace}"),
            None => write!(f, "you may not {verb} {resource} in the whole cluster"),
        }
    }
}
