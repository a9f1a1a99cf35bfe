//! What a client asks for, and what it is told. The words are in `docs/protocol.md`, section 1.

use std::io;
use std::net::SocketAddr;

use devbox_gateway_client::Token;
use devbox_gateway_client::handshake::{
    ENVIRONMENT, GENERATION, MESSAGE, RESUME, SCOPE, SUBPROTOCOL, TOKEN, TUNNEL_PATH, is_session,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tunnel_bridge::resume::DeskError;
use tunnel_bridge::ws::{AcceptError, NotAWebSocket, Upgrade};
use tunnel_bridge::{Carrier, Link, quic};

use crate::{Offer, Rejection};

const WHAT_THIS_IS: &str =
    "This is a devbox gateway. It carries tunnels for the devbox command: devbox up --gateway ...";
const NOT_HERE: &str = "This is a devbox gateway, and there is nothing here. Tunnels are at /kube/devbox/tunnel/client/{session}.";

/// Why a client was not let in. It has been answered, where it could be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotLetIn {
    #[error("no tunnel was asked for")]
    Request(#[from] AcceptError),
    #[error("the connection failed")]
    Io(#[from] io::Error),
    #[error("answered with status {status}: {message}")]
    Answered { status: u16, message: String },
    #[error("its link did not begin or go on")]
    NoLink(#[from] DeskError),
    #[error("it began a new link where it wanted to go on with one")]
    NotTheLinkAskedFor,
}

/// How the link of a client that was let in is carried.
pub(crate) enum Way {
    /// A link may begin or go on over it.
    Carrier(Box<dyn Carrier>),
    /// QUIC's own streams are the link's.
    Link(Link),
}

/// A request, by whichever way it came.
enum Request<S> {
    Http(Upgrade<S>),
    Quic(Box<quic::Request>),
}

impl<S> Request<S>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    fn path(&self) -> &str {
        match self {
            Self::Http(upgrade) => upgrade.path(),
            Self::Quic(request) => request.path(),
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        match self {
            Self::Http(upgrade) => upgrade.header(name),
            Self::Quic(request) => request.header(name),
        }
    }

    fn check(&self) -> Result<(), NotAWebSocket> {
        match self {
            Self::Http(upgrade) => upgrade.check(SUBPROTOCOL).map(drop),
            Self::Quic(request) => request.check(),
        }
    }

    async fn accept(self) -> Result<Way, AcceptError> {
        Ok(match self {
            Self::Http(upgrade) => Way::Carrier(upgrade.accept_carrier(SUBPROTOCOL).await?),
            Self::Quic(request) => Way::Link(request.accept().await?),
        })
    }

    async fn answer(self, status: u16, text: &str, headers: &[(&str, &str)]) -> io::Result<()> {
        match self {
            Self::Http(upgrade) => upgrade.answer(status, text, headers).await,
            Self::Quic(request) => request.answer(status, text, headers).await,
        }
    }
}

/// A client's request for a tunnel, to be answered.
pub(crate) struct Asked<S> {
    request: Request<S>,
    pub(crate) offer: Offer,
    /// It wants to take its link up again.
    pub(crate) resumes: bool,
}

impl<S> Asked<S>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    /// Reads a request, and answers what is none for a tunnel.
    pub(crate) async fn read(stream: S, peer: SocketAddr) -> Result<Self, NotLetIn> {
        Self::examine(Request::Http(Upgrade::read(stream).await?), peer).await
    }

    /// Reads a request that comes over QUIC.
    pub(crate) async fn read_quic(arrival: quic::Arrival, peer: SocketAddr) -> Result<Self, NotLetIn> {
        let request = arrival.request().await?;
        let certificate = request.peer_identity();
        let mut asked = Self::examine(Request::Quic(Box::new(request)), peer).await?;
        asked.offer.certificate = certificate;
        Ok(asked)
    }

    async fn examine(request: Request<S>, peer: SocketAddr) -> Result<Self, NotLetIn> {
        let Some(session) = session_of(request.path()).map(str::to_owned) else {
            let (status, text) = if request.path() == "/" {
                (200, WHAT_THIS_IS)
            } else {
                (404, NOT_HERE)
            };
            // Without the gateway's own header: this is for whoever looks with a browser.
            request.answer(status, text, &[]).await?;
            return Err(NotLetIn::Answered {
                status,
                message: text.to_owned(),
            });
        };
        if let Err(fault) = request.check() {
            let (status, message) = match fault {
                NotAWebSocket::Method => (405, "a tunnel is asked for with GET".to_owned()),
                NotAWebSocket::NoUpgrade => (
                    426,
                    "this is the address of a tunnel: it expects a request for one".to_owned(),
                ),
                NotAWebSocket::Subprotocol => {
                    let message =
                        format!("this gateway speaks {SUBPROTOCOL} only; is the client of another version?");
                    (426, message)
                }
                fault => (426, fault.to_string()),
            };
            return Err(answer(request, Rejection { status, message }).await);
        }
        let generation = request
            .header(GENERATION)
            .map_or(Some(0), |text| text.parse().ok());
        let Some(generation) = generation else {
            let message = format!("{GENERATION} is not a number");
            return Err(answer(request, Rejection { status: 400, message }).await);
        };
        // What passes the request on may have put a credential of its own, or the user's for itself, into Authorization.
        let own = request.header(TOKEN).map(str::trim);
        let token = own.or_else(|| request.header("Authorization").and_then(bearer));
        let offer = Offer {
            peer,
            session,
            token: token.and_then(|text| Token::new(text).ok()),
            environment: request.header(ENVIRONMENT).map(one_line),
            scope: request.header(SCOPE).map(str::to_owned),
            generation,
            certificate: None,
        };
        let resumes = request.header(RESUME).is_some_and(|value| value == "1");
        Ok(Self {
            request,
            offer,
            resumes,
        })
    }

    /// Lets the client in.
    pub(crate) async fn accept(self) -> Result<Way, NotLetIn> {
        Ok(self.request.accept().await?)
    }

    /// Turns the client away.
    pub(crate) async fn reject(self, rejection: Rejection) -> NotLetIn {
        answer(self.request, rejection).await
    }
}

async fn answer<S>(request: Request<S>, rejection: Rejection) -> NotLetIn
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Rejection { status, message } = rejection;
    match request.answer(status, &message, &[(MESSAGE, &message)]).await {
        Ok(()) => NotLetIn::Answered { status, message },
        Err(error) => error.into(),
    }
}

/// The session in a tunnel's path; what stands before is where the gateway is mounted.
fn session_of(path: &str) -> Option<&str> {
    let (_, session) = path.rsplit_once(TUNNEL_PATH)?;
    is_session(session).then_some(session)
}

/// The token of an Authorization header; the scheme's case is free (RFC 9110 §11.1).
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// A client's text, fit for a log.
fn one_line(text: &str) -> String {
    let visible = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    text.chars().take(300).map(visible).collect()
}
