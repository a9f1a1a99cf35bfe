use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::cut;
use crate::{Error, LabelFault};

/// The longest label in bytes (RFC 1035 §2.3.4).
pub const MAX_LABEL_BYTES: usize = 63;

/// One part of a name between two dots: 1 to 63 characters of `a-z`, `0-9` and `-`, no `-` at the ends
/// (RFC 1123 §2.1, as Kubernetes reads it: lower case only).
///
/// A clone is cheap: it shares the text.
///
/// ```
/// use service_catalog::Label;
/// let label: Label = "orders".parse()?;
/// assert_eq!(label.as_str(), "orders");
/// assert!("Orders".parse::<Label>().is_err());
/// assert!("orders.evil".parse::<Label>().is_err());
/// # Ok::<(), service_catalog::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(Arc<str>);

impl Label {
    /// Checks `text`.
    ///
    /// # Errors
    /// [`Error::Label`] with the rule that `text` breaks.
    pub fn new(text: &str) -> Result<Self, Error> {
        match fault(text) {
            None => Ok(Self(text.into())),
            Some(fault) => Err(Error::Label {
                text: cut(text, 64),
                fault,
            }),
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn fault(text: &str) -> Option<LabelFault> {
    if text.is_empty() {
        return Some(LabelFault::Empty);
    }
    if text.len() > MAX_LABEL_BYTES {
        return Some(LabelFault::TooLong { length: text.len() });
    }
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if let Some(found) = text.chars().find(|&c| !allowed(c)) {
        return Some(LabelFault::Character { found });
    }
    (text.starts_with('-') || text.ends_with('-')).then_some(LabelFault::HyphenAtEnd)
}

impl FromStr for Label {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::new(text)
    }
}

impl TryFrom<&str> for Label {
    type Error = Error;

    fn try_from(text: &str) -> Result<Self, Error> {
        Self::new(text)
    }
}

impl AsRef<str> for Label {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

// Sound: Eq, Ord and Hash of `Label` are those of its text.
impl Borrow<str> for Label {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Serialize for Label {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Label {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "a name of a-z, 0-9 and -")
    }
}

/// Reads a string and parses it: the serde form of every type here that is text.
pub(crate) fn from_text<'de, D, T>(deserializer: D, expecting: &'static str) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err = Error>,
{
    struct Text<T>(&'static str, std::marker::PhantomData<T>);
    impl<T: FromStr<Err = Error>> serde::de::Visitor<'_> for Text<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }
    deserializer.deserialize_str(Text(expecting, std::marker::PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_has_its_fault() {
        let fault_of = |text: &str| match Label::new(text) {
            Err(Error::Label { fault, .. }) => Some(fault),
            _ => None,
        };
        assert_eq!(fault_of("a"), None);
        assert_eq!(fault_of("0-9"), None);
        assert_eq!(fault_of(&"a".repeat(63)), None);
        assert_eq!(fault_of(""), Some(LabelFault::Empty));
        assert_eq!(
            fault_of(&"a".repeat(64)),
            Some(LabelFault::TooLong { length: 64 })
        );
        assert_eq!(fault_of("UPPER"), Some(LabelFault::Character { found: 'U' }));
        assert_eq!(fault_of("a.b"), Some(LabelFault::Character { found: '.' }));
        assert_eq!(
            fault_of("a\n127.0.0.1 bank"),
            Some(LabelFault::Character { found: '\n' })
        );
        assert_eq!(fault_of("ä"), Some(LabelFault::Character { found: 'ä' }));
        assert_eq!(fault_of("-a"), Some(LabelFault::HyphenAtEnd));
        assert_eq!(fault_of("a-"), Some(LabelFault::HyphenAtEnd));
    }

    #[test]
    fn an_error_does_not_repeat_control_characters() {
        let text = Label::new("a\u{1b}[2J").unwrap_err().to_string();
        assert!(!text.contains('\u{1b}'), "{text}");
    }
}
