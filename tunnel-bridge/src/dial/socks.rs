//! SOCKS5 (RFC 1928) with a user and a password (RFC 1929).

use std::io;
use std::net::IpAddr;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::proxy::{Proxy, ProxyError, SocksReply, authority};

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const USER_AND_PASSWORD: u8 = 2;
const CONNECT: u8 = 1;

/// Asks the proxy at the other end of `stream` for a connection; after it, `stream` is one to the target. `host` is an
/// address, or a name that the proxy resolves.
pub(crate) async fn connect<S>(stream: &mut S, proxy: &Proxy, host: &str, port: u16) -> Result<(), ProxyError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let told = || proxy.told();
    let unreachable = |source| ProxyError::Unreachable {
        proxy: told(),
        source,
    };
    let not_a_proxy = |message: &str| ProxyError::NotAProxy {
        proxy: told(),
        message: message.to_owned(),
    };
    let refused = |given| ProxyError::NeedsCredentials {
        proxy: told(),
        given,
        schemes: String::new(),
    };
    let greeting: &[u8] = match proxy.credentials {
        Some(_) => &[VERSION, 2, NO_AUTHENTICATION, USER_AND_PASSWORD],
        None => &[VERSION, 1, NO_AUTHENTICATION],
    };
    let [version, method] = ask(stream, greeting).await.map_err(unreachable)?;
    if version != VERSION {
        return Err(not_a_proxy("its answer is not SOCKS5"));
    }
    match (method, &proxy.credentials) {
        (NO_AUTHENTICATION, _) => {}
        (USER_AND_PASSWORD, Some(credentials)) => {
            let mut request = vec![1];
            for text in [&credentials.user, &credentials.password] {
                // `Proxy::parse` has checked the length.
                request.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
                request.extend_from_slice(text);
            }
            let [_, status] = ask(stream, &request).await.map_err(unreachable)?;
            if status != 0 {
                return Err(refused(true));
            }
        }
        // 0xff: none of what was offered.
        _ => return Err(refused(proxy.credentials.is_some())),
    }

    let mut request = vec![VERSION, CONNECT, 0];
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => {
            request.push(1);
            request.extend_from_slice(&ip.octets());
        }
        Ok(IpAddr::V6(ip)) => {
            request.push(4);
            request.extend_from_slice(&ip.octets());
        }
        Err(_) => {
            let Ok(length) = u8::try_from(host.len()) else {
                return Err(not_a_proxy("SOCKS5 carries names of up to 255 bytes"));
            };
            request.extend_from_slice(&[3, length]);
            request.extend_from_slice(host.as_bytes());
        }
    }
    request.extend_from_slice(&port.to_be_bytes());
    let [version, reply, _, kind] = ask(stream, &request).await.map_err(unreachable)?;
    if version != VERSION {
        return Err(not_a_proxy("its answer is not SOCKS5"));
    }
    if let Some(reply) = failure(reply) {
        return Err(ProxyError::Socks {
            proxy: told(),
            target: authority(host, port),
            reply,
        });
    }
    // The address that the proxy connects from, which means nothing here; the length of a name stands before it.
    let length = match kind {
        1 => 4,
        4 => 16,
        3 => stream.read_u8().await.map_err(unreachable)?.into(),
        _ => return Err(not_a_proxy("its answer has an unknown type of address")),
    };
    let mut bound = [0; u8::MAX as usize + 2];
    stream
        .read_exact(&mut bound[..length + 2])
        .await
        .map_err(unreachable)?;
    Ok(())
}

async fn ask<S, const N: usize>(stream: &mut S, bytes: &[u8]) -> io::Result<[u8; N]>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(bytes).await?;
    stream.flush().await?;
    let mut answer = [0; N];
    // No more than this: what follows may be the target's.
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

fn failure(reply: u8) -> Option<SocksReply> {
    Some(match reply {
        0 => return None,
        2 => SocksReply::NotAllowed,
        3 => SocksReply::NetworkUnreachable,
        4 => SocksReply::HostUnreachable,
        5 => SocksReply::Refused,
        6 => SocksReply::TtlExpired,
        7 => SocksReply::CommandNotSupported,
        8 => SocksReply::AddressNotSupported,
        _ => SocksReply::General,
    })
}
