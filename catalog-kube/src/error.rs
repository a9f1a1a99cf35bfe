use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use kube::config::KubeconfigError;

use crate::access::UnknownNamespace;

/// Why something that was asked of a cluster did not come about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kubeconfig cannot be used.
    #[error("{}{}", .path.as_ref().map_or_else(String::new, |path| format!("{}: ", path.display())), unusable(.source))]
    Kubeconfig {
        /// The file, where one was named.
        path: Option<PathBuf>,
        /// What is wrong with it.
        source: Box<KubeconfigError>,
    },
    /// There is neither a kubeconfig nor a cluster around this process.
    #[error("there is no kubeconfig{}, and this process does not run in a cluster", named(.looked_at))]
    NoCluster {
        /// Where one was looked for.
        looked_at: Vec<PathBuf>,
    },
    /// The kubeconfig has no current context, and none was asked for.
    #[error("the kubeconfig has no current context{}", listed("; it has", .known))]
    NoContext {
        /// Those that it has.
        known: Vec<String>,
    },
    /// The kubeconfig has no such context.
    #[error("the kubeconfig has no context `{context}`{}", match .similar {
        Some(similar) => format!("; did you mean `{similar}`?"),
        None => listed("; it has", .known),
    })]
    UnknownContext {
        /// What was asked for.
        context: String,
        /// The one that was most likely meant.
        similar: Option<String>,
        /// Those that it has.
        known: Vec<String>,
    },
    /// None of the namespaces that were asked for is there.
    #[error("{cluster} has no namespace {}", .unknown.iter().map(ToString::to_string).collect::<Vec<_>>().join(", and no "))]
    UnknownNamespaces {
        /// The cluster.
        cluster: String,
        /// What was asked for.
        unknown: Vec<UnknownNamespace>,
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
    /// The API server did not answer in time.
    #[error("{cluster} did not answer within {} s", after.as_secs())]
    Silent {
        /// The cluster.
        cluster: String,
        /// How long was waited.
        after: Duration,
    },
}

/// What somebody may not do (RBAC), as far as the API server says.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub struct Forbidden {
    /// Who.
    pub who: Who,
    /// `get`, `list`, `watch`, `create`.
    pub verb: String,
    /// The resource in the plural, with its subresource: `pods/portforward`.
    pub resource: String,
    /// The namespace; `None` for the whole cluster.
    pub namespace: Option<String>,
}

/// Whose rights are in question.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Who {
    /// The user's, whom messages are for.
    #[default]
    You,
    /// Those of a gateway that is installed in the cluster.
    Gateway,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::You => "you",
            Self::Gateway => "the gateway",
        })
    }
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            who,
            verb,
            resource,
            namespace,
        } = self;
        match namespace {
            Some(namespace) => write!(f, "{who} may not {verb} {resource} in the namespace {namespace}"),
            None => write!(f, "{who} may not {verb} {resource} in the whole cluster"),
        }
    }
}

/// What is wrong with a kubeconfig, without its path.
fn unusable(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::ReadConfig(error, _) => error.to_string(),
        KubeconfigError::Parse(error) => format!("it is no kubeconfig: {error}"),
        error => error.to_string(),
    }
}

fn named(files: &[PathBuf]) -> String {
    let files: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
    if files.is_empty() {
        String::new()
    } else {
        format!(" ({})", files.join(", "))
    }
}

/// `; it has a, b and c`, cut after a few.
fn listed(begin: &str, known: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut shown: Vec<_> = known.iter().take(SHOWN).map(String::as_str).collect();
    if shown.is_empty() {
        return format!("{begin} none");
    }
    if known.len() > SHOWN {
        shown.push("…");
    }
    format!("{begin} {}", shown.join(", "))
}
