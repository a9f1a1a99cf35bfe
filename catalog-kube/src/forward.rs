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
//! * **The end of the target at once.** The runtime waits half a second for our direction before it passes the target's end on.
//! * **Resets.** A reset of the local program reaches the target as an end; one of the target arrives as a reset.
//! * **The moment of connecting.** Nothing says that the target was reached, so a stream counts as connected from its first byte on.
//!   A refusal comes as an error of its first reads, and never behind a byte of the target.
//! * **Resuming.** A lost connection to the API server resets the connections over it, which is one.

mod channels;
mod refusal;
mod reserve;
mod stream;

use std::time::Duration;

use async_trait::async_trait;
use service_catalog::Protocol;
use tokio::time::{Instant, sleep};
use tunnel_bridge::ws::{self, ConnectError, ConnectOptions, MessageStream};
use tunnel_bridge::{ByteStream, Refusal, RefusalKind};

use crate::Cluster;
use crate::road::{Endpoint, Road};
use refusal::Place;
use reserve::Reserve;
use stream::ForwardStream;

/// The protocol that each port-forward speaks.
const SUBPROTOCOL: &str = "v4.channel.k8s.io";

/// How long a new connection waits for an API server that does not answer.
const API_SERVER_TIME: Duration = Duration::from_secs(10);

/// The pauses between two attempts to reach it: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Port-forwards to the pods of a cluster.
#[derive(Debug)]
pub(crate) struct Forward {
    cluster: Cluster,
    reserve: Reserve,
}

impl Forward {
    /// Begins to keep connections to the API server ready: at most a few, for a short while after each use.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub(crate) fn new(cluster: Cluster) -> Forward {
        Forward {
            reserve: Reserve::start(cluster.clone()),
            cluster,
        }
    }

    async fn connect(&self, options: &ConnectOptions) -> Result<MessageStream, ConnectError> {
        if let Some(standby) = self.reserve.take().await {
            match standby.messages(options).await {
                // It may have been closed just before.
                Err(ConnectError::Unreachable { .. }) => {}
                connected => return connected,
            }
        }
        let deadline = Instant::now() + API_SERVER_TIME;
        let mut pause = FIRST_PAUSE;
        loop {
            match ws::messages(options).await {
                Err(ConnectError::Unreachable { address, source }) if Instant::now() + pause < deadline => {
                    tracing::debug!(%address, error = %source, "the API server is not there");
                    sleep(pause).await;
                    pause = (2 * pause).min(LONGEST_PAUSE);
                }
                connected => return connected,
            }
        }
    }
}

#[async_trait]
impl Road for Forward {
    async fn open(&self, endpoint: &Endpoint) -> Result<Box<dyn ByteStream>, Refusal> {
        let unsupported = |why: &str| {
            let text = format!("{}:{}: {why}", endpoint.address, endpoint.port);
            Refusal::new(RefusalKind::Unsupported, text)
        };
        if endpoint.protocol != Protocol::Tcp {
            return Err(unsupported("a port-forward carries TCP only"));
        }
        let Some(pod) = &endpoint.pod else {
            return Err(unsupported("a port-forward reaches pods only"));
        };
        let place = Place {
            pod: pod.clone(),
            port: endpoint.port,
        };
        let path = place.path();
        let options =
            self.cluster.switch(&path, SUBPROTOCOL).await.map_err(|error| {
                Refusal::new(RefusalKind::NotAllowed, devbox_provider::with_causes(&error))
            })?;
        let messages = self
            .connect(&options)
            .await
            .map_err(|error| place.not_opened(&error))?;
        Ok(Box::new(ForwardStream::new(messages, place)))
    }
}
