use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use devbox_provider::{ConnectError, Connection, Provider, Status, Wanted, with_causes};
use service_catalog::{CATALOG_STREAM, Label, Source as _, SourceError, Update};
use tokio::sync::watch;
use tracing::info;
use tunnel_bridge::dial::{Carriage, Proxies, ProxyError, SocksReply};
use tunnel_bridge::ws::{self, ConnectOptions, Connected, Protocol, Response};
use tunnel_bridge::{Carrier, Link, LinkOptions, Refusal, RefusalKind, Role, Target, Trust, quic, resume};
use url::Url;

use crate::handshake::{ENVIRONMENT, GENERATION, MESSAGE, SUBPROTOCOL, TOKEN, TUNNEL_PATH, is_session};
use crate::push::{self, PushError};
use crate::redial::{Again, Watched};
use crate::source::GatewaySource;
use crate::{Approach, Error, Token, successor};

/// Where the token comes from.
#[derive(Debug, Clone)]
pub enum TokenSource {
    /// A file that holds the token and nothing else. It is read at each connect, so that a rotated token is used at
    /// the next one.
    File(PathBuf),
    /// A token in memory.
    Fixed(Token),
    /// Tokens that somebody else gives out, and that expire: asked for at each connect.
    Issued(Arc<dyn TokenIssuer>),
}

/// Gives out tokens.
#[async_trait]
pub trait TokenIssuer: fmt::Debug + Send + Sync + 'static {
    /// A token that is good at this moment.
    ///
    /// # Errors
    /// Why there is none.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the request.
    async fn token(&self) -> Result<Token, ConnectError>;
}

/// A devbox gateway as a provider: one link carries its catalog and every connection.
///
/// ```no_run
/// use devbox_gateway_client::{GatewayProvider, TokenSource};
/// use devbox_provider::{Provider as _, Wanted};
/// use service_catalog::Update;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let token = TokenSource::File("/run/secrets/devbox-token".into());
/// let gateway = GatewayProvider::new("wss://gateway.example".parse()?, token, "laptop-1");
/// let mut connection = gateway.connect(Wanted::default()).await?;
/// if let Update::Snapshot(catalog) = connection.source.next().await? {
///     println!("{} has {} services", catalog.environment, catalog.services.len());
/// }
/// connection.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct GatewayProvider {
    /// `ws://host:port`, `wss://host:port` or `quic://host:port`; its path is where the gateway is mounted.
    pub gateway: Url,
    /// The bearer token.
    pub token: TokenSource,
    /// How requests get there, in place of [`gateway`](Self::gateway)'s address, [`trust`](Self::trust) and [`proxies`](Self::proxies).
    /// `Authorization` then belongs to what is on the way, and the token goes in [`handshake::TOKEN`](crate::handshake::TOKEN). A
    /// successor that the gateway names is not taken. Default: none.
    pub approach: Option<Arc<dyn Approach>>,
    /// The session's name: a new connection of the same session takes the former one's place.
    pub session: String,
    /// Whom to trust, and which certificate to show.
    pub trust: Trust,
    /// The proxies to go through. Default: none.
    pub proxies: Proxies,
    /// What may carry the link. Default: what the gateway and everything on the way takes.
    pub carriage: Carriage,
    /// Further headers of the request, as a proxy in front of the gateway may ask for. Their values are never shown.
    pub headers: Vec<(String, String)>,
    /// How long one connect may take, the first catalog included. Default: 10 s.
    pub connect_timeout: Duration,
    /// Whose catalog to give to the gateway at each connect, for gateways that take one from each client. Each port's
    /// [`target`](service_catalog::Port::target) is what the gateway dials: `host:port`. Changes are pushed as well.
    pub push: Option<Arc<dyn Provider>>,
    /// Whether a link whose connection is lost goes on over another one, where the gateway offers that: its streams wait meanwhile, and
    /// are whole. Otherwise they are reset. Default: `true`.
    pub resume: bool,
    /// How many streams a link may have, and the like.
    pub limits: LinkOptions,
    /// Where the gateway said that its clients should go as it left; for the next connect.
    successor: watch::Sender<Option<Url>>,
    /// Where the connect that began last goes.
    there: watch::Sender<Option<Url>>,
    /// What the connect that began last waits for.
    progress: watch::Sender<Option<ws::Progress>>,
    /// What the link that was made last runs over.
    over: watch::Sender<Option<String>>,
    memory: watch::Sender<Memory>,
}

/// What earlier connects have shown about the raw protocol, so that no reconnect finds it out again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Memory {
    /// Nothing against it.
    #[default]
    Clear,
    /// A connection was switched to it, and nothing has come over it yet. A connect that begins in this state follows one
    /// that stalled or was lost there, as behind a proxy that takes every switch for WebSocket.
    Unproven,
    /// It does not get through: WebSocket is asked for, until that fails as well.
    DoesNotPass,
}

impl GatewayProvider {
    /// A gateway with the defaults.
    #[must_use]
    pub fn new(gateway: Url, token: TokenSource, session: impl Into<String>) -> Self {
        Self {
            gateway,
            token,
            approach: None,
            session: session.into(),
            trust: Trust::default(),
            proxies: Proxies::none(),
            carriage: Carriage::default(),
            headers: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            push: None,
            resume: true,
            limits: LinkOptions::default(),
            successor: watch::Sender::new(None),
            there: watch::Sender::new(None),
            progress: watch::Sender::new(None),
            over: watch::Sender::new(None),
            memory: watch::Sender::default(),
        }
    }

    /// The gateway's URL, without a password.
    fn far_side(&self) -> String {
        without_password(self.gateway.clone())
    }

    async fn read_token(&self) -> Result<Token, ConnectError> {
        match &self.token {
            TokenSource::Fixed(token) => Ok(token.clone()),
            TokenSource::Issued(issuer) => issuer.token().await,
            TokenSource::File(path) => {
                let (path, shown) = (path.clone(), path.clone());
                // The file may be on a network file system.
                let read = tokio::task::spawn_blocking(move || Token::read(path)).await;
                let read = read.unwrap_or_else(|error| {
                    Err(Error::ReadToken {
                        path: shown,
                        source: std::io::Error::other(error),
                    })
                });
                read.map_err(|error| ConnectError::Setup {
                    message: with_causes(&error),
                })
            }
        }
    }

    pub(crate) async fn options(&self, wanted: &Wanted) -> Result<ConnectOptions, ConnectError> {
        let setup = |message: String| ConnectError::Setup { message };
        if !is_session(&self.session) {
            return Err(setup(format!(
                "`{}` is not a session's name: 1 to 128 letters, digits, '-', '.', '_' or '~'",
                self.session.escape_debug()
            )));
        }
        let token = self.read_token().await?;
        let path = format!("{TUNNEL_PATH}{}", self.session);
        let options = match &self.approach {
            None => {
                let mut url = self.gateway.clone();
                let mounted = url.path().trim_end_matches('/').to_owned();
                url.set_path(&format!("{mounted}{path}"));
                let mut options = ConnectOptions::new(url, SUBPROTOCOL)
                    .secret_header("Authorization", &format!("Bearer {}", token.expose()));
                options.trust = self.trust.clone();
                options.proxies = self.proxies.clone();
                options
            }
            Some(approach) => {
                let options = approach.request(&path, SUBPROTOCOL).await?;
                options.secret_header(TOKEN, token.expose())
            }
        };
        let mut options = options.header(GENERATION, &wanted.generation.to_string());
        if let Some(environment) = &wanted.environment {
            options = options.header(ENVIRONMENT, environment.as_str());
        }
        // This provider has a deadline of its own, which knows what was waited for.
        options.connect_timeout = 2 * self.connect_timeout;
        options.offer_timeout = self.connect_timeout.mul_f32(0.4);
        options.carriage = self.carriage_of_this_connect();
        options.answer_header = Some(MESSAGE.to_owned());
        for (name, value) in &self.headers {
            options = options.secret_header(name, value);
        }
        options.progress = Some(self.progress.clone());
        Ok(options)
    }

    /// A raw connection was made for a link, and the link did not go on over it: WebSocket is asked for next.
    pub(crate) fn handle_raw_stall(&self) {
        self.memory.send_replace(Memory::DoesNotPass);
    }

    /// No connection could be made. Perhaps the way there is another one by now.
    pub(crate) fn forget_the_way(&self) {
        self.memory.send_replace(Memory::Clear);
    }

    fn carriage_of_this_connect(&self) -> Carriage {
        // Read before it is written: the guard of a match would live as long as its arms.
        let memory = *self.memory.borrow();
        match (self.carriage, memory) {
            (Carriage::Auto, Memory::Unproven | Memory::DoesNotPass) => {
                self.memory.send_replace(Memory::DoesNotPass);
                Carriage::WebSocket
            }
            (carriage, _) => carriage,
        }
    }

    /// Notes what a link runs over from here on.
    pub(crate) fn show(&self, connected: &Connected) {
        let through = connected.proxy.as_ref().map(|proxy| format!(" through {proxy}"));
        let over = format!("{}{}", connected.protocol, through.unwrap_or_default());
        self.over.send_replace(Some(over));
    }

    /// A new connection to the gateway. Notes what passes on the way there.
    async fn carrier(&self, wanted: &Wanted) -> Result<Box<dyn Carrier>, ConnectError> {
        let options = self.options(wanted).await?;
        let connected = match ws::establish(&options).await {
            Ok(connected) => connected,
            Err(error) => {
                self.forget_the_way();
                return Err(self.not_connected(error));
            }
        };
        if self.carriage == Carriage::Auto {
            if let Some(why) = &connected.fell_back {
                info!(%why, "something on the way to the gateway lets only WebSocket pass");
                self.memory.send_replace(Memory::DoesNotPass);
            } else if connected.protocol == Protocol::Raw {
                self.memory.send_replace(Memory::Unproven);
            }
        }
        self.show(&connected);
        Ok(connected.carrier)
    }

    /// A link, which lives on without this value.
    async fn link(&self, wanted: &Wanted) -> Result<Link, ConnectError> {
        if self.gateway.scheme() == "quic" {
            let options = self.options(wanted).await?;
            let mut behaviour = quic::Options::default();
            behaviour.link = self.limits.clone();
            let connected = quic::connect_with(&options, &behaviour).await;
            let link = connected.map_err(|error| self.not_connected(error))?;
            self.over.send_replace(Some("QUIC".to_owned()));
            return Ok(link);
        }
        let carrier = self.carrier(wanted).await?;
        if !self.resume {
            return Ok(Link::over_with(carrier, Role::Client, &self.limits));
        }
        let (again, watched) = Again::new(self.clone(), wanted.clone());
        let mut options = resume::Options::default();
        options.link = self.limits.clone();
        let link = Link::resumable(carrier, again, options);
        drop(watched.set(Watched {
            status: link.watch_status(),
            leaving: link.watch_leaving(),
        }));
        Ok(link)
    }

    async fn connect_in_any_time(&self, wanted: &Wanted) -> Result<Connection, ConnectError> {
        let link = self.link(wanted).await?;
        let pushing = match &self.push {
            None => None,
            Some(own) => {
                let pushed = push::push(&link, own, wanted).await;
                Some(pushed.map_err(|error| self.not_pushed(error))?)
            }
        };
        let target = Target::new(CATALOG_STREAM).map_err(|error| ConnectError::Setup {
            message: with_causes(&error),
        })?;
        let mut stream = link
            .open(&target)
            .await
            .map_err(|refusal| self.no_catalog_stream(&refusal))?;
        let accepted = stream.accepted().await;
        if !matches!(&accepted, Err(refusal) if refusal.kind == RefusalKind::LinkLost) {
            self.memory.send_if_modified(|memory| {
                let proven = *memory == Memory::Unproven;
                if proven {
                    *memory = Memory::Clear;
                }
                proven
            });
        }
        accepted.map_err(|refusal| self.no_catalog_stream(&refusal))?;
        let mut source = GatewaySource::new(stream, link.clone(), pushing, self.successors());
        // A gateway that lets a client in and says nothing has not answered.
        let first = source.next().await.map_err(|error| self.no_catalog(&error))?;
        self.check_environment(&first, wanted.environment.as_ref())?;
        source.put_back(first);
        let dialer = link.dialer();
        Ok(Connection::new(source, dialer)
            .over(link.clone())
            .on_close(move || close(link)))
    }

    /// What learns where this gateway sends its clients.
    fn successors(&self) -> impl Fn(&str) + Send + Sync + use<> {
        let (gateway, successor) = (self.gateway.clone(), self.successor.clone());
        // QUIC would pass by what was set on purpose. What the environment names has exceptions, and knows the variable.
        let proxy = self
            .proxies
            .choose(true, gateway.host_str().unwrap_or_default(), 443);
        let tcp_only =
            self.carriage != Carriage::Auto || matches!(proxy, Ok(Some(proxy)) if proxy.named_by().is_none());
        let approached = self.approach.is_some();
        move |named| match successor::allowed(&gateway, named) {
            Ok(url) if approached => {
                let reason = "this gateway is behind something else, and so may that one be";
                tracing::warn!(%url, reason, "the gateway's successor is not taken");
            }
            Ok(url) if tcp_only && url.scheme() == "quic" => {
                let reason = "QUIC goes neither through the proxy nor over the carrier that is set";
                tracing::warn!(%url, reason, "the gateway's successor is not taken");
            }
            Ok(url) => {
                tracing::info!(%url, "the gateway names a successor");
                successor.send_replace(Some(url));
            }
            Err(reason) => tracing::warn!(named, reason, "the gateway's successor is not taken"),
        }
    }

    /// Before a stream to any service is opened: a gateway of another environment has services of the same names.
    fn check_environment(&self, first: &Update, wanted: Option<&Label>) -> Result<(), ConnectError> {
        let far_side = self.far_side();
        let Update::Snapshot(catalog) = first else {
            let message = "its catalog does not begin with a snapshot".to_owned();
            return Err(ConnectError::NotAGateway { far_side, message });
        };
        match wanted {
            Some(wanted) if *wanted != catalog.environment => {
                let served = &catalog.environment;
                let message = format!("the environment is `{served}`, not `{wanted}`");
                Err(ConnectError::UnknownEnvironment { far_side, message })
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn not_connected(&self, error: ws::ConnectError) -> ConnectError {
        let far_side = self.far_side();
        match error {
            ws::ConnectError::Unreachable { source, .. } => ConnectError::Unreachable {
                far_side: self
                    .approach
                    .as_ref()
                    .and_then(|approach| approach.passes_through())
                    .unwrap_or(far_side),
                reason: source.to_string(),
            },
            ws::ConnectError::Proxy(error) => match error {
                // The proxy's answer may be another one tomorrow; what has to be changed is ours.
                ProxyError::NeedsCredentials { .. } => ConnectError::Setup {
                    message: format!(
                        "{error}; give them in its URL, as in http://USER:PASSWORD@HOST:PORT, or connect without it \
                         (proxy: none)"
                    ),
                },
                ProxyError::NotAProxy { .. }
                | ProxyError::Refused {
                    status: 400..=499, ..
                }
                | ProxyError::Socks {
                    reply:
                        SocksReply::NotAllowed | SocksReply::CommandNotSupported | SocksReply::AddressNotSupported,
                    ..
                } => ConnectError::Setup {
                    message: format!("{far_side} cannot be reached: {error}"),
                },
                error => ConnectError::Unreachable {
                    far_side,
                    reason: with_causes(&error),
                },
            },
            ws::ConnectError::ClientCertificate { message, .. } => ConnectError::Setup {
                message: match &self.trust.identity {
                    Some(identity) => format!(
                        "{far_side} does not accept the certificate in {}: {message}",
                        identity.certificate.display()
                    ),
                    None => format!(
                        "{far_side} asks for a client certificate, and none is set (tls_cert, tls_key): {message}"
                    ),
                },
            },
            ws::ConnectError::TimedOut { after, .. } => ConnectError::TimedOut {
                far_side,
                after,
                waited_for: None,
            },
            ws::ConnectError::Rejected { response, .. } => self.rejected(&response),
            ws::ConnectError::NotAWebSocket { message, .. }
            | ws::ConnectError::NotATunnel { message, .. } => ConnectError::NotAGateway { far_side, message },
            ws::ConnectError::Certificate { message, .. } => ConnectError::Certificate { far_side, message },
            ws::ConnectError::Tls { message, .. } => ConnectError::NotAGateway {
                far_side,
                message: format!(
                    "the TLS handshake failed: {message}; a gateway without TLS has a URL that begins with ws://"
                ),
            },
            error => ConnectError::Setup {
                message: with_causes(&error),
            },
        }
    }

    fn rejected(&self, response: &Response) -> ConnectError {
        let far_side = self.far_side();
        let status = response.status;
        let said = response.header(MESSAGE);
        // Only a gateway's own 404 and 409 mean what the protocol says; a proxy has its own reasons for them.
        let ours = said.is_some();
        let message = said.unwrap_or(&response.text).to_owned();
        let with_status = |message: String| {
            if message.is_empty() {
                format!("it answered with status {status}")
            } else {
                format!("{message} (status {status})")
            }
        };
        match status {
            401 | 403 => {
                let file = match &self.token {
                    TokenSource::File(path) => Some(path.clone()),
                    TokenSource::Fixed(_) | TokenSource::Issued(_) => None,
                };
                let message = with_status(message);
                ConnectError::CredentialRefused {
                    far_side,
                    file,
                    message,
                }
            }
            404 if ours => ConnectError::UnknownEnvironment { far_side, message },
            409 if ours => ConnectError::Superseded { far_side, message },
            429 | 502 | 503 | 504 => ConnectError::Unavailable {
                far_side,
                message: with_status(message),
            },
            // Links are not followed: a token goes only where it was meant to go.
            300..=399 => {
                let to = response
                    .header("Location")
                    .unwrap_or("an address that it does not name");
                ConnectError::NotAGateway {
                    far_side,
                    message: format!("it redirects to {to} (status {status}), which is not followed"),
                }
            }
            _ => ConnectError::NotAGateway {
                far_side,
                message: with_status(message),
            },
        }
    }

    fn not_pushed(&self, error: PushError) -> ConnectError {
        match error {
            PushError::Own(error) => error,
            PushError::NotTaken { reason } => ConnectError::Setup {
                message: format!("{} does not take the catalog: {reason}", self.far_side()),
            },
            PushError::Source(error) => self.no_catalog(&error),
        }
    }

    fn no_catalog_stream(&self, refusal: &Refusal) -> ConnectError {
        let far_side = self.far_side();
        let reason = refusal.to_string();
        match refusal.kind {
            RefusalKind::LinkLost => ConnectError::Unreachable { far_side, reason },
            RefusalKind::NotAllowed | RefusalKind::NotFound | RefusalKind::Unsupported => {
                let message = format!("it has no catalog: {reason}");
                ConnectError::NotAGateway { far_side, message }
            }
            _ => ConnectError::Unavailable {
                far_side,
                message: reason,
            },
        }
    }

    fn no_catalog(&self, error: &SourceError) -> ConnectError {
        let far_side = self.far_side();
        match error {
            SourceError::Superseded { message } => ConnectError::Superseded {
                far_side,
                message: message.clone(),
            },
            SourceError::Leaving { .. } | SourceError::Ended => ConnectError::Unavailable {
                far_side,
                message: error.to_string(),
            },
            SourceError::Malformed { .. } => ConnectError::NotAGateway {
                far_side,
                message: with_causes(error),
            },
            error => ConnectError::Unreachable {
                far_side,
                reason: with_causes(error),
            },
        }
    }
}

fn without_password(mut url: Url) -> String {
    // Fails for URLs without a host, which have no password either.
    if url.set_password(None).is_err() {
        url.set_path("");
    }
    url.to_string()
}

async fn close(link: Link) {
    link.shutdown().await;
}

#[async_trait]
impl Provider for GatewayProvider {
    async fn connect(&self, wanted: Wanted) -> Result<Connection, ConnectError> {
        self.over.send_replace(None);
        let mut there = self.clone();
        // Once: if it is not there, the next try goes to the gateway that was configured.
        if let Some(successor) = self.successor.send_replace(None) {
            there.gateway = successor;
        }
        self.there.send_replace(Some(there.gateway.clone()));
        let connecting = there.connect_in_any_time(&wanted);
        let connected = tokio::time::timeout(self.connect_timeout, connecting).await;
        let waited_for = self.progress.send_replace(None);
        connected.unwrap_or_else(|_| {
            Err(ConnectError::TimedOut {
                far_side: there.far_side(),
                after: self.connect_timeout,
                waited_for: waited_for.map(|progress| progress.to_string()),
            })
        })
    }

    fn status(&self) -> Status {
        let there = self.there.borrow().clone();
        let far_side = without_password(there.unwrap_or_else(|| self.gateway.clone()));
        Status::new("gateway", far_side)
            .over(self.over.borrow().as_ref())
            .waiting_for(*self.progress.borrow())
    }
}

impl fmt::Debug for GatewayProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatewayProvider")
            .field("gateway", &self.far_side())
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}
