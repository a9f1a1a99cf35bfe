use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use catalog_file::{DialPolicy, LiveCatalog};
use devbox_gateway_client::Token;
use devbox_provider::Provider;
use service_catalog::Label;

use tunnel_bridge::tls::PeerIdentity;

use crate::Grant;

/// Decides who comes in, and what each client sees and reaches.
///
/// Asked once for each connection, for several at a time. What a gateway does after that (one connection per session,
/// the newest; the limit on clients) is its own business.
///
/// ```
/// use std::sync::Arc;
///
/// use async_trait::async_trait;
/// use catalog_file::{LiveCatalog, StaticCatalog};
/// use devbox_gateway::{Admission, Offer, Rejection, View};
///
/// /// Each of two teams has a catalog of its own.
/// struct Teams {
///     red: LiveCatalog,
///     blue: LiveCatalog,
/// }
///
/// #[async_trait]
/// impl Admission for Teams {
///     async fn admit(&self, offer: &Offer) -> Result<View, Rejection> {
///         match offer.token.as_ref().map(|token| token.expose()) {
///             Some("red") => Ok(View::of(Arc::new(self.red.clone()))),
///             Some("blue") => Ok(View::of(Arc::new(self.blue.clone()))),
///             _ => Err(Rejection::token("neither red nor blue")),
///         }
///     }
/// }
/// ```
#[async_trait]
pub trait Admission: Send + Sync + 'static {
    /// Decides on a client's offer.
    ///
    /// # Errors
    /// [`Rejection`]: what the client is told instead.
    ///
    /// # Cancel safety
    /// Dropping the future turns the client away.
    async fn admit(&self, offer: &Offer) -> Result<View, Rejection>;
}

/// What a client asks for before it is let in.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Offer {
    /// Where it connects from. Behind a proxy that is the proxy.
    pub peer: SocketAddr,
    /// The session's name.
    pub session: String,
    /// The token it shows, if any.
    pub token: Option<Token>,
    /// The environment it wants, if it named one: one line of visible ASCII, otherwise unchecked.
    pub environment: Option<String>,
    /// What it wants of what there is, unchecked.
    pub scope: Option<String>,
    /// The connection's generation; the larger one of a session wins.
    pub generation: u64,
    /// The client's certificate, if it showed one: issued by an authority of
    /// [`TlsFiles::client_ca`](crate::TlsFiles::client_ca).
    pub certificate: Option<PeerIdentity>,
}

impl Offer {
    /// An offer without token and environment, for tests of an [`Admission`].
    #[must_use]
    pub fn new(peer: SocketAddr, session: impl Into<String>) -> Self {
        Self {
            peer,
            session: session.into(),
            token: None,
            environment: None,
            scope: None,
            generation: 0,
            certificate: None,
        }
    }
}

/// What one client is given: its services, and the way to them.
#[derive(Clone)]
pub struct View {
    pub(crate) provider: Arc<dyn Provider>,
    /// Where the client's own catalog goes, if it brings one.
    pub(crate) pushed: Option<LiveCatalog>,
    pub(crate) grant: Option<Grant>,
    /// Whose sessions' names these are.
    pub(crate) user: Option<String>,
}

impl View {
    /// What `provider` has. It is connected to once for the client, and once more for each further catalog stream that
    /// the client opens. The same provider may be given to many clients, if its connects may overlap.
    ///
    /// The gateway checks that the provider's environment is the one that the client wants.
    #[must_use]
    pub fn of(provider: Arc<dyn Provider>) -> Self {
        Self {
            provider,
            pushed: None,
            grant: None,
            user: None,
        }
    }

    /// What the client itself pushes: it sees and reaches its own catalog and nothing else, within `policy`.
    #[must_use]
    pub fn pushed_by_client(policy: DialPolicy) -> Self {
        let live = LiveCatalog::awaited()
            .dialing(policy)
            .shown_as("the client's own catalog");
        Self {
            provider: Arc::new(live.clone()),
            pushed: Some(live),
            grant: None,
            user: None,
        }
    }

    /// Says which token gave the client this view: its environments are kept to, and the session ends when it is
    /// revoked.
    #[must_use]
    pub fn granted_by(self, grant: Grant) -> Self {
        Self {
            grant: Some(grant),
            ..self
        }
    }

    /// Says who the client is. Sessions of different users are different ones, also where they have the same name: neither displaces the
    /// other, nor takes its link up.
    #[must_use]
    pub fn for_user(self, name: impl Into<String>) -> Self {
        Self {
            user: Some(name.into()),
            ..self
        }
    }

    /// A session of this view, told from those of other users.
    pub(crate) fn session(&self, name: &str) -> String {
        match &self.user {
            // No session's name holds such a byte.
            Some(user) => format!("{name}\0{user}"),
            None => name.to_owned(),
        }
    }

    pub(crate) fn check_environment(&self, environment: Option<&Label>) -> Result<(), Rejection> {
        match &self.grant {
            Some(grant) => grant.check_environment(environment),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View")
            .field("far_side", &self.provider.status().far_side)
            .field("pushed", &self.pushed.is_some())
            .field("grant", &self.grant)
            .field("user", &self.user)
            .finish()
    }
}

/// Why a client is not let in: an HTTP status, and a line for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// 401 and 403: the token. 404: the environment. 409: a newer generation is connected. 503: try again later.
    pub status: u16,
    /// One line.
    pub message: String,
}

impl Rejection {
    /// The token is missing or wrong.
    #[must_use]
    pub fn token(message: impl Into<String>) -> Self {
        Self::with(401, message)
    }

    /// The token is known, and does not give what is asked for.
    #[must_use]
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::with(403, message)
    }

    /// There is no such environment here.
    #[must_use]
    pub fn unknown_environment(message: impl Into<String>) -> Self {
        Self::with(404, message)
    }

    /// There is no link here that could be taken up again.
    pub(crate) fn no_link() -> Self {
        Self::with(404, "this session has no link here that could go on")
    }

    /// A newer connection of the session is up: this one must not come back.
    #[must_use]
    pub fn superseded(message: impl Into<String>) -> Self {
        Self::with(409, message)
    }

    /// Not now: the client tries again.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::with(503, message)
    }

    fn with(status: u16, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }
}
