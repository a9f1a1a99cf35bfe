//! Where a program listens: an address, a port and the protocol spoken there.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// An address, a port and a transport protocol.
///
/// A TCP endpoint is displayed as a socket address, any other with its protocol behind it.
///
/// ```
/// use devbox_helper_client::{Endpoint, Protocol};
///
/// let web = Endpoint::tcp("127.77.3.4:80".parse()?);
/// assert_eq!(web.to_string(), "127.77.3.4:80");
/// let dns = Endpoint { port: 53, protocol: Protocol::Udp, ..web };
/// assert_eq!(dns.to_string(), "127.77.3.4:53/udp");
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Byte streams.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Endpoint {
    /// A TCP endpoint.
    #[must_use]
    pub const fn tcp(address: SocketAddr) -> Self {
        Self::new(address, Protocol::Tcp)
    }

    /// A UDP endpoint.
    #[must_use]
    pub const fn udp(address: SocketAddr) -> Self {
        Self::new(address, Protocol::Udp)
    }

    /// Address and port without the protocol.
    #[must_use]
    pub const fn socket_addr(self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }

    const fn new(address: SocketAddr, protocol: Protocol) -> Self {
        Self {
            address: address.ip(),
            port: address.port(),
            protocol,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket_addr().fmt(f)?;
        match self.protocol {
            Protocol::Tcp => Ok(()),
            Protocol::Udp => f.write_str("/udp"),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_form_names_every_part() {
        let endpoint = Endpoint::udp("[fd00:77::1]:53".parse().unwrap());
        let json = serde_json::to_string(&endpoint).unwrap();
        assert_eq!(json, r#"{"address":"fd00:77::1","port":53,"protocol":"udp"}"#);
        assert_eq!(serde_json::from_str::<Endpoint>(&json).unwrap(), endpoint);
        for bad in [
            r#"{"address":"127.77.0.2","port":53}"#,
            r#"{"address":"127.77.0.2","port":65536,"protocol":"tcp"}"#,
            r#"{"address":"127.77.0.2","port":53,"protocol":"sctp"}"#,
            r#"{"address":"127.77.0.2","port":53,"protocol":"tcp","reuse":true}"#,
        ] {
            assert!(serde_json::from_str::<Endpoint>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ipv6_is_displayed_in_brackets() {
        assert_eq!(
            Endpoint::udp("[fd00:77::1]:53".parse().unwrap()).to_string(),
            "[fd00:77::1]:53/udp"
        );
        assert_eq!(
            Endpoint::tcp("[fd00:77::1]:80".parse().unwrap()).to_string(),
            "[fd00:77::1]:80"
        );
    }
}
