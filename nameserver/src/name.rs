//! Names as they are compared: absolute, in lower case, in wire form.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use triomphe::ThinArc;

use crate::error::Error;

/// A domain name, absolute, in lower case (RFC 4343), as on the wire: each label behind its length, the root's zero at the end.
///
/// ```
/// use nameserver::Name;
/// let name: Name = "Orders.Backend.".parse()?;
/// assert_eq!(name, "orders.backend".parse()?);
/// assert_eq!(name.to_string(), "orders.backend");
/// # Ok::<(), nameserver::Error>(())
/// ```
#[derive(Clone)]
pub struct Name(ThinArc<(), u8>);

impl Name {
    /// The longest name on the wire (RFC 1035 §2.3.4).
    pub const MAX_LEN: usize = 255;

    /// In wire form, lower case.
    pub fn as_wire(&self) -> &[u8] {
        &self.0.slice
    }

    /// Whether it is `*.something` (RFC 4592 §2.1.1).
    pub fn is_wildcard(&self) -> bool {
        self.as_wire().starts_with(b"\x01*")
    }

    /// The name one label up; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        parent(self.as_wire()).map(Self::from_lower_wire)
    }

    /// From wire form in lower case that is known to be well-formed.
    pub(crate) fn from_lower_wire(wire: &[u8]) -> Self {
        // A pointer of one word: a million names are a million of each of its copies.
        Self(ThinArc::from_header_and_slice((), wire))
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.as_wire() == other.as_wire()
    }
}

impl Eq for Name {}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_wire().cmp(other.as_wire())
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_wire().hash(state);
    }
}

/// The name one label up; `None` for the root.
pub(crate) fn parent(wire: &[u8]) -> Option<&[u8]> {
    let first = usize::from(*wire.first()?);
    (first > 0).then(|| wire.get(first + 1..)).flatten()
}

/// Whether `name` is `apex` or lies below it. Both in lower-case wire form.
pub(crate) fn is_within(name: &[u8], apex: &[u8]) -> bool {
    if !name.ends_with(apex) {
        return false;
    }
    // The bytes of the apex may also be the tail of a label: only a label's start counts.
    let start = name.len() - apex.len();
    let mut at = 0;
    while at < start {
        at += usize::from(name[at]) + 1;
    }
    at == start
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = |reason: String| Error::InvalidName {
            name: text.to_owned(),
            reason,
        };
        let mut wire = domain::base::Name::<Vec<u8>>::from_str(text)
            .map_err(|error| invalid(error.to_string()))?
            .into_octets();
        wire.make_ascii_lowercase();
        Ok(Self::from_lower_wire(&wire))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match domain::base::Name::from_octets(self.as_wire()) {
            Ok(name) => name.fmt(f),
            Err(_) => Err(fmt::Error),
        }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_is_within_its_zone_at_a_label_only() {
        let within = |a: &str, b: &str| is_within(name(a).as_wire(), name(b).as_wire());
        assert!(within("api.devbox.test", "devbox.test"));
        assert!(within("devbox.test", "devbox.test"));
        assert!(!within("apidevbox.test", "devbox.test"));
        assert!(!within("test", "devbox.test"));
        assert!(within("anything", "."));
        // A label whose last bytes look like the apex: length 12, then "x\x06devbox...".
        let tricky = b"\x0dx\x06devbox\x04test\x00";
        assert!(!is_within(tricky, name("devbox.test").as_wire()));
    }

    #[test]
    fn impossible_names_are_refused() {
        for text in ["", "a..b", &"a".repeat(64), &"abcdefg.".repeat(32)] {
            assert!(
                matches!(text.parse::<Name>(), Err(Error::InvalidName { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn parents_end_at_the_root() {
        assert_eq!(name("a.b").parent(), Some(name("b")));
        assert_eq!(name("b").parent(), Some(name(".")));
        assert_eq!(name(".").parent(), None);
        assert!(name("*.apps").is_wildcard());
    }
}
