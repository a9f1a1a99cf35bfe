//! The name that an address is leased to.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use arrayvec::ArrayString;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Error;

/// The name that an address is leased to, such as `dev/backend/orders`. Cheap to clone: up to 48 bytes are copied, more are shared.
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
#[derive(Clone)]
pub struct Key(Text);

/// Most keys stand where they are kept, so that finding one looks at one place of the memory; long ones are shared.
#[derive(Clone)]
enum Text {
    Short(ArrayString<48>),
    Long(Arc<str>),
}

impl Key {
    /// The longest key.
    pub const MAX_BYTES: usize = 512;

    /// Checks a text and makes it a key.
    ///
    /// # Errors
    /// [`Error::BadKey`]
    pub fn new(text: &str) -> Result<Self, Error> {
        match fault(text) {
            None => Ok(Self(
                ArrayString::from(text).map_or_else(|_| Text::Long(Arc::from(text)), Text::Short),
            )),
            // A key from a damaged file may be anything and of any length.
            Some(why) => Err(Error::BadKey {
                key: text.chars().take(80).collect(),
                why,
            }),
        }
    }

    /// The key as text.
    #[inline]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Text::Short(text) => text,
            Text::Long(text) => text,
        }
    }

    /// What stands in a place that holds no key. No checked key is empty.
    pub(crate) fn vacant() -> Self {
        Self(Text::Short(ArrayString::new_const()))
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

impl PartialEq for Key {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // As its text does, which it can be looked up by.
        self.as_str().hash(state);
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
        self.as_str()
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
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
