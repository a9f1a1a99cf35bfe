use std::fmt;
use std::sync::Arc;

use rustls::ClientConfig;

/// A client's TLS configuration that was made elsewhere, from settings that [`Trust`](crate::Trust) does not know: those of a
/// kubeconfig. It is for links over WebSocket.
#[derive(Clone)]
pub struct Prepared {
    config: Arc<ClientConfig>,
    server_name: Option<String>,
}

impl Prepared {
    /// Uses `config`, and checks the server's certificate for `server_name` instead of the host that is connected to, if there is one.
    #[must_use]
    pub fn new(config: impl Into<Arc<ClientConfig>>, server_name: Option<String>) -> Prepared {
        Prepared {
            config: config.into(),
            server_name,
        }
    }

    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    pub(crate) fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared")
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}
