use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use devbox_provider::{ConnectError, Connection, Wanted, with_causes};
use service_catalog::{Label, Update};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug, error, info, info_span, warn};
use tunnel_bridge::resume::{Desk, DeskOptions, Received};
use tunnel_bridge::tls::Acceptor;
use tunnel_bridge::{Link, LinkOptions, Role, quic};

use crate::certificate::Certificate;
use crate::handshake::{NotLetIn, Way};
use crate::presence::Presence;
use crate::reception::{Known, Reception};
use crate::seat::{NoSeat, Seats};
use crate::serve_client::{Client, Stopping};
use crate::status::{self, Counts};
use crate::{Admission, Error, GatewayConfig, Grant, Limits, Offer, Rejection, Replicas, View};

/// How often what was counted is looked at, for the log.
const TICK: Duration = Duration::from_secs(1);

/// A gateway that listens.
///
/// ```
/// use std::sync::Arc;
///
/// use catalog_file::StaticCatalog;
/// use devbox_gateway::{Gateway, GatewayConfig, Token, TokenAdmission, TokenSource};
/// use tokio_util::sync::CancellationToken;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let catalog = catalog_file::LiveCatalog::new(StaticCatalog::new("dev".parse()?));
/// let token = TokenSource::Fixed(Token::new("not-a-secret")?);
/// let admission = TokenAdmission::open(token, Arc::new(catalog)).await?;
/// let gateway = Gateway::bind(GatewayConfig::new(admission, "127.0.0.1:0".parse()?)).await?;
/// println!("listening on {}", gateway.local_addr());
///
/// let cancel = CancellationToken::new();
/// cancel.cancel(); // where a program would wait for a signal
/// gateway.run(cancel).await?;
/// # Ok(())
/// # }
/// ```
pub struct Gateway {
    listener: TcpListener,
    address: SocketAddr,
    quic: Option<quic::Listener>,
    status: Option<(TcpListener, SocketAddr)>,
    certificate: Option<Certificate>,
    admission: Arc<dyn Admission>,
    resume: Option<DeskOptions>,
    successor: Option<String>,
    replicas: Option<Arc<dyn Replicas>>,
    exit_when_idle: Option<Duration>,
    limits: Limits,
}

impl Gateway {
    /// Reads the files for TLS and listens. Connections wait until [`run`](Self::run).
    ///
    /// # Errors
    /// [`Error::Tls`]; [`Error::InsecureListen`] for an address that is not loopback, without TLS and without
    /// [`insecure`](GatewayConfig::insecure); [`Error::QuicWithoutTls`]; [`Error::Listen`]; [`Error::ListenQuic`].
    ///
    /// # Cancel safety
    /// Safe: dropped, nothing is left.
    pub async fn bind(config: GatewayConfig) -> Result<Self, Error> {
        let address = config.listen;
        if config.tls.is_none() && !config.insecure && !address.ip().to_canonical().is_loopback() {
            return Err(Error::InsecureListen { address });
        }
        let certificate = match &config.tls {
            Some(files) => Some(Certificate::open(files).await?),
            None => None,
        };
        let quic = match (config.quic, &certificate) {
            (None, _) => None,
            (Some(address), None) => return Err(Error::QuicWithoutTls { address }),
            (Some(address), Some(certificate)) => {
                let acceptor = certificate.acceptor().borrow().clone();
                let mut options = quic::Options::default();
                options.link = link_options(&config.limits);
                let bound = quic::Listener::bind(address, &acceptor, options);
                Some(bound.map_err(|source| Error::ListenQuic { address, source })?)
            }
        };
        let listen = |source| Error::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let status = match config.status {
            None => None,
            Some(address) => {
                let listen = |source| Error::Listen { address, source };
                let listener = TcpListener::bind(address).await.map_err(listen)?;
                let address = listener.local_addr().map_err(listen)?;
                Some((listener, address))
            }
        };
        Ok(Self {
            listener,
            address,
            quic,
            status,
            certificate,
            admission: config.admission,
            resume: config.resume,
            successor: config.successor,
            replicas: config.replicas,
            exit_when_idle: config.exit_when_idle,
            limits: config.limits,
        })
    }

    /// Where it listens, with the port that the system chose.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens for QUIC, with the port that the system chose.
    #[must_use]
    pub fn quic_addr(&self) -> Option<SocketAddr> {
        self.quic.as_ref().map(quic::Listener::local_addr)
    }

    /// Where it answers about itself, with the port that the system chose.
    #[must_use]
    pub fn status_addr(&self) -> Option<SocketAddr> {
        self.status.as_ref().map(|(_, address)| *address)
    }

    /// Serves until `cancel`, or until nobody has been there for [`GatewayConfig::exit_when_idle`]: then it stops listening, tells each client that it is leaving, and lets live streams end
    /// for up to [`Limits::drain`].
    ///
    /// Each client has a task of its own, so a runtime with several threads serves clients in parallel.
    ///
    /// # Errors
    /// None is known once it listens; trouble with single connections is logged.
    ///
    /// # Cancel safety
    /// Dropping the future cuts every link at once; use `cancel` for a graceful shutdown.
    pub async fn run(self, cancel: CancellationToken) -> Result<(), Error> {
        let Self {
            listener,
            address,
            quic,
            status,
            certificate,
            admission,
            resume,
            successor,
            replicas,
            exit_when_idle,
            limits,
        } = self;
        // It may end for a reason of its own, which is not its owner's.
        let cancel = cancel.child_token();
        info!(%address, tls = certificate.is_some(), "listening");
        if let Some(quic) = &quic {
            info!(address = %quic.local_addr(), "listening for quic");
        }
        let acceptor = certificate.as_ref().map(Certificate::acceptor);
        let mut renewed = acceptor.clone();
        let mut following = JoinSet::new();
        if let Some(certificate) = certificate {
            following.spawn(certificate.follow());
        }
        let counts = Arc::new(Counts::default());
        if let Some((listener, _)) = status {
            following.spawn(status::serve(listener, Arc::clone(&counts), cancel.clone()));
        }
        let mut reception = Reception::new(acceptor, admission, &limits);
        let link = link_options(&limits);
        let desk = resume.map(|mut options| {
            options.link.max_streams = options.link.max_streams.max(link.max_streams);
            Desk::new(options)
        });
        let shared = Arc::new(Shared {
            seats: Seats::new(limits.max_clients, replicas),
            connecting: Semaphore::new(limits.max_half_open),
            desk,
            link,
            stopping: Stopping {
                begun: cancel.clone(),
                successor,
            },
            counts,
            limits,
        });
        let idle = idle(shared.counts.presence.clone(), exit_when_idle);
        tokio::pin!(idle);
        let mut connections = JoinSet::new();
        let mut accept_from = Instant::now();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                () = &mut idle => {
                    info!("nobody is connected any more");
                    cancel.cancel();
                    break;
                }
                Some(done) = connections.join_next(), if !connections.is_empty() => {
                    if note_panic(done) == Some(Served::NoRoom) {
                        reception.handle_full();
                    }
                }
                accepted = accept(&listener, accept_from) => match accepted {
                    Ok((stream, peer)) => reception.handle_arrival(stream, peer),
                    Err(error) => {
                        accept_from = Instant::now() + reception.handle_accept_error(&error);
                    }
                },
                arrival = arrival(quic.as_ref()) => reception.handle_quic_arrival(arrival),
                acceptor = renewal(renewed.as_mut()) => {
                    if let Some(quic) = &quic
                        && let Err(error) = quic.use_certificate(&acceptor)
                    {
                        warn!(error = %with_causes(&error), "certificate not usable for quic, the former one stays in use");
                    }
                }
                known = reception.next() => {
                    let span = info_span!("client", peer = %known.asked.offer.peer);
                    connections.spawn(shared.clone().serve(known).instrument(span));
                }
                _ = ticks.tick() => reception.handle_tick(),
            }
        }
        // Whoever has shown no token has nothing to lose.
        drop(reception);
        drop(listener);
        info!(clients = connections.len(), "leaving");
        let served = async {
            while let Some(done) = connections.join_next().await {
                note_panic(done);
            }
        };
        match &quic {
            None => served.await,
            Some(quic) => {
                tokio::select! {
                    () = served => {}
                    () = quic.refuse_newcomers() => {}
                }
                quic.close().await;
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// The limits of a client's link: beside connections there are the catalog's streams.
fn link_options(limits: &Limits) -> LinkOptions {
    let mut link = LinkOptions::default();
    let most = limits.max_streams_per_client.saturating_add(64);
    link.max_streams = u32::try_from(most).unwrap_or(u32::MAX);
    link
}

/// Waits for a client that begins a QUIC handshake.
async fn arrival(listener: Option<&quic::Listener>) -> quic::Arrival {
    if let Some(listener) = listener
        && let Some(arrival) = listener.accept().await
    {
        return arrival;
    }
    std::future::pending().await
}

/// Waits for another certificate.
async fn renewal(acceptor: Option<&mut watch::Receiver<Acceptor>>) -> Acceptor {
    if let Some(acceptor) = acceptor
        && acceptor.changed().await.is_ok()
    {
        return acceptor.borrow_and_update().clone();
    }
    std::future::pending().await
}

/// Waits until nobody has been connected for `limit`, if there is one.
async fn idle(presence: Presence, limit: Option<Duration>) {
    match limit {
        Some(limit) => presence.idle(limit).await,
        None => std::future::pending().await,
    }
}

/// Waits for a connection, no earlier than `from`. One that is gone before we look is no trouble.
async fn accept(listener: &TcpListener, from: Instant) -> io::Result<(TcpStream, SocketAddr)> {
    sleep_until(from).await;
    loop {
        match listener.accept().await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            accepted => return accepted,
        }
    }
}

/// What came of a client with a good token.
#[derive(Debug, PartialEq, Eq)]
enum Served {
    /// It was served, or turned away for a reason of its own.
    Over,
    /// There are as many clients as there may be.
    NoRoom,
}

struct Shared {
    seats: Arc<Seats>,
    /// Clients that are being connected to their providers.
    connecting: Semaphore,
    /// Where links are taken up again, if they are.
    desk: Option<Desk>,
    /// The limits of links.
    link: LinkOptions,
    limits: Limits,
    counts: Arc<Counts>,
    stopping: Stopping,
}

/// A client that was let in.
enum Admitted {
    /// Its link begins.
    New(Link, Box<Client>),
    /// Its link goes on, and is served already.
    Resumed,
}

impl Shared {
    async fn serve(self: Arc<Self>, known: Known) -> Served {
        let session = known.asked.offer.session.clone();
        let deadline = known.deadline;
        let admitted = tokio::select! {
            admitted = timeout_at(deadline, self.admit(known)) => admitted,
            () = self.stopping.begun.cancelled() => return Served::Over,
        };
        let (link, client) = match admitted {
            Ok(Ok(Admitted::New(link, client))) => (link, client),
            Ok(Ok(Admitted::Resumed)) => {
                debug!(%session, "its link goes on over this connection");
                self.counts.resumed.add();
                return Served::Over;
            }
            Ok(Err((error, served))) => {
                debug!(error = %with_causes(&error), "not let in");
                self.counts.turned_away.add();
                return served;
            }
            Err(_) => {
                debug!(after = ?self.limits.handshake_timeout, "not let in: out of time");
                return Served::Over;
            }
        };
        let token = client.view.grant.as_ref().and_then(Grant::name);
        let user = client.view.user.as_deref();
        let span = info_span!("session", id = %session, generation = client.wanted.generation, token, user);
        async {
            info!("connected");
            let present = self.counts.presence.enter();
            self.counts.sessions.add();
            client
                .serve(
                    link,
                    self.limits.clone(),
                    self.stopping.clone(),
                    present,
                    &self.counts,
                )
                .await;
        }
        .instrument(span)
        .await;
        Served::Over
    }

    async fn admit(&self, known: Known) -> Result<Admitted, (NotLetIn, Served)> {
        let Known { asked, view, .. } = known;
        let over = |error| (error, Served::Over);
        let owner = owner(&asked.offer, &view);
        let turned_away = if asked.resumes {
            match self.decide_resume(&asked.offer, &view) {
                Ok((desk, _connecting)) => {
                    let Offer {
                        session, generation, ..
                    } = asked.offer.clone();
                    let Way::Carrier(carrier) = asked.accept().await.map_err(over)? else {
                        return Err(over(NotLetIn::NotTheLinkAskedFor));
                    };
                    return match desk.receive(carrier, &owner).await {
                        Ok(Received::Resumed(_)) => {
                            self.seats.renew(&view.session(&session), generation, view.grant);
                            Ok(Admitted::Resumed)
                        }
                        // It has no seat, and goes with its handle.
                        Ok(Received::New(_)) => Err(over(NotLetIn::NotTheLinkAskedFor)),
                        Err(error) => Err(over(error.into())),
                    };
                }
                Err(turned_away) => turned_away,
            }
        } else {
            match self.decide(&asked.offer, view).await {
                Ok(client) => {
                    let carrier = match asked.accept().await.map_err(over)? {
                        Way::Carrier(carrier) => carrier,
                        Way::Link(link) => return Ok(Admitted::New(link, Box::new(client))),
                    };
                    let Some(desk) = &self.desk else {
                        let link = Link::over_with(carrier, Role::Server, &self.link);
                        return Ok(Admitted::New(link, Box::new(client)));
                    };
                    return match desk.receive(carrier, &owner).await {
                        Ok(Received::New(link)) => Ok(Admitted::New(link, Box::new(client))),
                        // It has lost its seat to this request, and ends for that.
                        Ok(Received::Resumed(_)) => Err(over(NotLetIn::NotTheLinkAskedFor)),
                        Err(error) => Err(over(error.into())),
                    };
                }
                Err(turned_away) => turned_away,
            }
        };
        let TurnedAway { rejection, served } = turned_away;
        Err((asked.reject(rejection).await, served))
    }

    /// Whether a client may ask for its link. What was checked when the link began is checked again: the token may be another one.
    fn decide_resume(&self, offer: &Offer, view: &View) -> Result<(&Desk, SemaphorePermit<'_>), TurnedAway> {
        let Some(desk) = &self.desk else {
            return Err(Rejection::no_link().into());
        };
        let Ok(connecting) = self.connecting.try_acquire() else {
            return Err(Rejection::unavailable("too many clients connect at this moment").into());
        };
        let environment = self.seats.find(&view.session(&offer.session), offer.generation)?;
        view.check_environment(environment.as_ref())?;
        Ok((desk, connecting))
    }

    async fn decide(&self, offer: &Offer, view: View) -> Result<Client, TurnedAway> {
        let Ok(_connecting) = self.connecting.try_acquire() else {
            return Err(Rejection::unavailable("too many clients connect at this moment").into());
        };
        // Before anything is done for it, and again in the end.
        let session = view.session(&offer.session);
        self.seats.check(&session, offer.generation)?;
        let wanted = Wanted {
            generation: offer.generation,
            environment: environment(offer)?,
        };
        if wanted.environment.is_some() {
            view.check_environment(wanted.environment.as_ref())?;
        }
        let connected = view.provider.connect(wanted.clone()).await;
        let mut connection = connected.map_err(|error| match error {
            ConnectError::UnknownEnvironment { message, .. } => Rejection::unknown_environment(message),
            error => Rejection::unavailable(with_causes(&error)),
        })?;
        let first = match &view.pushed {
            // It is the client's own, and still to come.
            Some(_) => None,
            None => Some(first_update(&mut connection, &view, wanted.environment.as_ref()).await?),
        };
        let environment = match &first {
            Some(Update::Snapshot(catalog)) => Some(catalog.environment.clone()),
            _ => wanted.environment.clone(),
        };
        view.check_environment(environment.as_ref())?;
        // Last, as it displaces the session's former connection.
        let seat = self.seats.take(
            &session,
            offer.generation,
            environment.clone(),
            view.grant.clone(),
        )?;
        Ok(Client {
            view,
            wanted,
            seat,
            connection,
            first,
            environment,
        })
    }
}

/// Why a client with a good token is not served.
struct TurnedAway {
    rejection: Rejection,
    served: Served,
}

impl From<Rejection> for TurnedAway {
    fn from(rejection: Rejection) -> Self {
        Self {
            rejection,
            served: Served::Over,
        }
    }
}

impl From<NoSeat> for TurnedAway {
    fn from(why: NoSeat) -> Self {
        let served = match why {
            NoSeat::Full { .. } => Served::NoRoom,
            NoSeat::Superseded { .. } | NoSeat::Empty => Served::Over,
        };
        Self {
            rejection: why.into(),
            served,
        }
    }
}

/// Who a link belongs to, beside whoever knows its secret: the session, and the name of the token that let it in.
fn owner(offer: &Offer, view: &View) -> String {
    let token = view.grant.as_ref().and_then(Grant::name).unwrap_or_default();
    // Neither holds such a byte.
    format!("{}\0{token}", view.session(&offer.session))
}

/// The environment that a client wants. No environment has a name that is no label.
fn environment(offer: &Offer) -> Result<Option<Label>, Rejection> {
    let Some(text) = &offer.environment else {
        return Ok(None);
    };
    text.parse()
        .map(Some)
        .map_err(|error: service_catalog::Error| Rejection::unknown_environment(error.to_string()))
}

/// Waits for the catalog, and checks that it is the environment that the client wants, whatever the provider did.
async fn first_update(
    connection: &mut Connection,
    view: &View,
    wanted: Option<&Label>,
) -> Result<Update, Rejection> {
    let update = connection
        .source
        .next()
        .await
        .map_err(|error| Rejection::unavailable(with_causes(&error)))?;
    let Update::Snapshot(catalog) = &update else {
        let far_side = view.provider.status().far_side;
        let message = format!("the catalog of {far_side} does not begin with a snapshot");
        return Err(Rejection::unavailable(message));
    };
    let served = &catalog.environment;
    match wanted {
        Some(wanted) if wanted != served => {
            let message = format!("the environment is `{served}`, not `{wanted}`");
            Err(Rejection::unknown_environment(message))
        }
        _ => Ok(update),
    }
}

fn note_panic<T>(done: Result<T, tokio::task::JoinError>) -> Option<T> {
    match done {
        Ok(done) => Some(done),
        Err(error) => {
            if error.is_panic() {
                error!(%error, "a client's task failed");
            }
            None
        }
    }
}
