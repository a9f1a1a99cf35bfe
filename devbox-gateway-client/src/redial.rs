//! Another connection under a link that lost the one it had.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use async_trait::async_trait;
use devbox_provider::{ConnectError, Wanted};
use tokio::sync::watch;
use tunnel_bridge::dial::Carriage;
use tunnel_bridge::resume::{LinkStatus, Redial, RedialError};
use tunnel_bridge::ws::Protocol;
use tunnel_bridge::{Carrier, Leaving, LinkEnd, ws};

use crate::GatewayProvider;
use crate::handshake::{MESSAGE, RESUME};

/// The link under which connections are made, once it is there.
pub(crate) type WatchedLink = Arc<OnceLock<Watched>>;

/// What is known of a link without keeping it alive.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) status: watch::Receiver<LinkStatus>,
    pub(crate) leaving: watch::Receiver<Option<Leaving>>,
}

/// Asks as the link itself was asked for, at the same address and with the same generation: it is the same connection of the
/// session that goes on. The token is read anew.
pub(crate) struct Again {
    provider: GatewayProvider,
    wanted: Wanted,
    link: WatchedLink,
    /// How often the link had gone on when a raw connection was made for it last.
    raw_at: Mutex<Option<u64>>,
}

impl Again {
    /// Whoever has the link sets it.
    pub(crate) fn new(provider: GatewayProvider, wanted: Wanted) -> (Self, WatchedLink) {
        let link = WatchedLink::default();
        let again = Self {
            provider,
            wanted,
            link: Arc::clone(&link),
            raw_at: Mutex::new(None),
        };
        (again, link)
    }

    fn resumes(&self) -> u64 {
        self.link.get().map_or(0, |link| link.status.borrow().resumes())
    }

    /// What the gateway said when it left, if it has.
    fn goodbye(&self) -> Option<String> {
        let link = self.link.get()?;
        let leaving = link.leaving.borrow();
        leaving.as_ref().map(|word| word.message.clone())
    }

    /// Notes over what the connection is that was just made, and gives what was noted before.
    fn note_raw(&self, raw: Option<u64>) -> Option<u64> {
        let mut raw_at = self.raw_at.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut raw_at, raw)
    }
}

#[async_trait]
impl Redial for Again {
    async fn redial(&self) -> Result<Box<dyn Carrier>, RedialError> {
        let resumes = self.resumes();
        // It was switched to the raw protocol and nothing came of it, as behind a proxy that takes every switch for WebSocket.
        if self.note_raw(None) == Some(resumes) && self.provider.carriage == Carriage::Auto {
            self.provider.handle_raw_stall();
        }
        // A token file that is being replaced is there again in a moment.
        let options = self.provider.options(&self.wanted).await;
        let mut options = options.map_err(RedialError::later)?.header(RESUME, "1");
        // What the session shows is what its own connects wait for.
        options.progress = None;
        let connected = match ws::establish(&options).await {
            Ok(connected) => connected,
            Err(error) => {
                self.provider.forget_the_way();
                if self.provider.has_another_token(&error).await {
                    return Err(RedialError::later(self.provider.not_connected(error)));
                }
                return Err(self.verdict(error));
            }
        };
        if connected.protocol == Protocol::Raw {
            self.note_raw(Some(resumes));
        }
        self.provider.show(&connected);
        Ok(connected.carrier)
    }
}

impl Again {
    /// Only a gateway's own word is final. What a captive portal answers, and whose certificate it shows, goes away with the portal.
    fn verdict(&self, error: ws::ConnectError) -> RedialError {
        // Who has left and listens no more does not take its links up again.
        if let ws::ConnectError::Unreachable { source, .. } = &error
            && source.kind() == std::io::ErrorKind::ConnectionRefused
            && let Some(message) = self.goodbye()
        {
            let end = LinkEnd::PeerClosed { message };
            return RedialError::Final { end };
        }
        if let ws::ConnectError::Rejected { response, .. } = &error
            && response.header(MESSAGE).is_none()
        {
            return RedialError::later(self.provider.not_connected(error));
        }
        match self.provider.not_connected(error) {
            ConnectError::Superseded { message, .. } => RedialError::Final {
                end: LinkEnd::Superseded { message },
            },
            error @ (ConnectError::CredentialRefused { .. } | ConnectError::UnknownEnvironment { .. }) => {
                let message = error.to_string();
                RedialError::Final {
                    end: LinkEnd::NotResumed { message },
                }
            }
            error => RedialError::later(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use devbox_provider::Provider as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;
    use tunnel_bridge::{Link, Role, StreamCarrier};

    use super::*;
    use crate::handshake::SUBPROTOCOL;
    use crate::{Token, TokenSource};

    fn again(listener: &TcpListener) -> Again {
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let token = TokenSource::Fixed(Token::new("t0ken").unwrap());
        let provider = GatewayProvider::new(url.parse().unwrap(), token, "laptop-1");
        Again::new(provider, Wanted::default()).0
    }

    /// What comes of this answer to each request.
    async fn outcome(answer: String) -> Result<Box<dyn Carrier>, RedialError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let again = again(&listener);
        let mut server = JoinSet::new();
        server.spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        again.redial().await
    }

    #[tokio::test]
    async fn only_the_word_of_a_gateway_ends_a_link() {
        for status in [
            "401 Unauthorized",
            "403 Forbidden",
            "404 Not Found",
            "409 Conflict",
        ] {
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n");
            let by_a_portal = outcome(format!("{head}\r\n")).await;
            assert!(matches!(by_a_portal, Err(RedialError::Later { .. })), "{status}");
            let by_the_gateway = outcome(format!("{head}Devbox-Message: no\r\n\r\n")).await;
            assert!(
                matches!(by_the_gateway, Err(RedialError::Final { .. })),
                "{status}"
            );
        }
        let busy = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nDevbox-Message: full\r\n\r\n";
        let busy = outcome(busy.to_owned()).await;
        assert!(matches!(busy, Err(RedialError::Later { .. })));
    }

    #[tokio::test]
    async fn where_nobody_listens_any_more_only_a_gateway_that_left_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let again = again(&listener);
        drop(listener);
        let (_sender, status) = watch::channel(LinkStatus::Up { resumes: 0 });
        let (says, leaving) = watch::channel(None);
        again.link.set(Watched { status, leaving }).unwrap();
        let killed = again.redial().await;
        assert!(matches!(killed, Err(RedialError::Later { .. })), "it may be back");
        let (near, far) = tokio::io::duplex(4096);
        let near = Link::over(StreamCarrier::new(near), Role::Client);
        let far = Link::over(StreamCarrier::new(far), Role::Server);
        far.drain("moving");
        says.send_replace(near.leaving().await);
        let Err(RedialError::Final { end }) = again.redial().await else {
            panic!("it is waited for");
        };
        let message = "moving".to_owned();
        assert_eq!(end, LinkEnd::PeerClosed { message });
    }

    #[tokio::test]
    async fn a_raw_connection_that_led_to_nothing_is_followed_by_a_websocket() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let again = again(&listener);
        let (sender, status) = watch::channel(LinkStatus::Up { resumes: 0 });
        let (_says, leaving) = watch::channel(None);
        again.link.set(Watched { status, leaving }).unwrap();
        let mut server = JoinSet::new();
        server.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let upgrade = ws::Upgrade::read(stream).await.unwrap();
                drop(upgrade.accept_carrier(SUBPROTOCOL).await.unwrap());
            }
        });
        let over = || again.provider.status().over.unwrap();
        again.redial().await.unwrap();
        assert_eq!(over(), "raw upgrade");
        // The link went on over it and was lost again: nothing is held against it.
        sender.send_replace(LinkStatus::Up { resumes: 1 });
        again.redial().await.unwrap();
        assert_eq!(over(), "raw upgrade");
        again.redial().await.unwrap();
        assert_eq!(over(), "WebSocket");
    }
}
