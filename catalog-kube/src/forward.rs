//! Rung 0: each connection is a port-forward of its own, with the user's rights and nothing installed.
//!
//! `GET …/pods/NAME/portforward?ports=N` becomes a WebSocket with the subprotocol `v4.channel.k8s.io`. The API server copies its bytes to
//! the kubelet, that to the container runtime, and the runtime connects to `localhost:N` inside the pod.
//!
//! What a port-forward does not carry:
//!
//! * Anything but TCP, to anything but a pod.
//! * **Half-close.** The protocol has no message for the end of one direction, and the SPDY of `kubectl` fares no better: container
//!   runtimes end the whole connection half a second after either direction has ended. So when our side ends its direction,
//!   the target is not told, what it still sends is delivered, and the connection is closed once the local program has closed its
//!   own or nothing has come for 10 s. In the latter case the program sees a reset: an end that nobody has seen is never made up.
//! * **The end of the target at once.** The runtime waits for our direction before it passes the target's end on: it comes half a
//!   second to a second late.
//! * **Resets.** A reset of the local program reaches the target as an end; one of the target arrives as a reset.
//! * **The moment of connecting.** Nothing says that the target was reached, so a stream counts as connected from its first byte on.
//!   A refusal comes .5 to 7 ms behind the open stream, as an error of the first reads, and never behind a byte of the target.
//!   Until then what was sent is held, and another endpoint of the service gets it.
//! * **Resuming.** A lost connection to the API server resets the connections over it, which is one.

mod channels;
mod refusal;
mod reserve;
mod stream;

#[cfg(test)]
mod tests;

use std::io;
use std::num::NonZeroU16;
use std::time::Duration;

use async_trait::async_trait;
use service_catalog::Protocol;
use tokio::time::{Instant, sleep, timeout_at};
use tunnel_bridge::ws::{self, ConnectError, MessageStream};
use tunnel_bridge::{ByteStream, Refusal, RefusalKind};

use crate::Cluster;
use crate::dialer::PATIENCE;
use crate::road::{Endpoint, PodRef, Road};
use refusal::Place;
use reserve::Reserve;
use stream::ForwardStream;

/// The protocol that each port-forward speaks.
const SUBPROTOCOL: &str = "v4.channel.k8s.io";

/// The pauses between two attempts to reach it: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Port-forwards to the pods of a cluster.
///
/// ```no_run
/// use std::num::NonZeroU16;
///
/// use catalog_kube::forward::Forward;
/// use catalog_kube::{Cluster, ClusterOptions};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let cluster = Cluster::open(&ClusterOptions::default()).await?;
/// let forward = Forward::new(cluster);
/// let port = NonZeroU16::new(6379).ok_or("no port")?;
/// let mut stream = forward.open_pod("orders", "redis-0", port).await?;
/// stream.write_all(b"PING\r\n").await?;
/// stream.flush().await?;
/// let mut answer = [0; 7];
/// stream.read_exact(&mut answer).await?;
/// assert_eq!(&answer, b"+PONG\r\n");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Forward {
    cluster: Cluster,
    reserve: Reserve,
}

impl Forward {
    /// Begins to keep connections to the API server ready: at most a few, for a short while after each use.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    #[must_use]
    pub fn new(cluster: Cluster) -> Forward {
        Forward {
            reserve: Reserve::start(cluster.clone()),
            cluster,
        }
    }

    /// Opens a stream to a port of a pod. It returns before the port was connected to: a refusal arrives as an error of the stream's
    /// first reads or writes (see [`tunnel_bridge::refusal_of`]).
    ///
    /// # Errors
    /// [`RefusalKind::NotFound`] for a pod that is not there, [`RefusalKind::NotAllowed`] without the right to it,
    /// [`RefusalKind::Unreachable`] where the pod's node does not answer, [`RefusalKind::TimedOut`] where the API server does not
    /// for 10 s.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the attempt.
    pub async fn open_pod(
        &self,
        namespace: &str,
        name: &str,
        port: NonZeroU16,
    ) -> Result<Box<dyn ByteStream>, Refusal> {
        let pod = PodRef {
            namespace: namespace.into(),
            name: name.into(),
        };
        self.open_place(Place { pod, port }, Instant::now() + PATIENCE)
            .await
    }

    async fn open_place(&self, place: Place, deadline: Instant) -> Result<Box<dyn ByteStream>, Refusal> {
        let mut away = None;
        match timeout_at(deadline, self.connect(&place, &mut away)).await {
            Ok(Ok(messages)) => Ok(Box::new(ForwardStream::new(messages, place))),
            Ok(Err(refusal)) => Err(refusal),
            Err(_) => Err(match away {
                Some(why) => Refusal::new(
                    RefusalKind::TimedOut,
                    format!("{} is not reachable: {why}", self.cluster.api_server()),
                ),
                None => place.refuse(RefusalKind::TimedOut, "no answer"),
            }),
        }
    }

    /// A port-forward, as soon as the API server is there. `away` is why it was not, as long as it is not.
    async fn connect(&self, place: &Place, away: &mut Option<io::Error>) -> Result<MessageStream, Refusal> {
        let options = self
            .cluster
            .switch(&place.path(), SUBPROTOCOL)
            .await
            .map_err(|error| Refusal::new(RefusalKind::NotAllowed, devbox_provider::with_causes(&error)))?;
        if let Some(standby) = self.reserve.take().await {
            match standby.messages(&options).await {
                // It may have been closed just before.
                Err(ConnectError::Unreachable { .. }) => {}
                connected => return connected.map_err(|error| place.not_opened(&error)),
            }
        }
        let mut pause = FIRST_PAUSE;
        loop {
            match ws::messages(&options).await {
                Err(ConnectError::Unreachable { address, source }) => {
                    tracing::debug!(%address, error = %source, "the API server is not there");
                    *away = Some(source);
                    sleep(pause).await;
                    pause = (2 * pause).min(LONGEST_PAUSE);
                }
                connected => return connected.map_err(|error| place.not_opened(&error)),
            }
        }
    }
}

#[async_trait]
impl Road for Forward {
    async fn open(&self, endpoint: &Endpoint, deadline: Instant) -> Result<Box<dyn ByteStream>, Refusal> {
        let unsupported = |why: &str| {
            let text = format!("{endpoint}: {why}");
            Refusal::new(RefusalKind::Unsupported, text)
        };
        if endpoint.protocol != Protocol::Tcp {
            return Err(unsupported("a port-forward carries TCP only"));
        }
        let Some(pod) = &endpoint.pod else {
            return Err(unsupported("a port-forward reaches pods only"));
        };
        let (pod, port) = (pod.clone(), endpoint.port);
        self.open_place(Place { pod, port }, deadline).await
    }
}
