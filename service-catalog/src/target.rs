use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::cut;
use crate::label::from_text;
use crate::{Error, Protocol, ServiceId};

/// What a stream of the tunnel asks for: one port of one service of the catalog, never a free host and port.
///
/// Shown, parsed and serialized as `tcp/backend/orders/5432`, and as `tcp/backend/db/db-0/5432` for one member of a service.
///
/// ```
/// use service_catalog::{Protocol, Target};
/// let target: Target = "tcp/backend/orders/5432".parse()?;
/// assert_eq!(target.service.to_string(), "orders.backend");
/// assert_eq!((target.port.get(), target.protocol), (5432, Protocol::Tcp));
/// assert_eq!(target.to_string(), "tcp/backend/orders/5432");
/// assert!("tcp/10.0.0.1/22".parse::<Target>().is_err());
/// # Ok::<(), service_catalog::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// Which service.
    pub service: ServiceId,
    /// Which of its ports.
    pub port: NonZeroU16,
    /// What is spoken there.
    pub protocol: Protocol,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ServiceId {
            namespace,
            name,
            member,
        } = &self.service;
        let (protocol, port) = (self.protocol, self.port);
        match member {
            Some(member) => f.pad(&format!("{protocol}/{namespace}/{name}/{member}/{port}")),
            None => f.pad(&format!("{protocol}/{namespace}/{name}/{port}")),
        }
    }
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let malformed = || Error::Target { text: cut(text, 160) };
        let parts: Vec<_> = text.split('/').take(6).collect();
        let (protocol, namespace, name, member, port) = match parts[..] {
            [protocol, namespace, name, port] => (protocol, namespace, name, None, port),
            [protocol, namespace, name, member, port] => (protocol, namespace, name, Some(member), port),
            _ => return Err(malformed()),
        };
        // One text for one target: no `+80`, no `080`.
        if port.starts_with('0') || !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(malformed());
        }
        Ok(Self {
            protocol: protocol.parse()?,
            service: ServiceId {
                namespace: namespace.parse()?,
                name: name.parse()?,
                member: member.map(str::parse).transpose()?,
            },
            port: port.parse().map_err(|_| malformed())?,
        })
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(
            deserializer,
            "a target: tcp/namespace/name/port or tcp/namespace/name/member/port",
        )
    }
}
