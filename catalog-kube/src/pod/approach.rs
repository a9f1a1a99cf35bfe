//! The ways to a gateway pod.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use devbox_gateway_client::Approach;
use devbox_provider::{ConnectError, with_causes};
use tokio::time::Instant;
use tunnel_bridge::ByteStream;
use tunnel_bridge::ws::{ConnectOptions, Underlay};

use crate::pod::manifest;
use crate::road::{Endpoint, PodRef, Road};
use crate::{Cluster, Error};

/// How long one attempt at a port-forward may wait for the API server: whoever connects tries again.
const ATTEMPT: Duration = Duration::from_secs(3);

/// Through the API server's proxy subresource, with the user's credential of the moment.
pub(crate) struct ApiProxy {
    cluster: Cluster,
    prefix: String,
}

impl ApiProxy {
    pub(crate) fn new(cluster: Cluster, pod: &PodRef) -> Self {
        let PodRef { namespace, name } = pod;
        Self {
            cluster,
            prefix: format!(
                "/api/v1/namespaces/{namespace}/pods/{name}:{}/proxy",
                manifest::PORT
            ),
        }
    }
}

#[async_trait]
impl Approach for ApiProxy {
    async fn request(&self, path: &str, subprotocol: &str) -> Result<ConnectOptions, ConnectError> {
        let path = format!("{}{path}", self.prefix);
        let switch = self.cluster.switch(&path, subprotocol).await;
        switch.map_err(|error| match error {
            Error::Unauthorized { cluster, message } => ConnectError::CredentialRefused {
                far_side: cluster,
                file: None,
                message,
            },
            error => ConnectError::Setup {
                message: with_causes(&error),
            },
        })
    }

    fn passes_through(&self) -> Option<String> {
        Some(self.cluster.api_server())
    }
}

/// Through a port-forward to the pod, a new one for each connection.
pub(crate) struct OneForward {
    forward: Arc<dyn Road>,
    gateway: Endpoint,
}

impl OneForward {
    pub(crate) fn new(forward: Arc<dyn Road>, gateway: Endpoint) -> Self {
        Self { forward, gateway }
    }
}

#[async_trait]
impl Approach for OneForward {
    async fn request(&self, path: &str, subprotocol: &str) -> Result<ConnectOptions, ConnectError> {
        let url = format!("ws://devbox-gateway:{}{path}", manifest::PORT);
        let url = url.parse().map_err(|error| ConnectError::Setup {
            message: format!("{url}: {error}"),
        })?;
        let mut options = ConnectOptions::new(url, subprotocol);
        options.underlay = Some(Arc::new(Forwarded {
            forward: Arc::clone(&self.forward),
            gateway: self.gateway.clone(),
        }));
        Ok(options)
    }
}

struct Forwarded {
    forward: Arc<dyn Road>,
    gateway: Endpoint,
}

impl fmt::Debug for Forwarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Forwarded").field(&self.gateway).finish()
    }
}

#[async_trait]
impl Underlay for Forwarded {
    async fn connect(&self) -> io::Result<Box<dyn ByteStream>> {
        let opened = self.forward.open(&self.gateway, Instant::now() + ATTEMPT).await;
        opened.map_err(|refusal| io::Error::other(refusal.to_string()))
    }
}
