//! Getting a TCP connection to a host: every address of a name is given its chance (Happy Eyeballs, RFC 8305), and a
//! proxy is gone through where one is set ([`Proxies`]).
//!
//! ```
//! use tunnel_bridge::dial::Proxies;
//!
//! # fn main() -> Result<(), tunnel_bridge::Error> {
//! // Reading the environment is the caller's decision.
//! let variables = |name: &str| match name {
//!     "HTTPS_PROXY" => Some("http://ada:s3cret@proxy.example:3128".to_owned()),
//!     "NO_PROXY" => Some("*.internal.example, 10.0.0.0/8".to_owned()),
//!     _ => None,
//! };
//! let proxies = Proxies::from_env(variables);
//! let proxy = proxies.choose(true, "gateway.example", 443)?.expect("a proxy");
//! assert_eq!(proxy.to_string(), "http://proxy.example:3128", "credentials are never shown");
//! assert!(proxies.choose(true, "gateway.internal.example", 443)?.is_none());
//! assert!(proxies.choose(true, "10.1.2.3", 443)?.is_none());
//! # Ok(())
//! # }
//! ```

mod connect;
pub(crate) mod happy_eyeballs;
mod http_connect;
mod no_proxy;
mod proxy;
mod socks;

use std::fmt;
use std::future::pending;
use std::io;
use std::net::SocketAddr;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout_at};

use happy_eyeballs::Race;

pub(crate) use connect::{ReachError, Reached, Road, reach};
#[cfg(feature = "tls")]
pub(crate) use proxy::authority;
pub use proxy::{Proxies, Proxy, ProxyError, SocksReply};

/// What a connect is waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// The addresses of the host, or of the proxy.
    Resolving,
    /// The TCP connection to an address: the one that was tried last, where several are tried at once.
    Tcp(SocketAddr),
    /// The connection that the proxy at this address makes.
    Proxy(SocketAddr),
    /// The TLS handshake with it.
    Tls(SocketAddr),
    /// The WebSocket handshake with it.
    WebSocket(SocketAddr),
    /// The QUIC handshake with an address, and the answer to what is asked for there.
    Quic(SocketAddr),
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolving => f.write_str("name resolution"),
            Self::Tcp(address) => write!(f, "TCP connection to {address}"),
            Self::Proxy(address) => write!(f, "connection by the proxy at {address}"),
            Self::Tls(address) => write!(f, "TLS handshake with {address}"),
            Self::WebSocket(address) => write!(f, "WebSocket handshake with {address}"),
            Self::Quic(address) => write!(f, "QUIC handshake with {address}"),
        }
    }
}

/// What may carry a link through HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Carriage {
    /// The raw protocol where the server and everything on the way takes it, else WebSocket.
    #[default]
    Auto,
    /// The raw protocol alone.
    Raw,
    /// WebSocket alone.
    WebSocket,
}

/// Connects to one of these addresses, which are in the resolver's order: the first that answers wins, and the other
/// attempts are dropped. `deadline` ends all of it. `tell` hears of each attempt as it starts.
///
/// The error of a single attempt is the system's; that of several is made of [`Attempts`].
pub(crate) async fn race(
    addresses: impl IntoIterator<Item = SocketAddr>,
    deadline: Option<Instant>,
    mut tell: impl FnMut(SocketAddr),
) -> io::Result<(TcpStream, SocketAddr)> {
    let mut addresses = addresses.into_iter();
    let (first, second) = (addresses.next(), addresses.next());
    if let (Some(only), None) = (first, second) {
        // Most targets have one address, and nothing races it.
        tell(only);
        return connect_by(only, deadline).await.map(|stream| (stream, only));
    }
    let addresses = first.into_iter().chain(second).chain(addresses);
    let mut race = Race::new(addresses, Instant::now().into_std());
    let mut running = FuturesUnordered::new();
    let mut failed = Vec::new();
    loop {
        while let Some(attempt) = race.poll_attempt(Instant::now().into_std()) {
            tell(attempt.address);
            running.push(async move { (attempt, TcpStream::connect(attempt.address).await) });
        }
        if race.is_lost() {
            return Err(Attempts { failed }.into_error());
        }
        tokio::select! {
            // A connection that is there is taken before its deadline is looked at.
            biased;
            Some((attempt, connected)) = running.next(), if !running.is_empty() => match connected {
                Ok(stream) => return Ok((stream, attempt.address)),
                Err(error) => {
                    tracing::debug!(address = %attempt.address, %error, "attempt failed");
                    failed.push((attempt.address, error));
                    race.handle_failure(attempt.number, Instant::now().into_std());
                }
            },
            () = until(deadline) => {
                failed.extend(race.running().map(|address| (address, no_answer())));
                return Err(Attempts { failed }.into_error());
            }
            () = until(race.poll_timeout().map(Instant::from_std)) => {}
        }
    }
}

/// A connection to the one address that there is.
async fn connect_by(address: SocketAddr, deadline: Option<Instant>) -> io::Result<TcpStream> {
    let connecting = TcpStream::connect(address);
    let Some(deadline) = deadline else {
        return connecting.await;
    };
    let connected = timeout_at(deadline, connecting).await;
    connected.unwrap_or_else(|_| Err(no_answer()))
}

fn no_answer() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer")
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}

/// What became of every attempt to connect to the addresses of a name.
#[derive(Debug)]
struct Attempts {
    failed: Vec<(SocketAddr, io::Error)>,
}

impl Attempts {
    /// Its kind is that of the attempt that came furthest: a refusal is an answer, silence may be a route to nowhere.
    fn into_error(mut self) -> io::Error {
        use io::ErrorKind as K;
        match self.failed.len() {
            0 => return io::Error::new(K::NotFound, "the name has no address"),
            1 => return self.failed.remove(0).1,
            _ => {}
        }
        let order = [
            K::ConnectionRefused,
            K::ConnectionReset,
            K::PermissionDenied,
            K::TimedOut,
            K::HostUnreachable,
            K::NetworkUnreachable,
            K::NetworkDown,
            K::AddrNotAvailable,
        ];
        let kinds: Vec<_> = self.failed.iter().map(|(_, error)| error.kind()).collect();
        let kind = order.into_iter().find(|kind| kinds.contains(kind));
        io::Error::new(kind.unwrap_or(K::Other), self)
    }
}

/// At most so many attempts are named one by one.
const NAMED: usize = 4;

impl fmt::Display for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (address, error)) in self.failed.iter().take(NAMED).enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{address}: {error}")?;
        }
        match self.failed.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, ", and {more} more"),
        }
    }
}

impl std::error::Error for Attempts {}

/// Whether an error of [`race`] is that of more than one attempt.
pub(crate) fn is_of_several(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Attempts>())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;

    async fn listener(address: &str) -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// A port that refuses connections for as long as the socket lives.
    fn refusing() -> (socket2::Socket, SocketAddr) {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket
            .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        (socket, address)
    }

    #[tokio::test]
    async fn an_address_that_refuses_does_not_hide_one_that_answers() {
        let (_socket, refuses) = refusing();
        let (_listener, answers) = listener("127.0.0.1:0").await;
        let mut told = Vec::new();
        let (_stream, peer) = race([refuses, answers], None, |address| told.push(address))
            .await
            .unwrap();
        assert_eq!(peer, answers);
        assert_eq!(told, [refuses, answers]);
    }

    #[tokio::test]
    async fn one_failure_is_the_systems_and_several_are_all_told() {
        let ((_one, first), (_two, second)) = (refusing(), refusing());
        let error = race([first], None, |_| {}).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(error.raw_os_error().is_some(), "{error:?}");
        let error = race([first, second], None, |_| {}).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let told = error.to_string();
        assert!(
            told.contains(&first.to_string()) && told.contains(&second.to_string()),
            "{told}"
        );
        let error = race([], None, |_| {}).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn the_kind_is_that_of_the_attempt_that_came_furthest() {
        let attempt = |last: u8, kind: io::ErrorKind| (SocketAddr::from(([192, 0, 2, last], 1)), kind.into());
        let failed = vec![
            attempt(1, io::ErrorKind::NetworkUnreachable),
            attempt(2, io::ErrorKind::TimedOut),
            attempt(3, io::ErrorKind::NetworkUnreachable),
            attempt(4, io::ErrorKind::NetworkUnreachable),
            attempt(5, io::ErrorKind::NetworkUnreachable),
            attempt(6, io::ErrorKind::NetworkUnreachable),
        ];
        let error = Attempts { failed }.into_error();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(error.to_string().ends_with(", and 2 more"), "{error}");
    }

    /// An address that swallows every packet: a listener whose queue is full. `None` where a full queue refuses.
    async fn silent() -> Option<(socket2::Socket, Vec<TcpStream>, SocketAddr)> {
        let (socket, address) = refusing();
        socket.listen(0).unwrap();
        let mut queued = Vec::new();
        while queued.len() < 64 {
            let limit = Duration::from_millis(300);
            match tokio::time::timeout(limit, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => queued.push(stream),
                Ok(Err(_)) => return None,
                Err(_) => return Some((socket, queued, address)),
            }
        }
        None
    }

    #[tokio::test]
    async fn a_silent_address_costs_the_delay_and_not_the_timeout() {
        let Some((_socket, _queued, silent)) = silent().await else {
            eprintln!("SKIP a_silent_address_costs_the_delay_and_not_the_timeout: a full queue refuses here");
            return;
        };
        let (_listener, answers) = listener("127.0.0.1:0").await;
        let begin = Instant::now();
        let (_stream, peer) = race([silent, answers], None, |_| {}).await.unwrap();
        let took = begin.elapsed();
        assert_eq!(peer, answers);
        assert!(
            took >= happy_eyeballs::ATTEMPT_DELAY && took < Duration::from_secs(5),
            "{took:?}"
        );
        let deadline = Instant::now() + Duration::from_millis(400);
        let error = race([silent, silent], Some(deadline), |_| {}).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error:?}");
    }
}
