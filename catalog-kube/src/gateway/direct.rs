//! From inside the cluster: pods are dialed at their own addresses, and what an `ExternalName` stands for where that is wanted.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::lookup_host;
use tokio::time::{Instant, timeout};
use tunnel_bridge::direct::{self, DirectStream};
use tunnel_bridge::{ByteStream, DatagramFlow, Refusal, RefusalKind, udp};

use crate::road::{Endpoint, Host, Road};

/// How long a pod may take to answer. A node that is gone is silent, and another endpoint may answer.
const ANSWER: Duration = Duration::from_secs(3);

/// How long the cluster's DNS may take.
const RESOLVED: Duration = Duration::from_secs(3);

/// What becomes of services that stand for a name (`ExternalName`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum ExternalNames {
    /// They cannot be reached, and say so.
    #[default]
    Refused,
    /// The name is resolved where the gateway runs, for each connection, and its addresses are dialed: except those of the gateway's own
    /// machine, and of what clouds have at link-local addresses. Whoever may write a Service in a namespace that they are served has the
    /// gateway connect to whatever its own network reaches.
    Followed,
}

pub(crate) struct Direct {
    pub(crate) names: ExternalNames,
}

impl Direct {
    /// Where an endpoint is: one address, or those of a name.
    async fn addresses(&self, endpoint: &Endpoint) -> Result<Vec<SocketAddr>, Refusal> {
        let name = match &endpoint.host {
            Host::Address(address) => {
                let address = SocketAddr::new(*address, endpoint.port.get());
                return only_of_services(endpoint, vec![address]);
            }
            Host::Name(_) if self.names == ExternalNames::Refused => return Err(no_service(endpoint)),
            Host::Name(name) => absolute(name),
        };
        let refused = |kind, why: &str| Err(Refusal::new(kind, format!("cannot resolve `{name}`: {why}")));
        match timeout(RESOLVED, lookup_host((name.as_str(), endpoint.port.get()))).await {
            // On the very addresses that are dialed: a name may lead elsewhere the next time it is asked for.
            Ok(Ok(found)) => only_of_services(endpoint, found.collect()),
            Ok(Err(error)) => refused(RefusalKind::Unreachable, &error.to_string()),
            Err(_) => refused(RefusalKind::TimedOut, "no answer in time"),
        }
    }
}

#[async_trait]
impl Road for Direct {
    async fn open(&self, endpoint: &Endpoint, deadline: Instant) -> Result<Box<dyn ByteStream>, Refusal> {
        let addresses = self.addresses(endpoint).await?;
        let stream = direct::connect_any(endpoint, addresses, time(deadline)).await?;
        Ok(Box::new(DirectStream::from(stream)))
    }

    async fn open_datagrams(
        &self,
        endpoint: &Endpoint,
        deadline: Instant,
    ) -> Result<Box<dyn DatagramFlow>, Refusal> {
        let addresses = self.addresses(endpoint).await?;
        let first = addresses.into_iter().next().ok_or_else(|| no_service(endpoint))?;
        Ok(Box::new(udp::connect(first, time(deadline)).await?))
    }

    fn carries_datagrams(&self) -> bool {
        true
    }
}

fn time(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).min(ANSWER)
}

/// A name that means the same to every resolver: as the DNS has it, without the domains that the gateway's pod searches.
fn absolute(name: &str) -> String {
    if name.ends_with('.') {
        name.to_owned()
    } else {
        format!("{name}.")
    }
}

fn only_of_services(endpoint: &Endpoint, mut addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Refusal> {
    addresses.retain(|address| may_be_of_a_service(address.ip()));
    if addresses.is_empty() {
        return Err(no_service(endpoint));
    }
    Ok(addresses)
}

fn no_service(endpoint: &Endpoint) -> Refusal {
    let message = format!("{endpoint}: no address of a service");
    Refusal::new(RefusalKind::NotAllowed, message)
}

/// The API server takes no others into an EndpointSlice; the gateway's own machine, and what clouds have at link-local addresses, is
/// checked for again.
fn may_be_of_a_service(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            !(address.is_loopback()
                || address.is_link_local()
                || address.is_unspecified()
                || address.is_multicast()
                || address.is_broadcast())
        }
        IpAddr::V6(address) => {
            !(address.is_loopback()
                || address.is_unicast_link_local()
                || address.is_unspecified()
                || address.is_multicast()
                || address == METADATA_OF_AWS)
        }
    }
}

/// What AWS has at 169.254.169.254, in IPv6.
const METADATA_OF_AWS: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

#[cfg(test)]
mod tests {
    use service_catalog::Protocol;

    use super::*;

    fn endpoint(host: Host) -> Endpoint {
        Endpoint {
            host,
            port: 80.try_into().unwrap(),
            protocol: Protocol::Tcp,
            pod: None,
        }
    }

    async fn taken(names: ExternalNames, host: Host) -> Result<Vec<SocketAddr>, RefusalKind> {
        let road = Direct { names };
        let found = road.addresses(&endpoint(host)).await;
        found.map_err(|refusal| refusal.kind)
    }

    #[tokio::test]
    async fn the_gateways_own_machine_is_no_endpoint() {
        for names in [ExternalNames::Refused, ExternalNames::Followed] {
            for no in [
                "127.0.0.1",
                "::1",
                "::ffff:127.0.0.1",
                "169.254.169.254",
                "fd00:ec2::254",
                "fe80::1",
                "0.0.0.0",
                "224.0.0.1",
            ] {
                let found = taken(names, Host::Address(no.parse().unwrap())).await;
                assert_eq!(found, Err(RefusalKind::NotAllowed), "{no}");
            }
            for yes in ["10.1.2.3", "192.0.2.1", "fd00::1", "2001:db8::1"] {
                let address = yes.parse().unwrap();
                let found = taken(names, Host::Address(address)).await;
                assert_eq!(found, Ok(vec![SocketAddr::new(address, 80)]));
            }
        }
    }

    #[tokio::test]
    async fn a_name_is_followed_only_where_that_is_wanted_and_never_to_the_gateways_own_machine() {
        for names in [ExternalNames::Refused, ExternalNames::Followed] {
            // It leads to this machine, in a resolver that knows it (RFC 6761 §6.3).
            let found = taken(names, Host::Name("localhost".into())).await;
            assert!(found.is_err(), "{names:?}: {found:?}");
        }
        let found = taken(ExternalNames::Refused, Host::Name("db.invalid".into())).await;
        assert_eq!(found, Err(RefusalKind::NotAllowed));
        // No DNS has it (RFC 6761 §6.4), and it was asked for.
        let found = taken(ExternalNames::Followed, Host::Name("db.invalid".into())).await;
        assert!(
            matches!(found, Err(RefusalKind::Unreachable | RefusalKind::TimedOut)),
            "{found:?}"
        );
    }

    #[test]
    fn of_the_addresses_of_a_name_those_of_the_gateways_machine_are_left_out() {
        let of_name = endpoint(Host::Name("db.example".into()));
        let all = ["127.0.0.1:80", "10.1.2.3:80", "[::1]:80", "169.254.169.254:80"];
        let all: Vec<SocketAddr> = all.map(|address| address.parse().unwrap()).into();
        let left = only_of_services(&of_name, all).unwrap();
        assert_eq!(left, ["10.1.2.3:80".parse().unwrap()]);
        assert_eq!(
            only_of_services(&of_name, Vec::new()).unwrap_err().kind,
            RefusalKind::NotAllowed
        );
    }

    #[test]
    fn a_name_is_asked_for_without_the_domains_that_the_pod_searches() {
        assert_eq!(absolute("db.orders.svc"), "db.orders.svc.");
        assert_eq!(absolute("db.example."), "db.example.");
    }
}
