//! Links through HTTP: [`connect`] is the client's side, [`Upgrade`] the server's.
//!
//! A client asks to switch (RFC 9110 §7.8) to one of two protocols, in one request, and the server chooses:
//!
//! * the **raw** one, which is the link's bytes as they are. Its name is that of the WebSocket subprotocol with its version
//!   behind a slash: `devbox-tunnel/1` for `devbox-tunnel.1`;
//! * **WebSocket** (RFC 6455), which every proxy knows.
//!
//! Where a proxy on the way does not let the offer of both pass, the client asks once more, for WebSocket alone.
//!
//! Which path is asked for, which headers say who is asking and who is let in is up to the two owners. This module
//! carries their headers and their answers.
//!
//! ```
//! use tunnel_bridge::ws::{ConnectOptions, Upgrade, connect};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let url = format!("ws://{}/tunnel", listener.local_addr()?).parse()?;
//! let server = async {
//!     let upgrade = Upgrade::read(listener.accept().await?.0).await?;
//!     assert_eq!((upgrade.path(), upgrade.header("x-user")), ("/tunnel", Some("me")));
//!     Ok::<_, Box<dyn std::error::Error>>(upgrade.accept("example.1").await?)
//! };
//! let options = ConnectOptions::new(url, "example.1").header("X-User", "me");
//! let (near, far) = tokio::join!(connect(&options), server);
//! let (near, _far) = (near?, far?);
//! near.shutdown().await;
//! # Ok(())
//! # }
//! ```

mod connect;
mod offer;
pub(crate) mod upgrade;

pub use crate::carrier::{MessageStream, Piece};
pub use crate::dial::{Carriage, Progress};
pub use connect::{
    ConnectError, ConnectOptions, Connected, FellBack, Protocol, Response, Standby, Underlay, connect,
    connect_carrier, establish, messages, stand_by,
};
pub use upgrade::{AcceptError, NotAWebSocket, Upgrade};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::rest::WithRest;
use crate::{Carrier, Role, StreamCarrier, WebSocketCarrier};

pub(crate) use crate::http::line;

/// What a link runs over on a connection that has switched; `rest` came behind the head of the request or answer.
fn carrier_over<S>(switched_to: Protocol, stream: S, role: Role, rest: Vec<u8>) -> Box<dyn Carrier>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    match switched_to {
        Protocol::Raw => Box::new(StreamCarrier::new(WithRest::new(stream, Bytes::from(rest)))),
        Protocol::WebSocket => Box::new(WebSocketCarrier::new(stream, role, &rest)),
    }
}

/// The raw protocol's name, which goes with a subprotocol's: `devbox-tunnel/1` with `devbox-tunnel.1`.
fn raw_protocol(subprotocol: &str) -> String {
    match subprotocol.rsplit_once('.') {
        Some((name, version)) => format!("{name}/{version}"),
        None => subprotocol.to_owned(),
    }
}
