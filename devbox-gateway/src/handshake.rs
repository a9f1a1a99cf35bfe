//! What a client asks for, and what it is told. The words are in `docs/protocol.md`, section 1.

use std::io;
use std::net::SocketAddr;

use devbox_gateway_client::Token;
use devbox_gateway_client::handshake::{
    ENVIRONMENT, GENERATION, MESSAGE, SUBPROTOCOL, TUNNEL_PATH, is_session,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tunnel_bridge::Link;
use tunnel_bridge::ws::{AcceptError, NotAWebSocket, Upgrade};

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
}

/// A client's request for a tunnel, to be answered.
pub(crate) struct Asked<S> {
    upgrade: Upgrade<S>,
    pub(crate) offer: Offer,
}

impl<S> Asked<S>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    /// Reads a request, and answers what is none for a tunnel.
    pub(crate) async fn read(stream: S, peer: SocketAddr) -> Result<Self, NotLetIn> {
        let upgrade = Upgrade::read(stream).await?;
        let Some(session) = session_of(upgrade.path()).map(str::to_owned) else {
            let (status, text) = if upgrade.path() == "/" {
                (200, WHAT_THIS_IS)
            } else {
                (404, NOT_HERE)
            };
            // Without the gateway's own header: this is for whoever looks with a browser.
            upgrade.answer(status, text, &[]).await?;
            return Err(NotLetIn::Answered {
                status,
                message: text.to_owned(),
            });
        };
        if let Err(fault) = upgrade.check(SUBPROTOCOL) {
            let (status, message) = match fault {
                NotAWebSocket::Method => (405, "a tunnel is asked for with GET".to_owned()),
                NotAWebSocket::NoUpgrade => (
                    426,
                    "this is the address of a tunnel: it expects a WebSocket".to_owned(),
                ),
                NotAWebSocket::Subprotocol => {
                    let message =
                        format!("this gateway speaks {SUBPROTOCOL} only; is the client of another version?");
                    (426, message)
                }
                fault => (426, fault.to_string()),
            };
            return Err(answer(upgrade, Rejection { status, message }).await);
        }
        let generation = upgrade
            .header(GENERATION)
            .map_or(Some(0), |text| text.parse().ok());
        let Some(generation) = generation else {
            let message = format!("{GENERATION} is not a number");
            return Err(answer(upgrade, Rejection { status: 400, message }).await);
        };
        let token = upgrade.header("Authorization").and_then(bearer);
        let offer = Offer {
            peer,
            session,
            token: token.and_then(|text| Token::new(text).ok()),
            environment: upgrade.header(ENVIRONMENT).map(one_line),
            generation,
            certificate: None,
        };
        Ok(Self { upgrade, offer })
    }

    /// Lets the client in.
    pub(crate) async fn accept(self) -> Result<Link, NotLetIn> {
        Ok(self.upgrade.accept(SUBPROTOCOL).await?)
    }

    /// Turns the client away.
    pub(crate) async fn reject(self, rejection: Rejection) -> NotLetIn {
        answer(self.upgrade, rejection).await
    }
}

async fn answer<S>(upgrade: Upgrade<S>, rejection: Rejection) -> NotLetIn
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Rejection { status, message } = rejection;
    match upgrade.answer(status, &message, &[(MESSAGE, &message)]).await {
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
