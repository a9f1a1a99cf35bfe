//! A devbox gateway as a far side: one link carries the catalog and every connection.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use service_catalog::{CATALOG_STREAM, Source, SourceError, Update, wire};
use tokio::io::AsyncReadExt;
use tunnel_bridge::client::{self, ConnectError, ConnectOptions};
use tunnel_bridge::{Link, MuxStream, Target, Token};
use url::Url;

use super::{ConnectFailure, FarSide, Provider};

/// Where the token is taken from, anew for each connect, so that a rotated one is used at the next.
#[derive(Debug, Clone)]
pub enum TokenSource {
    /// A file that holds nothing else.
    File(PathBuf),
    /// A token in memory.
    Fixed(Token),
}

/// Connects to a gateway.
#[derive(Debug, Clone)]
pub struct GatewayProvider {
    /// `ws://host:port` or `wss://host:port`, a path before the tunnel's own allowed.
    pub gateway: Url,
    /// The bearer token.
    pub token: TokenSource,
    /// The session's id.
    pub session: String,
    /// The environment to ask for; `None` takes what the gateway serves.
    pub environment: Option<String>,
    /// A PEM file of certificate authorities to trust in place of the system's.
    pub tls_ca: Option<PathBuf>,
    /// For how long one connect may take.
    pub connect_timeout: Duration,
}

impl Provider for GatewayProvider {
    fn connect(&mut self, generation: u64) -> BoxFuture<'static, Result<FarSide, ConnectFailure>> {
        let this = self.clone();
        Box::pin(async move { this.connect_once(generation).await })
    }
}

impl GatewayProvider {
    async fn connect_once(self, generation: u64) -> Result<FarSide, ConnectFailure> {
        let gateway = self.gateway.to_string();
        let file = match &self.token {
            TokenSource::File(path) => Some(path.clone()),
            TokenSource::Fixed(_) => None,
        };
        let token = match self.token {
            TokenSource::Fixed(token) => token,
            TokenSource::File(path) => Token::read(&path).map_err(|error| ConnectFailure::Setup {
                message: with_causes(&error),
            })?,
        };
        let options = ConnectOptions {
            gateway: self.gateway,
            token,
            session: self.session,
            generation,
            environment: self.environment,
            connect_timeout: self.connect_timeout,
            tls_ca: self.tls_ca,
        };
        let link = client::connect(&options)
            .await
            .map_err(|error| failure(gateway.clone(), file, &error))?;
        let lost = |reason: String| ConnectFailure::Unreachable {
            gateway: gateway.clone(),
            reason,
        };
        let target = Target::new(CATALOG_STREAM).map_err(|error| lost(with_causes(&error)))?;
        let stream = link
            .open(&target)
            .await
            .map_err(|refusal| lost(refusal.to_string()))?;
        let dialer = link.dialer();
        let mut source = GatewaySource {
            stream,
            decoder: wire::Decoder::new(),
            link: link.clone(),
            first: None,
        };
        // A gateway that lets in and says nothing has not answered.
        source.first = match tokio::time::timeout(self.connect_timeout, source.next()).await {
            Ok(Ok(update)) => Some(update),
            Ok(Err(error)) => return Err(lost(with_causes(&error))),
            Err(_) => {
                return Err(ConnectFailure::TimedOut {
                    gateway,
                    after: self.connect_timeout,
                });
            }
        };
        let close =
            Box::new(move || -> BoxFuture<'static, ()> { Box::pin(async move { link.shutdown().await }) });
        Ok(FarSide {
            source: Box::new(source),
            dialer: Arc::clone(&dialer),
            close,
        })
    }
}

fn failure(gateway: String, file: Option<PathBuf>, error: &ConnectError) -> ConnectFailure {
    match error {
        ConnectError::TimedOut { after, .. } => ConnectFailure::TimedOut {
            gateway,
            after: *after,
        },
        ConnectError::TokenRefused { message } => ConnectFailure::TokenRefused {
            gateway,
            file,
            message: message.clone(),
        },
        ConnectError::UnknownEnvironment { message } => ConnectFailure::UnknownEnvironment {
            gateway,
            message: message.clone(),
        },
        ConnectError::NotAGateway { message, .. } => ConnectFailure::NotAGateway {
            gateway,
            message: message.clone(),
        },
        ConnectError::Tls { message, .. } => ConnectFailure::Certificate {
            gateway,
            message: message.clone(),
        },
        ConnectError::BadUrl { .. } => ConnectFailure::NotAGateway {
            gateway,
            message: with_causes(error),
        },
        ConnectError::Setup(error) => ConnectFailure::Setup {
            message: with_causes(error),
        },
        ConnectError::Unreachable { source, .. } => ConnectFailure::Unreachable {
            gateway,
            reason: source.to_string(),
        },
        error => ConnectFailure::Unreachable {
            gateway,
            reason: with_causes(error),
        },
    }
}

/// An error and its causes in one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}

/// The catalog as it comes over a stream of the link.
struct GatewaySource {
    stream: MuxStream,
    decoder: wire::Decoder,
    link: Link,
    /// The update that came while connecting.
    first: Option<Update>,
}

#[async_trait::async_trait]
impl Source for GatewaySource {
    async fn next(&mut self) -> Result<Update, SourceError> {
        {
            if let Some(update) = self.first.take() {
                return Ok(update);
            }
            let mut buffer = vec![0; 16 * 1024];
            loop {
                if let Some(update) = self.decoder.poll_update()? {
                    return Ok(update);
                }
                match self.stream.read(&mut buffer).await {
                    Ok(0) => return Err(SourceError::Ended),
                    Ok(count) => self.decoder.handle_bytes(buffer.get(..count).unwrap_or_default()),
                    Err(error) => {
                        // The link knows better than one of its streams why it went.
                        let end = tokio::time::timeout(Duration::from_millis(100), self.link.closed()).await;
                        return Err(match end {
                            Ok(end) => SourceError::lost(end.to_string()),
                            Err(_) => SourceError::lost(error),
                        });
                    }
                }
            }
        }
    }
}
