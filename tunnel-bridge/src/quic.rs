//! Links over QUIC (RFC 9000): each stream of a link is a stream of QUIC's own, so that a lost packet holds up one stream
//! and not all, and the link goes on when the client's address changes.
//!
//! [`connect`] is the client's side, [`Listener`] the server's. A client asks to be let in as it does for a WebSocket, with
//! a path and headers, which are up to the two owners; what it gets is a [`Link`](crate::Link) like any other.
//!
//! ```
//! use tunnel_bridge::quic::{Listener, Options, connect};
//! use tunnel_bridge::tls::Acceptor;
//! use tunnel_bridge::ws::ConnectOptions;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
//! # let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()])?;
//! # std::fs::write(&certificate, made.cert.pem())?;
//! # std::fs::write(&key, made.signing_key.serialize_pem())?;
//! let acceptor = Acceptor::from_pem(&certificate, &key)?;
//! let listener = Listener::bind("127.0.0.1:0".parse()?, &acceptor, Options::default())?;
//! let url = format!("quic://{}/tunnel", listener.local_addr()).parse()?;
//! let server = async {
//!     let arrival = listener.accept().await.ok_or("stopped")?;
//!     let request = arrival.request().await?;
//!     assert_eq!((request.path(), request.header("x-user")), ("/tunnel", Some("me")));
//!     Ok::<_, Box<dyn std::error::Error>>(request.accept().await?)
//! };
//! let mut options = ConnectOptions::new(url, "").header("X-User", "me");
//! options.trust.ca = Some(certificate.clone());
//! let (near, far) = tokio::join!(connect(&options), server);
//! let (near, _far) = (near?, far?);
//! near.shutdown().await;
//! # Ok(())
//! # }
//! ```

mod connect;
mod driver;
mod flow;
mod knock;
mod listen;
mod native;
mod reset;
mod socket;
mod stream;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use quinn::{IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

use crate::LinkOptions;

pub use connect::{connect, connect_with};
pub(crate) use flow::QuicFlow;
pub use listen::{Arrival, Listener, Request};
pub(crate) use native::Native;
pub(crate) use stream::QuicStream;

/// The application protocol (ALPN, RFC 7301) of a tunnel, and what a client asks to upgrade to.
pub const PROTOCOL: &str = "devbox-tunnel/1";

/// What one stream may have under way and unread: enough for 100 MB/s at a round trip of 20 ms.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;

/// The same of all streams of a link together, so that 64 streams that nobody reads leave a third of it to the others.
const LINK_WINDOW: u32 = 192 * 1024 * 1024;

/// The same of a client that has not been let in.
const STRANGER_WINDOW: u32 = 64 * 1024;

/// What waits to be acknowledged by the other end, of all streams.
const SEND_WINDOW: u64 = 16 * 1024 * 1024;

/// Datagrams that have not been handed to their flows yet, and those of all flows that have not been sent. Streams wait behind
/// them, so that on a path of 10 MB/s they are held up for 26 ms.
const DATAGRAM_BYTES: usize = 256 * 1024;

/// The largest UDP payload that is probed for (RFC 8899): what Ethernet carries.
const LARGEST_PAYLOAD: u16 = 1472;

/// How an end of a link over QUIC behaves.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// After how long without a packet from the other end the link is lost; each end asks for one four times as often.
    /// The shorter one of the two ends counts. Default: 20 s.
    pub idle_timeout: Duration,
    /// The limits of the link. QUIC counts the streams of each end by themselves, the control stream aside: what this end opens beyond
    /// [`LinkOptions::max_streams`] is refused with [`RefusalKind::TooMany`](crate::RefusalKind::TooMany), and what the other end opens
    /// beyond it waits there.
    pub link: LinkOptions,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            idle_timeout: Duration::from_secs(20),
            link: LinkOptions::default(),
        }
    }
}

/// The transport's settings. `stranger`: whoever comes has to be let in first, on the control stream, and is a client.
fn transport(options: &Options, stranger: bool) -> Arc<TransportConfig> {
    let (streams, window) = if stranger {
        (1, STRANGER_WINDOW)
    } else {
        (options.link.streams(), LINK_WINDOW)
    };
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(LARGEST_PAYLOAD);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(streams))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(window))
        .send_window(SEND_WINDOW)
        .datagram_receive_buffer_size(Some(DATAGRAM_BYTES))
        .datagram_send_buffer_size(DATAGRAM_BYTES)
        .keep_alive_interval(Some(options.idle_timeout / 4))
        // It fails for what does not fit into 62 bits of milliseconds.
        .max_idle_timeout(IdleTimeout::try_from(options.idle_timeout).ok())
        .mtu_discovery_config(Some(mtu));
    Arc::new(transport)
}
