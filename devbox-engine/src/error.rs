use std::io;
use std::path::PathBuf;

use devbox_session::StopReason;
use devbox_session::control::AskError;
use url::Url;

/// Why something could not be started, planned or asked. What happens to a session once it runs is told by its events and
/// its [`StopReason`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration has no provider.
    #[error("no provider is configured")]
    NoProvider,
    /// Two providers have the same name.
    #[error("two providers are called `{name}`")]
    DuplicateProvider {
        /// The name.
        name: String,
    },
    /// No provider has this name.
    #[error("there is no provider `{name}`")]
    UnknownProvider {
        /// The name.
        name: String,
    },
    /// The URL of a gateway is not one of a gateway.
    #[error("`{url}` is not the address of a gateway")]
    GatewayUrl {
        /// What was given.
        url: Url,
    },
    /// The token would be readable on its way to another machine.
    #[error(
        "the token is not sent over {url}{}: {} could read it",
        .proxy.as_ref().map(|proxy| format!(" through {proxy}")).unwrap_or_default(),
        if .proxy.is_some() { "the proxy and anyone on the way" } else { "anyone on the way" },
    )]
    InsecureGateway {
        /// The gateway.
        url: Url,
        /// The proxy on another machine that it would go through, without credentials.
        proxy: Option<String>,
    },
    /// A setting means nothing to QUIC.
    #[error("`{setting}` is set, and means nothing to {url}: what carries QUIC is UDP alone")]
    NotOverQuic {
        /// The gateway.
        url: Url,
        /// The setting: `proxy` or `carrier`.
        setting: &'static str,
    },
    /// A gateway's token is missing or unusable.
    #[error(transparent)]
    Token(Box<dyn std::error::Error + Send + Sync>),
    /// A catalog file is missing or unusable; the place of a mistake is in the text.
    #[error(transparent)]
    Catalog(Box<dyn std::error::Error + Send + Sync>),
    /// A Kubernetes cluster cannot be used.
    #[cfg(feature = "kube")]
    #[error(transparent)]
    Kubernetes(Box<catalog_kube::Error>),
    /// This build has no support for a kind of provider.
    #[error("this program was built without support for providers of the kind `{kind}`")]
    NotBuiltIn {
        /// The kind, which is also the name of the crate's feature.
        kind: &'static str,
    },
    /// The pools are not usable, or the lock file contradicts them.
    #[error(transparent)]
    Addresses(#[from] ipalloc::Error),
    /// The hosts file is to be written, and there is no helper to do it.
    #[error("{file} cannot be written without a helper")]
    HelperNeeded {
        /// The hosts file.
        file: PathBuf,
    },
    /// The session's DNS server could not start.
    #[error("no DNS server")]
    Dns(#[from] nameserver::ServerError),
    /// The helper could not be started, or a request to it failed.
    #[error(transparent)]
    Helper(#[from] devbox_helper_client::Error),
    /// A hosts file could not be read.
    #[error("cannot read {file}")]
    ReadHosts {
        /// The hosts file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The contents of a hosts file could not be worked out.
    #[error(transparent)]
    Hosts(#[from] hostsfile::Error),
    /// A running session could not be asked.
    #[error("the session at {socket} cannot be asked")]
    Ask {
        /// Its control socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: AskError,
    },
    /// A running session has not ended in time.
    #[error("session {session} (pid {pid}) is still ending after {} s", after.as_secs())]
    StillEnding {
        /// The session's id.
        session: String,
        /// Its process.
        pid: u32,
        /// How long was waited.
        after: std::time::Duration,
    },
    /// The system's source of random numbers failed.
    #[error("no random numbers can be had from the system: {message}")]
    Random {
        /// What the system says.
        message: String,
    },
    /// The session ended before it was ready.
    #[error("{0}")]
    Stopped(StopReason),
    /// The session is on its way to its end.
    #[error("the session is ending")]
    Ending,
    /// The session ended without a reason: one of its tasks panicked, or its runtime was shut down.
    #[error("the session's task ended unexpectedly")]
    Crashed,
}
