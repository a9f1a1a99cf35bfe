use std::num::NonZeroU16;

use crate::{Protocol, ServiceId};

/// What can be wrong with a name, a service, a catalog or its wire form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is no RFC 1123 label.
    #[error("`{}` is not a usable name: {fault}", text.escape_debug())]
    Label {
        /// The text, cut to 64 characters.
        text: String,
        /// Which rule it breaks.
        fault: LabelFault,
    },
    /// The text is neither `name.namespace` nor `member.name.namespace`.
    #[error("`{}` is not a service id: it must read `name.namespace` or `member.name.namespace`", text.escape_debug())]
    ServiceId {
        /// The text, cut to 160 characters.
        text: String,
    },
    /// The text is not a [`Target`](crate::Target).
    #[error("`{}` is not a target: it must read `tcp/namespace/name/port` or `tcp/namespace/name/member/port`", text.escape_debug())]
    Target {
        /// The text, cut to 160 characters.
        text: String,
    },
    /// The protocol is neither `tcp` nor `udp`.
    #[error("unknown protocol `{}`: it must be `tcp` or `udp`", text.escape_debug())]
    Protocol {
        /// The text, cut to 64 characters.
        text: String,
    },
    /// A service that is another name for one has ports of its own.
    #[error("service `{service}` is another name for a service, so it can have no ports of its own")]
    AliasWithPorts {
        /// The service.
        service: ServiceId,
    },
    /// A service has an alias twice, its own name as an alias, or more than [`MAX_ALIASES`](crate::MAX_ALIASES).
    #[error("the aliases of service `{service}` must be at most 16 different names other than its own")]
    Aliases {
        /// The service.
        service: ServiceId,
    },
    /// A service has the same port twice.
    #[error("service `{service}` has port {port}/{protocol} twice")]
    DuplicatePort {
        /// The service.
        service: ServiceId,
        /// The port number.
        port: NonZeroU16,
        /// Its protocol.
        protocol: Protocol,
    },
    /// Two ports of a service have the same name.
    #[error("service `{service}` has two ports named `{name}`")]
    DuplicatePortName {
        /// The service.
        service: ServiceId,
        /// The name that is there twice.
        name: String,
    },
    /// A catalog or an update names the same service twice.
    #[error("service `{service}` is there twice")]
    DuplicateService {
        /// The service.
        service: ServiceId,
    },
    /// A port's target is empty, too long, or has other characters than printable ASCII.
    #[error("the target of port {port} of service `{service}` is not 1 to 255 printable ASCII characters")]
    TargetText {
        /// The service.
        service: ServiceId,
        /// The port number.
        port: NonZeroU16,
    },
    /// The far side speaks another version of the wire form.
    #[error("the catalog arrives in wire version {found}, this program knows {known}")]
    WireVersion {
        /// The version byte that arrived.
        found: u8,
        /// The version that this crate reads.
        known: u8,
    },
    /// A message is longer than the limit.
    #[error("a catalog message of {length} bytes is over the limit of {limit}")]
    TooLong {
        /// Its length in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A message is not what the wire form says.
    #[error("a catalog message is malformed: {message}")]
    Malformed {
        /// What the JSON reader says, with the place inside the message.
        message: String,
    },
    /// The bytes ended inside a message.
    #[error("the catalog ended inside a message: {missing} bytes are missing")]
    Truncated {
        /// How many bytes are missing at least.
        missing: usize,
    },
}

/// Which rule of RFC 1123 §2.1 a text breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LabelFault {
    /// There is no character.
    #[error("it is empty")]
    Empty,
    /// There are more than 63 characters.
    #[error("it has {length} characters, 63 are allowed")]
    TooLong {
        /// How many bytes there are.
        length: usize,
    },
    /// A character is not a lower case letter, a digit or `-`.
    #[error("`{}` is not a lower case letter, a digit or `-`", found.escape_debug())]
    Character {
        /// The first such character.
        found: char,
    },
    /// The first or the last character is `-`.
    #[error("it begins or ends with `-`")]
    HyphenAtEnd,
}

/// `text`, cut to `max` characters: an error must not carry a peer's megabyte.
pub(crate) fn cut(text: &str, max: usize) -> String {
    text.chars().take(max).collect()
}
