use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use service_catalog::{Label, Source};
use tunnel_bridge::{Dialer, Link};

use crate::{ConnectError, Status};

/// A kind of far side, and everything that is needed to get into one of them.
///
/// One value serves a whole session: [`connect`](Provider::connect) is called again after each loss of the link. A
/// session's calls never overlap; those of a gateway that gives one provider to several clients do.
#[async_trait]
pub trait Provider: Send + Sync + 'static {
    /// Connects.
    ///
    /// # Errors
    /// [`ConnectError`]; the session decides by its [`verdict`](ConnectError::verdict) whether to try again.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the attempt.
    async fn connect(&self, wanted: Wanted) -> Result<Connection, ConnectError>;

    /// How the far side is reached at the moment. Never waits.
    fn status(&self) -> Status;
}

/// What a connect asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Grows with each connect of one session, so that a far side can tell a connection that was replaced from the one
    /// that replaced it.
    pub generation: u64,
    /// The environment; `None` takes the one that the far side serves.
    pub environment: Option<Label>,
}

type Saying = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What is said to a far side when it is let go of. Dropping it says nothing.
#[derive(Default)]
pub struct Goodbye(Option<Box<dyn FnOnce() -> Saying + Send>>);

impl Goodbye {
    /// Says it. A courtesy: a far side notices a closed socket as well. Put a deadline on it.
    ///
    /// # Cancel safety
    /// Safe: the far side is let go of either way.
    pub async fn say(self) {
        if let Some(say) = self.0 {
            say().await;
        }
    }
}

impl fmt::Debug for Goodbye {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Goodbye(..)")
    }
}

/// A far side that answered.
///
/// Dropping it lets go of the far side without a goodbye. Streams that were dialed over it live on for as long as the
/// far side keeps them: a link that is draining finishes what it carries.
pub struct Connection {
    /// What exists there. An error from it means that nothing new can be dialed over this connection.
    pub source: Box<dyn Source>,
    /// How to reach it.
    pub dialer: Arc<dyn Dialer>,
    /// What is said when it is let go of.
    pub goodbye: Goodbye,
    /// The link under it, where there is one: it is asked whether it still carries anything when the network has changed, and while it
    /// is interrupted nothing new is dialed.
    pub link: Option<Link>,
}

impl Connection {
    /// A connection that needs no goodbye.
    pub fn new(source: impl Source + 'static, dialer: Arc<dyn Dialer>) -> Self {
        Self {
            source: Box::new(source),
            dialer,
            goodbye: Goodbye::default(),
            link: None,
        }
    }

    /// Names the link that it runs over.
    #[must_use]
    pub fn over(mut self, link: Link) -> Self {
        self.link = Some(link);
        self
    }

    /// Says what the far side hears when it is let go of.
    #[must_use]
    pub fn on_close<F, G>(mut self, goodbye: G) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
        G: FnOnce() -> F + Send + 'static,
    {
        self.goodbye = Goodbye(Some(Box::new(|| Box::pin(goodbye()))));
        self
    }

    /// Lets go of it with a [`Goodbye`].
    ///
    /// # Cancel safety
    /// Safe: the connection is gone either way.
    pub async fn close(self) {
        drop(self.source);
        drop(self.dialer);
        drop(self.link);
        self.goodbye.say().await;
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use service_catalog::{SourceError, Update};
    use tunnel_bridge::direct::TcpDialer;

    use super::*;

    struct Silent;

    #[async_trait]
    impl Source for Silent {
        async fn next(&mut self) -> Result<Update, SourceError> {
            std::future::pending().await
        }
    }

    #[tokio::test]
    async fn the_goodbye_is_said_on_close_and_not_on_drop() {
        for close in [false, true] {
            let said = Arc::new(AtomicBool::new(false));
            let ours = Arc::clone(&said);
            let connection = Connection::new(Silent, Arc::new(TcpDialer::default()))
                .on_close(move || async move { ours.store(true, Ordering::Relaxed) });
            if close {
                connection.close().await;
            } else {
                drop(connection);
            }
            assert_eq!(said.load(Ordering::Relaxed), close);
        }
    }
}
