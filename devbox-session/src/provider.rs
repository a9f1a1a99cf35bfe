//! The far side as the session knows it: a [`Source`] of services and a [`Dialer`] to them, and a way to get both.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use service_catalog::Source;
use thiserror::Error;
use tunnel_bridge::Dialer;

/// A kind of far side. A new one is one module that implements this.
pub trait Provider: Send + 'static {
    /// Connects. `generation` counts up with each connect of one session, so that a far side can tell a connection
    /// that was replaced from the one that replaced it.
    ///
    /// # Errors
    ///
    /// [`ConnectFailure`]; the session decides by its variant whether to try again.
    fn connect(&mut self, generation: u64) -> BoxFuture<'static, Result<FarSide, ConnectFailure>>;
}

/// A far side that answered.
pub struct FarSide {
    /// What exists there. An error from it means that the whole far side is gone.
    pub source: Box<dyn Source>,
    /// How to reach it.
    pub dialer: Arc<dyn Dialer>,
    /// Dropped or fired to let go of it.
    pub close: Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>,
}

/// Why a far side did not answer. The text goes to the user.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConnectFailure {
    /// Nobody answered there.
    #[error("{gateway} is not reachable: {reason}")]
    Unreachable {
        /// The far side.
        gateway: String,
        /// What the system says.
        reason: String,
    },
    /// Nobody answered in time.
    #[error("{gateway} did not answer within {} s", after.as_secs())]
    TimedOut {
        /// The far side.
        gateway: String,
        /// How long was waited.
        after: Duration,
    },
    /// The token is not accepted.
    #[error("{gateway} refused the token{}: {message}", .file.as_ref().map_or_else(String::new, |file| format!(" in {}", file.display())))]
    TokenRefused {
        /// The far side.
        gateway: String,
        /// The file that it was read from, if it was.
        file: Option<PathBuf>,
        /// Its words.
        message: String,
    },
    /// Something on this side, a file for one, keeps it from connecting.
    #[error("{message}")]
    Setup {
        /// What, and why.
        message: String,
    },
    /// The far side's certificate is not accepted.
    #[error("{gateway}: its certificate is not accepted: {message}")]
    Certificate {
        /// The far side.
        gateway: String,
        /// What is wrong with it.
        message: String,
    },
    /// The environment is not served there.
    #[error("{gateway}: {message}")]
    UnknownEnvironment {
        /// The far side.
        gateway: String,
        /// Its words.
        message: String,
    },
    /// What answers there is no gateway, or none that this version can talk to.
    #[error("{gateway} is not a devbox gateway: {message}")]
    NotAGateway {
        /// The far side.
        gateway: String,
        /// What was seen.
        message: String,
    },
}

impl ConnectFailure {
    /// Whether another try cannot help.
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::Unreachable { .. } | Self::TimedOut { .. })
    }
}
