//! The names in a change, checked once.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;

/// Longest name of an interface: Linux keeps 16 bytes with the NUL (IFNAMSIZ).
const MAX_INTERFACE: usize = 15;

/// Longest word of an [`Owner`], so that an interface's name has room for more than it.
const MAX_OWNER: usize = 8;

/// Longest label of a name (RFC 1035 §2.3.4).
const MAX_LABEL: usize = 63;

/// Longest name, as text without the final dot (RFC 1035 §2.3.4).
const MAX_NAME: usize = 253;

/// Whose changes these are: a short word, with which every interface's name begins, and which is in each mark that a system can keep.
///
/// ```
/// use netif::{InterfaceName, Owner};
/// let owner = Owner::new("devbox")?;
/// assert!(owner.has(&InterfaceName::new("devbox0")?));
/// assert!(!owner.has(&InterfaceName::new("eth0")?));
/// # Ok::<(), netif::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Owner(String);

impl Owner {
    /// Checks a word: 1 to 8 bytes, `a-z` and `0-9`, a letter first.
    ///
    /// # Errors
    /// [`Error::InvalidName`] for any other text.
    pub fn new(word: &str) -> Result<Self, Error> {
        let fits = (1..=MAX_OWNER).contains(&word.len())
            && word.starts_with(|c: char| c.is_ascii_lowercase())
            && word.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        if !fits {
            return Err(invalid("owner", word, "1 to 8 of a-z and 0-9, a letter first"));
        }
        Ok(Self(word.to_owned()))
    }

    /// The word.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether an interface of this name may be this owner's.
    #[must_use]
    pub fn has(&self, interface: &InterfaceName) -> bool {
        interface.0.starts_with(&self.0)
    }

    /// What an interface of this owner has as its alias (Linux, `IFLA_IFALIAS`).
    #[must_use]
    pub fn alias(&self) -> String {
        format!("{}:netif", self.0)
    }

    /// What this owner's routes and addresses bear where a system keeps a number beside them (Linux, `rtm_protocol` and `IFA_PROTO`):
    /// 100 to 163, by the word's bytes. The kernel, routing daemons and network managers use numbers outside that range.
    #[must_use]
    pub fn mark(&self) -> u8 {
        const FIRST: u8 = 100;
        const MARKS: u8 = 64;
        // FNV-1a, so that two words seldom have the same one.
        let hash = self.0.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        let folded = hash.to_be_bytes().iter().fold(0, |folded, byte| folded ^ byte);
        FIRST + folded % MARKS
    }
}

/// The name of an interface: 1 to 15 bytes, `a-z`, `0-9` and `-`, a letter first.
///
/// It never names the loopback interface, which each system calls differently: that is [`Device::Loopback`](crate::Device).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InterfaceName(String);

impl InterfaceName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`Error::InvalidName`] for any other text, and for `lo`.
    pub fn new(name: &str) -> Result<Self, Error> {
        let fits = (1..=MAX_INTERFACE).contains(&name.len())
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name
                .bytes()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-');
        if !fits || matches!(name, "lo" | "lo0") {
            let expected = "1 to 15 of a-z, 0-9 and -, a letter first, and not the loopback interface";
            return Err(invalid("interface", name, expected));
        }
        Ok(Self(name.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The end of names that a resolver rule is for: `cluster.local` is for itself and for all names below it.
///
/// Lower case, labels of 1 to 63 letters, digits and inner hyphens, at most 253 bytes, no dot at either end. The root, which all names end
/// with, is no suffix.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Suffix(String);

impl Suffix {
    /// Checks a suffix. Upper case is taken as lower case, as names are compared (RFC 1035 §2.3.3).
    ///
    /// # Errors
    /// [`Error::InvalidName`] for any other text.
    pub fn new(suffix: &str) -> Result<Self, Error> {
        let lower = suffix.to_ascii_lowercase();
        let label = |label: &str| {
            (1..=MAX_LABEL).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
        };
        if lower.len() > MAX_NAME || !lower.split('.').all(label) {
            let expected = "labels of letters, digits and inner hyphens, with dots between them";
            return Err(invalid("suffix", suffix, expected));
        }
        Ok(Self(lower))
    }

    /// The suffix, without a dot at either end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether every name below `other` is below this one as well.
    #[must_use]
    pub fn covers(&self, other: &Suffix) -> bool {
        other
            .0
            .strip_suffix(&self.0)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }
}

fn invalid(what: &'static str, text: &str, expected: &'static str) -> Error {
    Error::InvalidName {
        what,
        text: text.to_owned(),
        expected,
    }
}

macro_rules! text_of {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;

            fn try_from(text: String) -> Result<Self, Error> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }
    };
}

text_of!(Owner);
text_of!(InterfaceName);
text_of!(Suffix);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_named_so_that_every_system_and_every_command_line_takes_it() {
        for good in ["devbox0", "d", "devbox-a1", "abcdefghijklmno"] {
            assert_eq!(InterfaceName::new(good).unwrap().to_string(), good);
        }
        for bad in [
            "",
            "lo",
            "lo0",
            "0devbox",
            "-d",
            "Devbox0",
            "dev box",
            "a/b",
            "..",
            "a\n",
            "dévbox",
            "abcdefghijklmnop",
        ] {
            assert!(InterfaceName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_suffix_has_labels_and_is_never_the_root() {
        assert_eq!(Suffix::new("Cluster.Local").unwrap().as_str(), "cluster.local");
        let long = format!("{}.x", "a".repeat(64));
        for bad in [
            "", ".", "a.", ".a", "a..b", "-a", "a-", "a_b", "a b", "a\nb", "~a", "*", &long,
        ] {
            assert!(Suffix::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_suffix_covers_itself_and_what_is_below_it() {
        let suffix = |text| Suffix::new(text).unwrap();
        assert!(suffix("test").covers(&suffix("test")));
        assert!(suffix("test").covers(&suffix("a.test")));
        assert!(!suffix("a.test").covers(&suffix("test")));
        assert!(!suffix("est").covers(&suffix("test")));
    }

    #[test]
    fn what_was_written_down_is_checked_when_it_is_read_again() {
        assert!(serde_json::from_str::<InterfaceName>("\"devbox0\"").is_ok());
        assert!(serde_json::from_str::<InterfaceName>("\"../x\"").is_err());
        assert!(serde_json::from_str::<Suffix>("\".\"").is_err());
        assert!(serde_json::from_str::<Owner>("\"toolongowner\"").is_err());
    }
}
