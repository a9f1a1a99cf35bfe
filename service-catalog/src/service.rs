use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::cut;
use crate::label::from_text;
use crate::line::{line, one_line};
use crate::{Error, Label};

/// The longest [`Port::target`] in bytes.
pub const MAX_TARGET_BYTES: usize = 255;

/// The most aliases of one service.
pub const MAX_ALIASES: usize = 16;

/// A service's full name inside its environment. Shown, parsed and serialized as `name.namespace`, a single member of
/// a headless service as `member.name.namespace`.
///
/// ```
/// use service_catalog::ServiceId;
/// let id: ServiceId = "orders.backend".parse()?;
/// assert_eq!((id.name.as_str(), id.namespace.as_str()), ("orders", "backend"));
/// assert_eq!(id.to_string(), "orders.backend");
///
/// let member: ServiceId = "db-0.db.backend".parse()?;
/// assert_eq!(member.member.as_ref().map(|label| label.as_str()), Some("db-0"));
/// assert_eq!(member.to_string(), "db-0.db.backend");
/// # Ok::<(), service_catalog::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId {
    /// The namespace: a Kubernetes namespace, a project, a group of containers.
    pub namespace: Label,
    /// The service's name inside the namespace.
    pub name: Label,
    /// One member of the service, which is reached by a name and an address of its own: a pod of a headless service.
    pub member: Option<Label>,
}

impl ServiceId {
    /// A service.
    #[must_use]
    pub fn new(namespace: Label, name: Label) -> Self {
        Self {
            namespace,
            name,
            member: None,
        }
    }

    /// One member of this service.
    #[must_use]
    pub fn with_member(self, member: Label) -> Self {
        Self {
            member: Some(member),
            ..self
        }
    }
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            namespace,
            name,
            member,
        } = self;
        match member {
            Some(member) => f.pad(&format!("{member}.{name}.{namespace}")),
            None => f.pad(&format!("{name}.{namespace}")),
        }
    }
}

impl FromStr for ServiceId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut labels = text.split('.');
        let (first, second, third) = match (labels.next(), labels.next(), labels.next(), labels.next()) {
            (Some(name), Some(namespace), None, None) => (None, name, namespace),
            (Some(member), Some(name), Some(namespace), None) => (Some(member), name, namespace),
            _ => return Err(Error::ServiceId { text: cut(text, 160) }),
        };
        Ok(Self {
            namespace: third.parse()?,
            name: second.parse()?,
            member: first.map(str::parse).transpose()?,
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

/// Whether a service can answer at the moment, as far as the far side knows.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Readiness {
    /// Nothing speaks against it.
    #[default]
    Ready,
    /// Connections are expected to fail.
    NotReady {
        /// Why: one line, at most [`MAX_REASON_BYTES`](crate::MAX_REASON_BYTES) bytes, no control or format characters.
        #[serde(deserialize_with = "one_line")]
        reason: String,
    },
}

impl Readiness {
    /// [`Readiness::NotReady`] with `reason` made fit for a terminal, as [`Health::stale`](crate::Health::stale) does.
    #[must_use]
    pub fn not_ready(reason: &str) -> Self {
        Self::NotReady { reason: line(reason) }
    }

    fn is_ready(&self) -> bool {
        *self == Self::Ready
    }
}

/// A service: its name, its ports, and by which further names it is known.
///
/// [`Service::new`] and deserialization check it; code that writes the fields calls [`Service::check`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Service {
    /// Its full name.
    pub id: ServiceId,
    /// Its ports, in the order in which the far side lists them, none twice. A service without ports has a name and
    /// an address, and nothing to connect to.
    pub ports: Vec<Port>,
    /// Whether it can answer at the moment.
    #[serde(default, skip_serializing_if = "Readiness::is_ready")]
    pub readiness: Readiness,
    /// Further names in its own namespace that its owner gave it: `db` for `orders-postgres`. At most
    /// [`MAX_ALIASES`], none twice, none its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<Label>,
    /// The service that this one is another name for. It has that one's address, and no ports of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias_of: Option<ServiceId>,
    /// The address that its owner wants it to have on every machine. A machine whose pool does not have it, or has it for another
    /// service, says so and chooses one as for any other service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<IpAddr>,
    /// Its place among the services of this catalog that would have the same name: the lowest has it. Those without one come last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<u16>,
}

impl Service {
    /// A ready service without aliases, checked.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn new(id: ServiceId, ports: Vec<Port>) -> Result<Self, Error> {
        let service = Self {
            id,
            ports,
            readiness: Readiness::Ready,
            aliases: Vec::new(),
            alias_of: None,
            pin: None,
            order: None,
        };
        service.check()?;
        Ok(service)
    }

    /// Another name for `target`.
    #[must_use]
    pub fn alias(id: ServiceId, target: ServiceId) -> Self {
        Self {
            id,
            ports: Vec::new(),
            readiness: Readiness::Ready,
            aliases: Vec::new(),
            alias_of: Some(target),
            pin: None,
            order: None,
        }
    }

    /// Whether ports and aliases are in order.
    ///
    /// # Errors
    /// [`Error::DuplicatePort`] (same number and protocol), [`Error::DuplicatePortName`], [`Error::TargetText`],
    /// [`Error::AliasWithPorts`], [`Error::Aliases`].
    pub fn check(&self) -> Result<(), Error> {
        if self.alias_of.is_some() && !self.ports.is_empty() {
            return Err(Error::AliasWithPorts {
                service: self.id.clone(),
            });
        }
        let distinct: BTreeSet<_> = self.aliases.iter().collect();
        if distinct.len() != self.aliases.len()
            || self.aliases.len() > MAX_ALIASES
            || (self.id.member.is_none() && distinct.contains(&self.id.name))
        {
            return Err(Error::Aliases {
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
    #[serde(default)]
    readiness: Readiness,
    #[serde(default)]
    aliases: Vec<Label>,
    #[serde(default)]
    alias_of: Option<ServiceId>,
    #[serde(default)]
    pin: Option<IpAddr>,
    #[serde(default)]
    order: Option<u16>,
}

impl TryFrom<Unchecked> for Service {
    type Error = Error;

    fn try_from(unchecked: Unchecked) -> Result<Self, Error> {
        let Unchecked {
            id,
            ports,
            readiness,
            aliases,
            alias_of,
            pin,
            order,
        } = unchecked;
        let service = Self {
            id,
            ports,
            readiness,
            aliases,
            alias_of,
            pin,
            order,
        };
        service.check()?;
        Ok(service)
    }
}
