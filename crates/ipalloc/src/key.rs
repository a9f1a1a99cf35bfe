//! The name that an address is leased to.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Error;

/// The name that an address is leased to, such as `dev/backend/orders`. Cheap to clone.
///
/// 1 to [`Key::MAX_BYTES`] bytes of visible ASCII without `=`, `#`, `"`, `\`, `<`, `>` and `|`, so that a key
/// stands in a lock file, in a merge conflict and in JSON as it is. What the parts of a key mean is the caller's affair; two keys
/// are the same when their bytes are.
///
/// ```
/// use ipalloc::Key;
///
/// let key = Key::new("dev/backend/orders")?;
/// assert_eq!(key.as_str(), "dev/backend/orders");
/// assert!(Key::new("two words").is_err());
/// # Ok::<(), ipalloc::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// The longest key.
    pub const MAX_BYTES: usize = 512;

    /// Checks a text and makes it a key.
    ///
    /// # Errors
    /// [`Error::BadKey`]
    pub fn new(text: &str) -> Result<Self, Error> {
        match fault(text) {
            None => Ok(Self(Arc::from(text))),
            // A key from a damaged file may be anything and of any length.
            Some(why) => Err(Error::BadKey {
                key: text.chars().take(80).collect(),
                why,
            }),
        }
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands in a place that holds no key. No checked key is empty.
    pub(crate) fn vacant() -> Self {
        Self(Arc::default())
    }

    /// Equality that is quick for clones of one key, whose text is in one place.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

fn fault(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        return Some("is empty");
    }
    if text.len() > Key::MAX_BYTES {
        return Some("is longer than 512 bytes");
    }
    let allowed = |byte: u8| {
        byte.is_ascii_graphic() && !matches!(byte, b'=' | b'#' | b'"' | b'\\' | b'<' | b'>' | b'|')
    };
    if text.bytes().all(allowed) {
        None
    } else {
        Some("has a byte that is not visible ASCII, or one of = # \" \\ < > |")
    }
}

impl FromStr for Key {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::new(text)
    }
}

impl AsRef<str> for Key {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.0)
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl serde::de::Visitor<'_> for Text {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Key, E> {
                Key::new(text).map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Text)
    }
}
