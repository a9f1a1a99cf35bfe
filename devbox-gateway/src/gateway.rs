use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug, error, info, info_span, warn};
use tunnel_bridge::{Link, server, server::Admitted, tls::Acceptor};

use crate::admission::{Admission, Seat};
use crate::served::{self, Followed, InForce};
use crate::{Error, GatewayConfig, Limits, TlsFiles, client};

/// How long accepting rests after the system had nothing to give (too many open files).
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// A gateway that listens.
///
/// ```
/// use devbox_gateway::{CatalogSource, Gateway, GatewayConfig, StaticCatalog, TokenSource};
/// use tokio_util::sync::CancellationToken;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let catalog = CatalogSource::Fixed(StaticCatalog::new("dev".parse()?));
/// let token = TokenSource::Fixed(tunnel_bridge::Token::new("not-a-secret")?);
/// let gateway = Gateway::bind(GatewayConfig::new(catalog, "127.0.0.1:0".parse()?, token)).await?;
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
    catalog: Followed<Arc<InForce>>,
    token: Followed<Option<tunnel_bridge::Token>>,
    limits: Limits,
}

impl Gateway {
    /// Reads the files and listens. Connections wait until [`run`](Self::run).
    ///
    /// # Errors
    /// [`Error::Catalog`], [`Error::ReadCatalog`] or [`Error::CatalogTooLarge`] for the catalog file;
    /// [`Error::Tunnel`] for the token file and the files for TLS; [`Error::InsecureListen`] for an address that is not
    /// loopback, without TLS and without [`insecure`](GatewayConfig::insecure); [`Error::Listen`].
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
        let catalog = served::catalog(config.catalog)?;
        let token = served::token(config.tokens)?;
        let listen = |source| Error::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        Ok(Self {
            listener,
            address,
            acceptor,
            catalog,
            token,
            limits: config.limits,
        })
    }

    /// Where it listens, with the port that the system chose.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `cancel`: then it stops listening, lets live streams end for up to [`Limits::drain`], and tells each
    /// client that it is leaving.
    ///
    /// # Errors
    /// None is known once it listens; trouble with single connections is logged.
    ///
    /// # Cancel safety
    /// Dropping it cuts every link at once; `cancel` is the way with manners.
    pub async fn run(self, cancel: CancellationToken) -> Result<(), Error> {
        let Self {
            listener,
            address,
            acceptor,
            catalog,
            token,
            limits,
        } = self;
        let in_force = catalog.value;
        {
            let in_force = in_force.borrow();
            let catalog = in_force.catalog.catalog();
            info!(%address, tls = acceptor.is_some(), environment = %catalog.environment, services = catalog.services.len(), "listening");
        }
        let mut followers = JoinSet::new();
        if let Some(file) = catalog.file {
            followers.spawn(served::follow_catalog(file, limits.clone()));
        }
        if let Some(file) = token.file {
            followers.spawn(served::follow_token(file, limits.clone()));
        }

        let admission = Admission::new(token.value, in_force.clone(), limits.max_clients);
        let shared = Arc::new(Shared {
            acceptor,
            admission,
            in_force,
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
                        let connection = shared.clone().serve(stream, permit);
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
    admission: Admission,
    in_force: watch::Receiver<Arc<InForce>>,
    limits: Limits,
    cancel: CancellationToken,
}

impl Shared {
    async fn serve(self: Arc<Self>, stream: TcpStream, permit: Permit) {
        let admitted = tokio::select! {
            admitted = timeout(self.limits.handshake_timeout, self.admit(stream)) => admitted,
            () = self.cancel.cancelled() => return,
        };
        drop(permit);
        let (link, client, seat) = match admitted {
            Ok(Ok(admitted)) => admitted,
            Ok(Err(error)) => return debug!(%error, "not let in"),
            Err(_) => return debug!(after = ?self.limits.handshake_timeout, "said nothing in time"),
        };
        let span = info_span!("session", id = %client.session, generation = client.generation);
        async {
            info!("connected");
            client::serve(
                link,
                seat,
                self.in_force.clone(),
                self.limits.clone(),
                self.cancel.clone(),
            )
            .await;
        }
        .instrument(span)
        .await;
    }

    async fn admit(&self, stream: TcpStream) -> io::Result<(Link, Admitted, Seat)> {
        server::prepare_socket(&stream);
        match &self.acceptor {
            None => self.admit_over(stream).await,
            Some(acceptor) => self.admit_over(acceptor.accept(stream).await?).await,
        }
    }

    async fn admit_over<S>(&self, stream: S) -> io::Result<(Link, Admitted, Seat)>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut seat = None;
        let check = |offer: &server::Offer| {
            seat = Some(self.admission.admit(offer)?);
            Ok(())
        };
        let (link, admitted) = server::accept(stream, check).await.map_err(io::Error::other)?;
        let seat = seat.ok_or_else(|| io::Error::other("let in without being asked"))?;
        Ok((link, admitted, seat))
    }
}

fn note_panic(done: Result<(), tokio::task::JoinError>) {
    if let Err(error) = done
        && error.is_panic()
    {
        error!(%error, "a client's task failed");
    }
}
