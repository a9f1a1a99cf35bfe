use async_trait::async_trait;
use devbox_provider::ConnectError;
use tunnel_bridge::ws::ConnectOptions;

/// How requests get to a gateway that is behind something else: a server that passes them on and has its own idea of who may ask.
///
/// It is asked anew at each connect and each time a link is taken up again, as credentials expire.
#[async_trait]
pub trait Approach: Send + Sync + 'static {
    /// A request for `path` of the gateway, with the headers, the TLS settings and the proxies of this moment. What the gateway itself is
    /// to know is added to it.
    ///
    /// # Errors
    /// Why there is none. When a link is to be taken up again, it is asked again after a pause, whatever the error is.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the attempt.
    async fn request(&self, path: &str, subprotocol: &str) -> Result<ConnectOptions, ConnectError>;

    /// What is connected to, and passes the request on: where nothing answers, it is this that is away, and not the gateway.
    /// Unless overridden, nothing that has a name.
    fn passes_through(&self) -> Option<String> {
        None
    }
}
