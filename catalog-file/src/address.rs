use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::str::FromStr;

use crate::Error;

/// What is dialed for a port of a service: `host:port`, where the host is an IP address (IPv6 in brackets) or a name that
/// this machine can resolve.
///
/// ```
/// use catalog_file::DialAddress;
/// for text in ["127.0.0.1:15432", "[::1]:80", "db.internal:5432"] {
///     assert_eq!(text.parse::<DialAddress>()?.to_string(), text);
/// }
/// assert!("db.internal".parse::<DialAddress>().is_err());
/// # Ok::<(), catalog_file::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DialAddress {
    /// The host.
    pub host: Host,
    /// The port.
    pub port: NonZeroU16,
}

/// The host of a [`DialAddress`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Host {
    /// An IP address.
    Ip(IpAddr),
    /// A name, resolved by this machine at each dial.
    Name(HostName),
}

/// A host name of at most 253 characters, in labels of letters, digits, `-` and `_` with dots between.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(String);

impl HostName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DialAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |fault| Error::DialAddress {
            text: text.chars().take(300).collect(),
            fault,
        };
        let (host, port) = text
            .rsplit_once(':')
            .ok_or_else(|| wrong("it must read host:port"))?;
        if port.starts_with('0') || port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(wrong("the port must be a number from 1 to 65535"));
        }
        let port = port
            .parse()
            .map_err(|_| wrong("the port must be a number from 1 to 65535"))?;
        let host = if let Some(host) = host.strip_prefix('[') {
            let ip: Option<Ipv6Addr> = host.strip_suffix(']').and_then(|ip| ip.parse().ok());
            Host::Ip(
                ip.ok_or_else(|| wrong("in brackets there must be an IPv6 address"))?
                    .into(),
            )
        } else if host.contains(':') {
            return Err(wrong("an IPv6 address must be in brackets"));
        } else if let Ok(ip) = host.parse() {
            Host::Ip(ip)
        } else if is_name(host) {
            Host::Name(HostName(host.to_owned()))
        } else {
            return Err(wrong("the host is neither an IP address nor a host name"));
        };
        Ok(Self { host, port })
    }
}

/// RFC 1123 §2.1, and `_`, which names of containers have. A name whose last label is a number would be read as an IPv4
/// address by some resolvers (RFC 3696 §2), so it is none.
fn is_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= 253 && text.split('.').all(is_label) && !last.starts_with(|c: char| c.is_ascii_digit())
}

impl TryFrom<SocketAddr> for DialAddress {
    type Error = Error;

    /// # Errors
    /// [`Error::DialAddress`] for port 0.
    fn try_from(address: SocketAddr) -> Result<Self, Error> {
        let port = NonZeroU16::new(address.port()).ok_or_else(|| Error::DialAddress {
            text: address.to_string(),
            fault: "the port must be a number from 1 to 65535",
        })?;
        Ok(Self {
            host: Host::Ip(address.ip()),
            port,
        })
    }
}

impl fmt::Display for DialAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(ip) => SocketAddr::new(*ip, self.port.get()).fmt(f),
            Host::Name(name) => write!(f, "{}:{}", name.0, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_host_and_port_is_refused_with_the_reason() {
        for (text, says) in [
            ("", "must read host:port"),
            ("localhost", "must read host:port"),
            ("localhost:", "port"),
            ("localhost:0", "port"),
            ("localhost:080", "port"),
            ("localhost:65536", "port"),
            ("localhost:+80", "port"),
            (":80", "neither"),
            ("::1:80", "brackets"),
            ("[::1:80", "brackets"),
            ("[127.0.0.1]:80", "brackets"),
            ("a b:80", "neither"),
            ("-a.b:80", "neither"),
            ("a..b:80", "neither"),
            ("127.1:80", "neither"),
            ("256.0.0.1:80", "neither"),
            ("http://a:80", "brackets"),
            ("a/b:80", "neither"),
        ] {
            let error = text.parse::<DialAddress>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn hosts_are_addresses_or_names() {
        for text in [
            "10.0.0.1:1",
            "[fd00::1]:65535",
            "localhost:80",
            "my_db.x-1.internal.:5432",
            "1and1.de:443",
        ] {
            assert_eq!(text.parse::<DialAddress>().unwrap().to_string(), text);
        }
    }
}
