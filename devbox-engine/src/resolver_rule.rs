//! What the helper does so that the system asks the session's DNS server for one suffix: an interface of the session's own, an address of
//! the pool on it, and a rule that belongs to the interface. All of it is gone when the interface is.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use devbox_helper_client::{
    AsyncClient, Client, Error as ClientError, HelperError, InterfaceKind, NewInterface, NewResolver,
};
use ipnet::IpNet;
use nameserver::{Name, reverse_zones};
use sha2::{Digest, Sha256};

use crate::sys;

/// Where a rule is going to be.
#[derive(Debug, Clone)]
pub(crate) struct RulePlace {
    /// Its name, and the interface itself where the system has rules of interfaces.
    name: String,
    interface: Option<NewInterface>,
    address: IpAddr,
}

/// A rule that was made.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    place: RulePlace,
    resolver: NewResolver,
}

impl RulePlace {
    /// The address that the server has to answer on as well.
    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    /// Makes the interface and puts the address on it.
    pub(crate) async fn make(
        client: &AsyncClient,
        session: &str,
        pools: &[IpNet],
    ) -> Result<Self, ClientError> {
        if sys::RESOLVED.is_some_and(|folder| !Path::new(folder).is_dir()) {
            return Err(unsupported("systemd-resolved is not running"));
        }
        let address = address_of(session, pools)
            .ok_or_else(|| unsupported("no pool has room for an IPv4 address of the server's"))?;
        let mut place = Self {
            name: interface_of(session),
            interface: None,
            address: address.into(),
        };
        if sys::RESOLVED.is_some() {
            let interface = |kind| NewInterface {
                name: place.name.clone(),
                kind,
                mtu: None,
            };
            let mut made = client.create_interface(interface(InterfaceKind::Dummy)).await;
            let mut kind = InterfaceKind::Dummy;
            if matches!(made, Err(ClientError::Helper(_))) {
                kind = InterfaceKind::Tun;
                made = client.create_interface(interface(kind)).await;
            }
            made?;
            place.interface = Some(interface(kind));
        }
        // systemd-resolved uses no interface without an address that could be asked from elsewhere.
        let added = client
            .add_addresses(place.addresses(), place.interface_name())
            .await;
        if let Err(error) = added {
            place.unmake(client).await;
            return Err(error);
        }
        Ok(place)
    }

    /// Sets the rule there. Without the names of addresses where the helper grants only the suffix, as where another session has the pool
    /// as well.
    pub(crate) async fn set(
        self,
        client: &AsyncClient,
        suffix: &Name,
        pools: &[IpNet],
        server: SocketAddr,
    ) -> Result<Rule, ClientError> {
        let resolver = NewResolver {
            interface: self.name.clone(),
            suffixes: vec![suffix.to_string()],
            servers: vec![server],
        };
        let backwards = reverse_suffixes(pools);
        if !backwards.is_empty() {
            let mut whole = resolver.clone();
            whole.suffixes.extend(backwards);
            match client.set_resolver(whole.clone()).await {
                Ok(_) => {
                    return Ok(Rule {
                        place: self,
                        resolver: whole,
                    });
                }
                Err(error) => tracing::debug!(%error, "no rule for the names of addresses"),
            }
        }
        match client.set_resolver(resolver.clone()).await {
            Ok(report) => {
                tracing::debug!(changed = report.changed, notes = ?report.notes, %server, "resolver rule");
                Ok(Rule {
                    place: self,
                    resolver,
                })
            }
            Err(error) => {
                self.unmake(client).await;
                Err(error)
            }
        }
    }

    /// The helper undoes it at the session's end in any case.
    async fn unmake(&self, client: &AsyncClient) {
        if let Some(name) = self.interface_name()
            && let Err(error) = client.remove_interface(name).await
        {
            tracing::debug!(%error, "the interface stays until the end");
        }
    }

    fn interface_name(&self) -> Option<String> {
        self.interface.as_ref().map(|interface| interface.name.clone())
    }

    fn addresses(&self) -> Vec<String> {
        vec![self.address.to_string()]
    }
}

impl Rule {
    /// Has another helper make it again, in place of one that was killed.
    pub(crate) fn renew(self, client: &mut Client) -> Result<(), ClientError> {
        let name = self.place.interface_name();
        let addresses = self.place.addresses();
        if let Some(interface) = self.place.interface {
            client.create_interface(interface)?;
        }
        client.add_addresses(addresses, name)?;
        client.set_resolver(self.resolver).map(drop)
    }
}

/// What the addresses of the pools are called back by, as far as a rule makes a system ask for it.
fn reverse_suffixes(pools: &[IpNet]) -> Vec<String> {
    // systemd-resolved asks nobody for names of 127.0.0.0/8: it says `localhost` by itself (resolved-dns-scope.c).
    let asked = |pool: &&IpNet| sys::RESOLVED.is_none() || !pool.addr().is_loopback();
    let zones = pools.iter().filter(asked).map(reverse_zones);
    let zones = zones.filter(|zones| zones.len() <= MAX_ZONES);
    zones.flatten().map(|zone| zone.to_string()).collect()
}

/// A pool that has more of them goes without: each is a rule of the system.
const MAX_ZONES: usize = 16;

fn unsupported(what: &str) -> ClientError {
    ClientError::Helper(HelperError::Unsupported {
        what: what.to_owned(),
    })
}

/// `devbox-` and the random part of the session's id: 15 bytes, as long as Linux allows.
fn interface_of(session: &str) -> String {
    let random = session.rsplit('-').next().unwrap_or(session);
    format!("devbox-{}", random.get(..8).unwrap_or(random))
}

/// An address of the first IPv4 pool, by the session's id: it is one of 65,000 that services have as well, and what listens there does so
/// on a port of its own.
fn address_of(session: &str, pools: &[IpNet]) -> Option<Ipv4Addr> {
    let pool = pools.iter().find_map(|pool| match pool {
        IpNet::V4(pool) => Some(pool),
        IpNet::V6(_) => None,
    })?;
    let [a, b, c, d, ..] = <[u8; 32]>::from(Sha256::digest(session));
    // Neither the first nor the last one, which are the network's.
    let places = (1_u64 << (32 - pool.prefix_len()))
        .checked_sub(2)
        .filter(|places| *places > 0)?;
    let place = u64::from(u32::from_be_bytes([a, b, c, d])) % places + 1;
    Some(Ipv4Addr::from(
        pool.network().to_bits() + u32::try_from(place).ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_session_has_an_interface_and_an_address_of_its_own() {
        let pools = ["fd77::/64".parse().unwrap(), "127.77.0.0/16".parse().unwrap()];
        let names: Vec<_> = ["dev-1a2b3c4d", "session-99aabbcc"].map(interface_of).into();
        assert_eq!(names, ["devbox-1a2b3c4d", "devbox-99aabbcc"]);
        let first = address_of("dev-1a2b3c4d", &pools).unwrap();
        assert!(pools[1].contains(&IpAddr::from(first)));
        assert_ne!(Some(first), address_of("session-99aabbcc", &pools));
    }

    #[test]
    fn a_rule_has_the_names_of_addresses_that_the_system_would_ask_for() {
        let pools = ["127.77.0.0/16", "fd77::/64", "10.0.0.0/9"].map(|pool| pool.parse().unwrap());
        let suffixes = reverse_suffixes(&pools);
        let v6 = "0.0.0.0.0.0.0.0.0.0.0.0.7.7.d.f.ip6.arpa";
        if sys::RESOLVED.is_some() {
            assert_eq!(suffixes, [v6]);
        } else {
            assert_eq!(suffixes, ["77.127.in-addr.arpa", v6]);
        }
    }

    #[test]
    fn a_pool_of_one_or_two_addresses_has_none_to_spare() {
        let address = |pool: &str| address_of("dev-1a2b3c4d", &[pool.parse().unwrap()]);
        assert_eq!(address("127.77.0.2/32"), None);
        assert_eq!(address("127.77.0.2/31"), None);
        assert_eq!(
            address("127.77.0.0/30").map(|address| address.octets()[3] % 4 % 3 != 0),
            Some(true)
        );
        assert_eq!(address("fd77::/64"), None);
    }
}
