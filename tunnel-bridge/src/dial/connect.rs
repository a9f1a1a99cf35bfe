//! A connection to a host and port, directly or through a proxy.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};

use super::proxy::{Kind, Proxy, ProxyError};
use super::{Progress, http_connect, race, socks};
use crate::{Error, Trust, carrier};

/// What a link runs over.
pub(crate) enum Road {
    Tcp(TcpStream),
    /// TLS to the proxy; the target is behind it.
    #[cfg(feature = "tls")]
    ProxyTls(Box<crate::tls::ClientStream<TcpStream>>),
}

pub(crate) struct Reached {
    pub(crate) road: Road,
    /// The other end of the TCP connection: the host's, or the proxy's.
    pub(crate) peer: SocketAddr,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ReachError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    #[error(transparent)]
    Setup(#[from] Error),
}

/// Connects to a host, a name or an address without brackets. An `https://` proxy is trusted as the system trusts it, and
/// by the further authorities of `trust`.
///
/// # Cancel safety
/// Dropping the future abandons the attempt.
pub(crate) async fn reach(
    host: &str,
    port: u16,
    proxy: Option<&Proxy>,
    trust: &Trust,
    tell: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Reached, ReachError> {
    let Some(proxy) = proxy else {
        tell(Progress::Resolving);
        let addresses = lookup_host((host, port)).await?;
        let (stream, peer) = race(addresses, None, |address| tell(Progress::Tcp(address))).await?;
        carrier::prepare_socket(&stream);
        let road = Road::Tcp(stream);
        return Ok(Reached { road, peer });
    };
    let through = Through { proxy, trust, tell };
    if proxy.kind != Kind::Socks5 {
        return Ok(through.connect(host, port).await?);
    }
    tell(Progress::Resolving);
    let resolved = lookup_host((host, port))
        .await
        .map_err(|source| ProxyError::Resolve {
            proxy: proxy.told(),
            host: host.to_owned(),
            source,
        });
    // One after the other: the proxy does the connecting, and says when it has given up.
    let mut last = None;
    for address in resolved?.take(MAX_PROXIED) {
        match through.connect(&address.ip().to_string(), port).await {
            Ok(reached) => return Ok(reached),
            Err(error @ ProxyError::Socks { .. }) => last = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    let no_address = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    Err(last.map_or_else(|| no_address().into(), ReachError::from))
}

/// How many addresses of a name a SOCKS proxy is asked for.
const MAX_PROXIED: usize = 8;

struct Through<'a> {
    proxy: &'a Proxy,
    trust: &'a Trust,
    tell: &'a (dyn Fn(Progress) + Send + Sync),
}

impl Through<'_> {
    async fn connect(&self, host: &str, port: u16) -> Result<Reached, ProxyError> {
        let proxy = self.proxy;
        let unreachable = |source| ProxyError::Unreachable {
            proxy: proxy.told(),
            source,
        };
        (self.tell)(Progress::Resolving);
        let addresses = lookup_host((proxy.host.as_str(), proxy.port))
            .await
            .map_err(unreachable)?;
        let (mut stream, peer) = race(addresses, None, |address| (self.tell)(Progress::Tcp(address)))
            .await
            .map_err(unreachable)?;
        carrier::prepare_socket(&stream);
        if proxy.kind == Kind::Https {
            return self.connect_over_tls(stream, peer, host, port).await;
        }
        (self.tell)(Progress::Proxy(peer));
        self.ask(&mut stream, host, port).await?;
        let road = Road::Tcp(stream);
        Ok(Reached { road, peer })
    }

    #[cfg(feature = "tls")]
    async fn connect_over_tls(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        host: &str,
        port: u16,
    ) -> Result<Reached, ProxyError> {
        let failed = |message: String| ProxyError::Tls {
            proxy: self.proxy.told(),
            message: crate::http::line(&message),
        };
        (self.tell)(Progress::Tls(peer));
        let trust = self.trust.for_a_proxy();
        let config =
            crate::tls::client_config(&trust, &[b"http/1.1"]).map_err(|error| failed(error.to_string()))?;
        let mut stream = crate::tls::connect(config.into(), &self.proxy.host, stream)
            .await
            .map_err(|error| failed(error.to_string()))?;
        (self.tell)(Progress::Proxy(peer));
        self.ask(&mut stream, host, port).await?;
        let road = Road::ProxyTls(Box::new(stream));
        Ok(Reached { road, peer })
    }

    #[cfg(not(feature = "tls"))]
    async fn connect_over_tls(
        &self,
        _stream: TcpStream,
        _peer: SocketAddr,
        _host: &str,
        _port: u16,
    ) -> Result<Reached, ProxyError> {
        Err(ProxyError::Tls {
            proxy: self.proxy.told(),
            message: format!("this build has no TLS for {:?}", self.trust),
        })
    }

    async fn ask<S>(&self, stream: &mut S, host: &str, port: u16) -> Result<(), ProxyError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        match self.proxy.kind {
            Kind::Http | Kind::Https => http_connect::connect(stream, self.proxy, host, port).await,
            Kind::Socks5 | Kind::Socks5h => socks::connect(stream, self.proxy, host, port).await,
        }
    }
}
