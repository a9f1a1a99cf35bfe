//! WebSocket as the carrier of a link: [`connect`] is the client's side, [`Upgrade`] the server's.
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
pub(crate) mod upgrade;

pub use connect::{ConnectError, ConnectOptions, Progress, Response, connect, connect_carrier};
pub use upgrade::{AcceptError, NotAWebSocket, Upgrade};

/// Makes a peer's text fit for a header and a terminal: its first line, visible ASCII, at most 300 characters.
pub(crate) fn line(text: &str) -> String {
    let visible = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    let first = text.trim().lines().next().unwrap_or_default();
    first.chars().take(300).map(visible).collect()
}
