//! Connecting to an address that the catalog names.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};
use tunnel_bridge::{Refusal, RefusalKind, direct};

use crate::{DialAddress, Host};

/// Connects to `address` within `limit`, resolving included. The addresses of a name are tried one after the other,
/// each with its share of the time that is left, so that one that is silent does not hide one that answers.
///
/// # Cancel safety
/// Safe: a connection that is not finished is dropped.
pub(crate) async fn dial(address: &DialAddress, limit: Duration) -> Result<TcpStream, Refusal> {
    let deadline = Instant::now() + limit;
    let port = address.port.get();
    let name = match &address.host {
        Host::Ip(ip) => return direct::connect(SocketAddr::new(*ip, port), limit).await,
        Host::Name(name) => name.as_str(),
    };
    let found = match timeout_at(deadline, lookup_host((name, port))).await {
        Ok(Ok(found)) => found.collect::<Vec<_>>(),
        Ok(Err(error)) => {
            let message = format!("the gateway cannot resolve `{name}`: {error}");
            return Err(Refusal::new(RefusalKind::Unreachable, message));
        }
        Err(_) => {
            let message = format!(
                "the gateway could not resolve `{name}` within {} s",
                limit.as_secs_f32()
            );
            return Err(Refusal::new(RefusalKind::TimedOut, message));
        }
    };
    let mut last = Refusal::new(RefusalKind::Unreachable, format!("`{name}` has no address"));
    let mut left = u32::try_from(found.len()).unwrap_or(u32::MAX);
    for candidate in found {
        let share = deadline.saturating_duration_since(Instant::now()) / left;
        left -= 1;
        match direct::connect(candidate, share).await {
            Ok(stream) => return Ok(stream),
            Err(refusal) => last = refusal,
        }
    }
    Err(last)
}
