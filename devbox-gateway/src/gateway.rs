use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use devbox_provider::{ConnectError, Connection, Wanted, with_causes};
use service_catalog::{Label, Update};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug, error, info, info_span, warn};
use tunnel_bridge::Link;
use tunnel_bridge::tls::Acceptor;

use crate::handshake::{Asked, NotLetIn};
use crate::seat::Seats;
use crate::serve_client::Client;
use crate::{Admission, Error, GatewayConfig, Limits, Offer, Rejection, TlsFiles, View};

/// How long accepting rests after the system had nothing to give (too many open files).
const ACCEPT_REST: Duration = Duration::from_millis(100);

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
    acceptor: Option<Acceptor>,
    admission: Arc<dyn Admission>,
    limits: Limits,
}

impl Gateway {
    /// Reads the files for TLS and listens. Connections wait until [`run`](Self::run).
    ///
    /// # Errors
    /// [`Error::Tls`]; [`Error::InsecureListen`] for an address that is not loopback, without TLS and without
    /// [`insecure`](GatewayConfig::insecure); [`Error::Listen`].
    ///
    /// # Cancel safety
    /// Safe: dropped, nothing is left.
    pub async fn bind(config: GatewayConfig) -> Result<Self, Error> {
        let address = config.listen;
        if config.tls.is_none() && !config.insecure && !address.ip().to_canonical().is_loopback() {
            return Err(Error::InsecureListen { address });
        }
        let tls = |files: &TlsFiles| Acceptor::from_pem(&files.certificate, &files.key);
        let acceptor = config.tls.as_ref().map(tls).transpose()?;
        let listen = |source| Error::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        Ok(Self {
            listener,
            address,
            acceptor,
            admission: config.admission,
            limits: config.limits,
        })
    }

    /// Where it listens, with the port that the system chose.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `cancel`: then it stops listening, tells each client that it is leaving, and lets live streams end
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
            acceptor,
            admission,
            limits,
        } = self;
        info!(%address, tls = acceptor.is_some(), "listening");
        let shared = Arc::new(Shared {
            acceptor,
            admission,
            seats: Seats::new(limits.max_clients),
            limits,
            cancel: cancel.clone(),
        });
        let handshakes = Arc::new(Semaphore::new(shared.limits.max_handshakes));
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                Some(done) = connections.join_next(), if !connections.is_empty() => note_panic(done),
                accepted = accept(&listener, &handshakes) => match accepted {
                    Ok((stream, peer, permit)) => {
                        let connection = shared.clone().serve(stream, peer, permit);
                        connections.spawn(connection.instrument(info_span!("client", %peer)));
                    }
                    Err(error) => {
                        warn!(%error, "cannot accept");
                        tokio::time::sleep(ACCEPT_REST).await;
                    }
                },
            }
        }
        drop(listener);
        info!(clients = connections.len(), "leaving");
        while let Some(done) = connections.join_next().await {
            note_panic(done);
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

type Permit = tokio::sync::OwnedSemaphorePermit;

/// Waits for room for one more handshake, and then for the connection. One that is gone before we look is no trouble.
async fn accept(
    listener: &TcpListener,
    handshakes: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, Permit)> {
    let permit = handshakes
        .clone()
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return Ok((stream, peer, permit)),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
    }
}

struct Shared {
    acceptor: Option<Acceptor>,
    admission: Arc<dyn Admission>,
    seats: Arc<Seats>,
    limits: Limits,
    cancel: CancellationToken,
}

impl Shared {
    async fn serve(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, permit: Permit) {
        let admitted = tokio::select! {
            admitted = timeout(self.limits.handshake_timeout, self.admit(stream, peer)) => admitted,
            () = self.cancel.cancelled() => return,
        };
        drop(permit);
        let (link, client, session) = match admitted {
            Ok(Ok(admitted)) => admitted,
            Ok(Err(error)) => return debug!(error = %with_causes(&error), "not let in"),
            Err(_) => return debug!(after = ?self.limits.handshake_timeout, "not let in: out of time"),
        };
        let span = info_span!("session", id = %session, generation = client.wanted.generation);
        async {
            info!("connected");
            client.serve(link, self.limits.clone(), self.cancel.clone()).await;
        }
        .instrument(span)
        .await;
    }

    async fn admit(&self, stream: TcpStream, peer: SocketAddr) -> Result<(Link, Client, String), NotLetIn> {
        tunnel_bridge::prepare_socket(&stream);
        match &self.acceptor {
            None => self.admit_over(stream, peer).await,
            Some(acceptor) => self.admit_over(acceptor.accept(stream).await?, peer).await,
        }
    }

    async fn admit_over<S>(&self, stream: S, peer: SocketAddr) -> Result<(Link, Client, String), NotLetIn>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let asked = Asked::read(stream, peer).await?;
        match self.decide(&asked.offer).await {
            Ok(client) => {
                let session = asked.offer.session.clone();
                Ok((asked.accept().await?, client, session))
            }
            Err(rejection) => Err(asked.reject(rejection).await),
        }
    }

    async fn decide(&self, offer: &Offer) -> Result<Client, Rejection> {
        // First of all: whoever is not known learns nothing else.
        let view = self.admission.admit(offer).await?;
        let wanted = Wanted {
            generation: offer.generation,
            environment: environment(offer)?,
        };
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
        // Last, as it displaces the session's former connection.
        let seat = self.seats.take(&offer.session, offer.generation)?;
        Ok(Client {
            view,
            wanted,
            seat,
            connection,
            first,
        })
    }
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

fn note_panic(done: Result<(), tokio::task::JoinError>) {
    if let Err(error) = done
        && error.is_panic()
    {
        error!(%error, "a client's task failed");
    }
}
