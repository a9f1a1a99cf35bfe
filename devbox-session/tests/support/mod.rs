//! What every session of these tests needs, and none is about.

use std::net::TcpListener;
use std::sync::Arc;

use async_trait::async_trait;
use devbox_helper_client::Endpoint;
use devbox_provider::Provider;
use devbox_session::sink::{PublishError, Registry};
use devbox_session::{BindFault, Forget, Handle, Host, Identity, Parts, ProviderSettings, Session, Settings};
use ipalloc::{Allocator, Pool};
use service_catalog::Label;

/// This machine's loopback, without a helper.
struct Loopback;

#[async_trait]
impl Host for Loopback {
    async fn claim(&self, _environment: Label) {}

    async fn unclaim(&self, _environment: Label) {}

    async fn bind(&self, endpoint: Endpoint) -> Result<TcpListener, BindFault> {
        tunnel_bridge::listener::bind(endpoint.socket_addr()).map_err(|error| BindFault::Other {
            endpoint,
            message: error.to_string(),
        })
    }

    async fn release(&self) -> Result<(), PublishError> {
        Ok(())
    }

    async fn lost(&self) {
        std::future::pending::<()>().await;
    }
}

/// A session with one provider, whose names are in a registry and whose addresses come from `pool`.
pub(crate) fn session_of(provider: impl Provider, pool: &str) -> (Session, Handle, Registry) {
    let names = Registry::default();
    let identity = Identity {
        session: "test".to_owned(),
        pid: std::process::id(),
        helper_pid: None,
        hosts_file: None,
        started_at: 0,
    };
    let settings = ProviderSettings {
        name: "test".to_owned(),
        environment: None,
    };
    let pool = Pool::new(pool.parse()).expect("the pool of a test is one");
    let parts = Parts {
        addresses: Allocator::new(pool),
        providers: vec![Arc::new(provider)],
        host: Arc::new(Loopback),
        sinks: vec![Arc::new(names.clone())],
        keeper: Box::new(Forget),
    };
    let (session, handle) = Session::new(Settings::new(identity, vec![settings], 1), parts);
    (session, handle, names)
}
