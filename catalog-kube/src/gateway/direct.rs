//! From inside the cluster: pods are dialed at their own addresses.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use tunnel_bridge::direct::{self, DirectStream};
use tunnel_bridge::{ByteStream, DatagramFlow, Refusal, RefusalKind, udp};

use crate::road::{Endpoint, Host, Road};

/// How long a pod may take to answer. A node that is gone is silent, and another endpoint may answer.
const ANSWER: Duration = Duration::from_secs(3);

pub(crate) struct Direct;

#[async_trait]
impl Road for Direct {
    async fn open(&self, endpoint: &Endpoint, deadline: Instant) -> Result<Box<dyn ByteStream>, Refusal> {
        let stream = direct::connect(address(endpoint)?, time(deadline)).await?;
        Ok(Box::new(DirectStream::from(stream)))
    }

    async fn open_datagrams(
        &self,
        endpoint: &Endpoint,
        deadline: Instant,
    ) -> Result<Box<dyn DatagramFlow>, Refusal> {
        Ok(Box::new(udp::connect(address(endpoint)?, time(deadline)).await?))
    }

    fn carries_datagrams(&self) -> bool {
        true
    }
}

fn time(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).min(ANSWER)
}

/// Where an endpoint is, if it can be one of a service. The API server takes no others into an EndpointSlice; the gateway's own
/// machine, and what clouds have at link-local addresses, is checked for again.
fn address(endpoint: &Endpoint) -> Result<SocketAddr, Refusal> {
    let refused = || {
        let message = format!("{endpoint}: no address of a service");
        Refusal::new(RefusalKind::NotAllowed, message)
    };
    let Host::Address(at) = endpoint.host else {
        return Err(refused());
    };
    let elsewhere = match at.to_canonical() {
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
                || address.is_multicast())
        }
    };
    if elsewhere {
        Ok(SocketAddr::new(at, endpoint.port.get()))
    } else {
        Err(refused())
    }
}

#[cfg(test)]
mod tests {
    use service_catalog::Protocol;

    use super::*;

    #[test]
    fn the_gateways_own_machine_is_no_endpoint() {
        let taken = |host: Host| {
            let endpoint = Endpoint {
                host,
                port: 80.try_into().unwrap(),
                protocol: Protocol::Tcp,
                pod: None,
            };
            address(&endpoint).is_ok()
        };
        for no in [
            "127.0.0.1",
            "::1",
            "::ffff:127.0.0.1",
            "169.254.169.254",
            "fe80::1",
            "0.0.0.0",
            "224.0.0.1",
        ] {
            assert!(!taken(Host::Address(no.parse().unwrap())), "{no}");
        }
        for yes in ["10.1.2.3", "192.0.2.1", "fd00::1", "2001:db8::1"] {
            assert!(taken(Host::Address(yes.parse().unwrap())), "{yes}");
        }
        assert!(!taken(Host::Name("localhost".into())));
    }
}
