//! CONNECT through an HTTP proxy (RFC 9110 §9.3.6), with Basic credentials (RFC 7617).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::proxy::{Proxy, ProxyError, authority};
use crate::http::{self, HeadError};

/// Asks the proxy at the other end of `stream` for a connection; after it, `stream` is one to the target.
pub(crate) async fn connect<S>(stream: &mut S, proxy: &Proxy, host: &str, port: u16) -> Result<(), ProxyError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let target = authority(host, port);
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(credentials) = &proxy.credentials {
        let pair = [&credentials.user[..], b":", &credentials.password].concat();
        request.push_str(&format!(
            "Proxy-Authorization: Basic {}\r\n",
            STANDARD.encode(pair)
        ));
    }
    request.push_str("\r\n");
    let unreachable = |source| ProxyError::Unreachable {
        proxy: proxy.told(),
        source,
    };
    let not_a_proxy = |message: &str| ProxyError::NotAProxy {
        proxy: proxy.told(),
        message: message.to_owned(),
    };
    stream.write_all(request.as_bytes()).await.map_err(unreachable)?;
    stream.flush().await.map_err(unreachable)?;
    let head = http::read_head(stream).await.map_err(|error| match error {
        HeadError::Io(source) => unreachable(source),
        HeadError::Ended => unreachable(std::io::ErrorKind::UnexpectedEof.into()),
        HeadError::NotHttp(message) => not_a_proxy(message),
    })?;
    match head.status {
        // Whoever connects speaks first, over TLS and HTTP alike: these bytes are not the target's.
        200..=299 if !head.rest.is_empty() => Err(not_a_proxy("it sent more than its answer")),
        200..=299 => Ok(()),
        407 => {
            let scheme = |challenge: &str| challenge.split_whitespace().next().map(http::line);
            let schemes: Vec<_> = head.all("proxy-authenticate").filter_map(scheme).collect();
            Err(ProxyError::NeedsCredentials {
                proxy: proxy.told(),
                given: proxy.credentials.is_some(),
                schemes: schemes.join(", "),
            })
        }
        status => Err(ProxyError::Refused {
            proxy: proxy.told(),
            target,
            status,
            reason: http::line(&head.reason),
        }),
    }
}
