//! The server's side of the handshake.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, RecvStream, SendStream, ServerConfig, TokioRuntime, VarInt};

use rustls_pki_types::CertificateDer;

use super::driver::{self, ControlStream};
use super::native::Native;
use super::{LINK_WINDOW, Options, PROTOCOL, reset, socket, transport};
use crate::tls::{self, Acceptor, PeerIdentity};
use crate::ws::upgrade::{self, AcceptError, Head, NotAWebSocket};
use crate::{Error, GoAwayReason, Link};

/// How long a client may take for the handshake and its request.
const REQUEST_TIME: Duration = Duration::from_secs(10);

/// How long an answer may take to arrive before the connection is closed behind it.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// How long the connections of a listener that ends have to hear of it.
const FAREWELL: Duration = Duration::from_secs(1);

/// Handshakes that nobody has taken yet; more are refused. And what they may have sent, each and together.
const MAX_WAITING: usize = 1024;
const WAITING_BYTES: u64 = 16 * 1024;
const ALL_WAITING_BYTES: u64 = 4 * 1024 * 1024;

/// Listens for links over QUIC, on one UDP port.
pub struct Listener {
    endpoint: Endpoint,
    address: SocketAddr,
    options: Options,
    /// What newcomers are accepted with.
    crypto: Mutex<Arc<QuicServerConfig>>,
}

impl Listener {
    /// Listens, with the certificate of `acceptor`. TLS is version 1.3, and the protocol [`PROTOCOL`], whatever the
    /// acceptor's own are.
    ///
    /// # Errors
    /// [`Error::Listen`]; [`Error::Tls`] for a certificate that cannot be used with QUIC.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn bind(address: SocketAddr, acceptor: &Acceptor, options: Options) -> Result<Listener, Error> {
        let crypto = crypto(acceptor)?;
        let server = server_config(Arc::clone(&crypto));
        let listen = |source| Error::Listen { source };
        let socket = socket::bind(address).map_err(listen)?;
        let config = reset::endpoint_config(acceptor);
        let endpoint = Endpoint::new(config, Some(server), socket, Arc::new(TokioRuntime)).map_err(listen)?;
        let address = endpoint.local_addr().map_err(listen)?;
        Ok(Listener {
            endpoint,
            address,
            options,
            crypto: Mutex::new(crypto),
        })
    }

    /// Where it listens, with the port that the system chose.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Uses another certificate for whoever comes from here on.
    ///
    /// # Errors
    /// [`Error::Tls`]; then the former one stays.
    pub fn use_certificate(&self, acceptor: &Acceptor) -> Result<(), Error> {
        let crypto = crypto(acceptor)?;
        self.endpoint
            .set_server_config(Some(server_config(Arc::clone(&crypto))));
        *self.crypto.lock().unwrap_or_else(PoisonError::into_inner) = crypto;
        Ok(())
    }

    /// The next client that begins a handshake; `None` once the listener's socket has failed. Up to 1024 wait to be taken;
    /// more are refused.
    ///
    /// # Cancel safety
    /// Nobody is lost when it is dropped.
    pub async fn accept(&self) -> Option<Arrival> {
        let incoming = self.endpoint.accept().await?;
        let crypto = Arc::clone(&self.crypto.lock().unwrap_or_else(PoisonError::into_inner));
        let mut server = server_config(crypto);
        server.transport_config(transport(&self.options, true));
        Some(Arrival {
            incoming,
            server: Arc::new(server),
            options: self.options.clone(),
        })
    }

    /// Refuses newcomers for as long as it is polled. Links that are up go on. It never resolves.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn refuse_newcomers(&self) {
        while let Some(incoming) = self.endpoint.accept().await {
            incoming.refuse();
        }
        std::future::pending::<()>().await;
    }

    /// Closes what is left, and waits up to a second for the clients to hear of it. The port is free when the listener has
    /// been dropped, and with it all links of it.
    ///
    /// # Cancel safety
    /// Once polled, everything is closed.
    pub async fn close(&self) {
        let code = VarInt::from_u32(GoAwayReason::Leaving.code().into());
        self.endpoint.close(code, b"");
        if tokio::time::timeout(FAREWELL, self.endpoint.wait_idle())
            .await
            .is_err()
        {
            tracing::debug!("not everybody has heard that the listener ends");
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

fn crypto(acceptor: &Acceptor) -> Result<Arc<QuicServerConfig>, Error> {
    let mut config = acceptor.config();
    config.alpn_protocols = vec![PROTOCOL.as_bytes().to_vec()];
    // An early request could be replayed by somebody who recorded it (RFC 9001 §9.2).
    config.max_early_data_size = 0;
    let config = QuicServerConfig::try_from(config).map_err(|error| Error::Tls {
        why: error.to_string(),
    })?;
    Ok(Arc::new(config))
}

fn server_config(crypto: Arc<QuicServerConfig>) -> ServerConfig {
    let mut server = ServerConfig::with_crypto(crypto);
    server
        .migration(true)
        .max_incoming(MAX_WAITING)
        .incoming_buffer_size(WAITING_BYTES)
        .incoming_buffer_size_total(ALL_WAITING_BYTES);
    server
}

/// A client that begins a handshake. Dropping it refuses the client.
#[derive(Debug)]
pub struct Arrival {
    incoming: quinn::Incoming,
    server: Arc<ServerConfig>,
    options: Options,
}

impl Arrival {
    /// Where it comes from. Anybody can pretend to come from anywhere, unless this [is checked](Arrival::is_checked).
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.incoming.remote_address()
    }

    /// Whether it has shown that it receives what is sent to its address.
    #[must_use]
    pub fn is_checked(&self) -> bool {
        self.incoming.remote_address_validated()
    }

    /// Has the client come again and show that it receives what is sent to its address (RFC 9000 §8.1.2), which takes a round
    /// trip. Nothing is kept for it meanwhile.
    pub fn check(self) {
        if self.incoming.retry().is_err() {
            tracing::trace!("its address was checked before");
        }
    }

    /// Makes the handshake and reads the client's request, whose head has at most 16 KiB and 64 headers. Takes at most 10 s.
    ///
    /// # Errors
    /// [`AcceptError::Io`], [`AcceptError::TimedOut`], and [`AcceptError::BadRequest`], which was answered with 400.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn request(self) -> Result<Request, AcceptError> {
        let requested = tokio::time::timeout(REQUEST_TIME, self.hear()).await;
        requested.unwrap_or(Err(AcceptError::TimedOut { after: REQUEST_TIME }))
    }

    async fn hear(self) -> Result<Request, AcceptError> {
        let connection = self.incoming.accept_with(self.server).map_err(io::Error::from)?;
        let connection = connection.await.map_err(io::Error::from)?;
        let reading = async {
            let (send, mut recv) = connection.accept_bi().await.map_err(io::Error::from)?;
            let head = upgrade::read_head(&mut recv).await;
            Ok::<_, AcceptError>((send, recv, head))
        };
        let ignoring = async {
            // Nobody who has not been let in has anything to say in datagrams.
            while connection.read_datagram().await.is_ok() {}
            std::future::pending().await
        };
        let (send, recv, head) = tokio::select! {
            read = reading => read?,
            never = ignoring => never,
        };
        let mut request = Request {
            connection,
            send,
            recv,
            head: Head::default(),
            options: self.options,
        };
        match head {
            Ok(head) => {
                request.head = head;
                Ok(request)
            }
            Err(AcceptError::BadRequest { why }) => {
                request.answer(400, why, &[]).await?;
                Err(AcceptError::BadRequest { why })
            }
            Err(error) => Err(error),
        }
    }
}

/// A client's request that has been read and waits for its answer: as [`ws::Upgrade`](crate::ws::Upgrade), over QUIC.
///
/// Until it is answered, the client can send no more than 64 KiB. Dropping it closes the connection without an answer.
#[derive(Debug)]
pub struct Request {
    connection: Connection,
    send: SendStream,
    recv: RecvStream,
    head: Head,
    options: Options,
}

impl Request {
    /// The method, such as `GET`.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.head.method
    }

    /// The path, without query and fragment.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.head.path
    }

    /// The value of the first header of this name, without white space around it. The name's case is ignored.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.headers.iter();
        let (_, value) = headers.find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        Some(value.trim())
    }

    /// The identity of the client, if it showed a certificate.
    #[must_use]
    pub fn peer_identity(&self) -> Option<PeerIdentity> {
        let chain = self.connection.peer_identity()?;
        tls::identity_of(chain.downcast_ref::<Vec<CertificateDer<'static>>>()?)
    }

    /// Whether the request asks for a tunnel: its method is GET and it wants to upgrade to [`PROTOCOL`].
    ///
    /// # Errors
    /// [`NotAWebSocket`], of which `Method` and `NoUpgrade` come.
    pub fn check(&self) -> Result<(), NotAWebSocket> {
        if self.head.method != "GET" {
            return Err(NotAWebSocket::Method);
        }
        match self.header("upgrade") {
            Some(wanted) if wanted.eq_ignore_ascii_case(PROTOCOL) => Ok(()),
            _ => Err(NotAWebSocket::NoUpgrade),
        }
    }

    /// Lets the client in, and makes the server's end of a link.
    ///
    /// # Errors
    /// [`AcceptError::NotAWebSocket`] where [`check`](Request::check) fails; then the client gets no answer.
    /// [`AcceptError::Io`].
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn accept(mut self) -> Result<Link, AcceptError> {
        self.check()?;
        self.connection.set_receive_window(VarInt::from_u32(LINK_WINDOW));
        // The control stream is one of the client's.
        let streams = self.options.link.streams() + 1;
        self.connection
            .set_max_concurrent_bi_streams(VarInt::from_u32(streams));
        let head =
            format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: {PROTOCOL}\r\nConnection: Upgrade\r\n\r\n");
        self.send
            .write_all(head.as_bytes())
            .await
            .map_err(io::Error::from)?;
        if let Err(error) = self.send.set_priority(1) {
            tracing::trace!(%error, "the control stream is closed already");
        }
        let control = ControlStream {
            send: self.send,
            recv: self.recv,
            read: self.head.rest,
        };
        Ok(driver::spawn(
            Native::new(self.connection, None, &self.options),
            control,
        ))
    }

    /// Answers with a short text and closes the connection once that has arrived, or after 2 s. What cannot stand in a
    /// header becomes `?`.
    ///
    /// # Errors
    /// What the connection failed with.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn answer(mut self, status: u16, text: &str, headers: &[(&str, &str)]) -> io::Result<()> {
        upgrade::respond(&mut self.send, status, text, headers).await?;
        match tokio::time::timeout(ANSWER_TIME, self.send.stopped()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => tracing::debug!("an answer did not arrive in time"),
        }
        let code = VarInt::from_u32(GoAwayReason::Leaving.code().into());
        self.connection.close(code, b"");
        Ok(())
    }
}
