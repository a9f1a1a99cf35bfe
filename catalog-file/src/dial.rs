use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};
use tunnel_bridge::{Refusal, RefusalKind, direct};

use crate::{DialAddress, Host};

/// What may be dialed, and for how long.
///
/// ```
/// use catalog_file::DialPolicy;
///
/// let mut policy = DialPolicy::loopback();
/// policy.networks.push("10.20.0.0/16".parse()?);
/// policy.ports = 1024..=65535;
/// assert!(policy.allows("10.20.1.2:5432".parse()?));
/// assert!(!policy.allows("10.21.1.2:5432".parse()?));
/// assert!(!policy.allows("127.0.0.1:22".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DialPolicy {
    /// The networks whose addresses may be dialed. A name is resolved first: what counts is the address.
    pub networks: Vec<IpNet>,
    /// The ports that may be dialed.
    pub ports: RangeInclusive<u16>,
    /// How long a dial may take, resolving included. Default: 10 s.
    pub timeout: Duration,
}

impl DialPolicy {
    /// This machine's own addresses, 127.0.0.0/8 and `::1`, on every port.
    #[must_use]
    pub fn loopback() -> Self {
        let (v4, v6) = (
            Ipv4Net::new_assert(std::net::Ipv4Addr::new(127, 0, 0, 0), 8),
            std::net::Ipv6Addr::LOCALHOST,
        );
        Self {
            networks: vec![v4.into(), Ipv6Net::from(v6).into()],
            ..Self::default()
        }
    }

    /// Whether an address may be dialed. An IPv4 address that is written as an IPv6 one (`::ffff:10.0.0.1`) counts as
    /// what it is.
    #[must_use]
    pub fn allows(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        self.ports.contains(&address.port()) && self.networks.iter().any(|network| network.contains(&ip))
    }
}

impl Default for DialPolicy {
    /// Every address and port.
    fn default() -> Self {
        Self {
            networks: vec![Ipv4Net::default().into(), Ipv6Net::default().into()],
            ports: 0..=u16::MAX,
            timeout: direct::DIAL_TIMEOUT,
        }
    }
}

/// Connects to `address`. All addresses of a name that may be dialed get their chance, so that one that is silent does not
/// hide one that answers.
///
/// # Cancel safety
/// Dropping the future abandons the dial.
pub(crate) async fn dial(address: &DialAddress, policy: &DialPolicy) -> Result<TcpStream, Refusal> {
    let limit = policy.timeout;
    let deadline = Instant::now() + limit;
    let port = address.port.get();
    let not_allowed = || {
        let message = format!("`{address}` is not among the addresses that may be dialed from here");
        Refusal::new(RefusalKind::NotAllowed, message)
    };
    let name = match &address.host {
        Host::Ip(ip) => {
            let address = SocketAddr::new(*ip, port);
            if !policy.allows(address) {
                return Err(not_allowed());
            }
            return direct::connect(address, limit).await;
        }
        Host::Name(name) => name.as_str(),
    };
    let mut found = match timeout_at(deadline, lookup_host((name, port))).await {
        Ok(Ok(found)) => found.collect::<Vec<_>>(),
        Ok(Err(error)) => {
            let message = format!("cannot resolve `{name}`: {error}");
            return Err(Refusal::new(RefusalKind::Unreachable, message));
        }
        Err(_) => {
            let message = format!("could not resolve `{name}` within {} s", limit.as_secs_f32());
            return Err(Refusal::new(RefusalKind::TimedOut, message));
        }
    };
    if found.is_empty() {
        let message = format!("`{name}` has no address");
        return Err(Refusal::new(RefusalKind::Unreachable, message));
    }
    // After resolving, and on the very addresses that are dialed: a name can point anywhere, and elsewhere the next
    // time it is asked for.
    found.retain(|address| policy.allows(*address));
    if found.is_empty() {
        return Err(not_allowed());
    }
    let left = deadline.saturating_duration_since(Instant::now());
    direct::connect_any(address, found, left).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_loopback_however_it_is_written() {
        let policy = DialPolicy::loopback();
        for (address, allowed) in [
            ("127.0.0.1:1", true),
            ("127.255.0.9:65535", true),
            ("[::1]:80", true),
            ("[::ffff:127.0.0.1]:80", true),
            ("[::ffff:10.0.0.1]:80", false),
            ("10.0.0.1:80", false),
            ("0.0.0.0:80", false),
            ("[::]:80", false),
            ("169.254.169.254:80", false),
            ("[fe80::1]:80", false),
        ] {
            assert_eq!(policy.allows(address.parse().unwrap()), allowed, "{address}");
            assert!(DialPolicy::default().allows(address.parse().unwrap()));
        }
    }

    #[tokio::test]
    async fn a_name_is_judged_by_its_address() {
        let policy = DialPolicy {
            networks: vec!["192.0.2.0/24".parse().unwrap()],
            ..DialPolicy::default()
        };
        for address in ["localhost:9", "127.0.0.1:9"] {
            let refusal = dial(&address.parse().unwrap(), &policy).await.unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::NotAllowed, "{refusal}");
            assert!(refusal.message.contains(address), "{refusal}");
        }
    }
}
