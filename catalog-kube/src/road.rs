use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use async_trait::async_trait;
use service_catalog::Protocol;
use tokio::time::Instant;
use tunnel_bridge::{ByteStream, DatagramFlow, Refusal, RefusalKind};

/// One place where a port of a service answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Endpoint {
    /// Where it listens, as seen inside the cluster.
    pub(crate) host: Host,
    /// The port number there, which is not always the service's.
    pub(crate) port: NonZeroU16,
    /// What is spoken.
    pub(crate) protocol: Protocol,
    /// The pod, where it is one.
    pub(crate) pod: Option<PodRef>,
}

/// Where an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Host {
    Address(IpAddr),
    /// Resolved by whoever dials it: what an `ExternalName` stands for.
    Name(Arc<str>),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(address) => write!(f, "{}", std::net::SocketAddr::new(*address, self.port.get())),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PodRef {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
}

/// A way to an endpoint that was chosen: one rung of the ladder.
#[async_trait]
pub(crate) trait Road: Send + Sync + 'static {
    /// Opens a stream to the endpoint. May return before the far side has connected: a refusal then arrives as an error of the first
    /// read or write, as [`tunnel_bridge::Dialer::dial`] has it.
    ///
    /// # Errors
    /// The refusal, at the deadline at the latest. Another endpoint is tried where nothing was sent yet.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the attempt.
    async fn open(&self, endpoint: &Endpoint, deadline: Instant) -> Result<Box<dyn ByteStream>, Refusal>;

    /// Opens a flow of datagrams. Unless overridden, datagrams are refused.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    async fn open_datagrams(
        &self,
        endpoint: &Endpoint,
        _deadline: Instant,
    ) -> Result<Box<dyn DatagramFlow>, Refusal> {
        Err(Refusal::new(
            RefusalKind::Unsupported,
            format!("{endpoint}: datagrams are not carried here"),
        ))
    }

    /// Whether [`Road::open_datagrams`] may succeed at all.
    fn carries_datagrams(&self) -> bool {
        false
    }
}
