use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::cut;
use crate::label::from_text;
use crate::{Error, Label};

/// The longest [`Port::target`] in bytes.
pub const MAX_TARGET_BYTES: usize = 255;

/// A service's full name inside its environment. Shown, parsed and serialized as `name.namespace`.
///
/// ```
/// use service_catalog::ServiceId;
/// let id: ServiceId = "orders.backend".parse()?;
/// assert_eq!((id.name.as_str(), id.namespace.as_str()), ("orders", "backend"));
/// assert_eq!(id.to_string(), "orders.backend");
/// # Ok::<(), service_catalog::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId {
    /// The namespace: a Kubernetes namespace, a project, a group of containers.
    pub namespace: Label,
    /// The service's name inside the namespace.
    pub name: Label,
}

impl ServiceId {
    /// Puts the two together.
    #[must_use]
    pub fn new(namespace: Label, name: Label) -> Self {
        Self { namespace, name }
    }
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{}", self.name.as_str(), self.namespace.as_str()))
    }
}

impl FromStr for ServiceId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (name, namespace) = text
            .split_once('.')
            .ok_or_else(|| Error::ServiceId { text: cut(text, 160) })?;
        Ok(Self {
            namespace: namespace.parse()?,
            name: name.parse()?,
        })
    }
}

impl Serialize for ServiceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ServiceId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "a service id: name.namespace")
    }
}

/// What is spoken under a port number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Byte streams.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Protocol {
    /// `tcp` or `udp`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Protocol {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            _ => Err(Error::Protocol { text: cut(text, 64) }),
        }
    }
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Port {
    /// What the service calls it, such as `http`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Label>,
    /// The number under which clients know it.
    pub port: NonZeroU16,
    /// What is spoken.
    pub protocol: Protocol,
    /// Where the far side dials, as it says: for display only, never dialled or resolved on this side. 1 to
    /// [`MAX_TARGET_BYTES`] printable ASCII characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

impl Port {
    /// An unnamed TCP port without a target to show.
    #[must_use]
    pub fn tcp(port: NonZeroU16) -> Self {
        Self {
            name: None,
            port,
            protocol: Protocol::Tcp,
            target: None,
        }
    }
}

/// A service: its name and its ports.
///
/// [`Service::new`] and deserialization check the ports; whoever writes the fields asks [`Service::check`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Service {
    /// Its full name.
    pub id: ServiceId,
    /// Its ports, in the order in which the far side tells them: at least one, none twice.
    pub ports: Vec<Port>,
}

impl Service {
    /// A checked service.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn new(id: ServiceId, ports: Vec<Port>) -> Result<Self, Error> {
        let service = Self { id, ports };
        service.check()?;
        Ok(service)
    }

    /// Whether the ports are in order.
    ///
    /// # Errors
    /// [`Error::NoPorts`], [`Error::DuplicatePort`] (same number and protocol), [`Error::DuplicatePortName`],
    /// [`Error::TargetText`].
    pub fn check(&self) -> Result<(), Error> {
        if self.ports.is_empty() {
            return Err(Error::NoPorts {
                service: self.id.clone(),
            });
        }
        let mut numbers = BTreeSet::new();
        let mut names = BTreeSet::new();
        for Port {
            name,
            port,
            protocol,
            target,
        } in &self.ports
        {
            if !numbers.insert((*port, *protocol)) {
                return Err(Error::DuplicatePort {
                    service: self.id.clone(),
                    port: *port,
                    protocol: *protocol,
                });
            }
            if let Some(name) = name
                && !names.insert(name)
            {
                return Err(Error::DuplicatePortName {
                    service: self.id.clone(),
                    name: name.to_string(),
                });
            }
            if target.as_deref().is_some_and(|text| !is_target_text(text)) {
                return Err(Error::TargetText {
                    service: self.id.clone(),
                    port: *port,
                });
            }
        }
        Ok(())
    }

    /// The port with this number and protocol.
    #[must_use]
    pub fn port(&self, port: NonZeroU16, protocol: Protocol) -> Option<&Port> {
        self.ports
            .iter()
            .find(|p| p.port == port && p.protocol == protocol)
    }
}

fn is_target_text(text: &str) -> bool {
    (1..=MAX_TARGET_BYTES).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
}

#[derive(Deserialize)]
struct Unchecked {
    id: ServiceId,
    ports: Vec<Port>,
}

impl TryFrom<Unchecked> for Service {
    type Error = Error;

    fn try_from(Unchecked { id, ports }: Unchecked) -> Result<Self, Error> {
        Self::new(id, ports)
    }
}
