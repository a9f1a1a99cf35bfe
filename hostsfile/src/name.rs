//! The validated parts of a hosts file: host names, tags, owners, comments, zones.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// A host name that every resolver reads the same way: lower case, labels of 1 to 63 letters, digits and inner hyphens,
/// at most 253 bytes, no trailing dot, and no resemblance to an address.
///
/// Upper case is accepted but stored as lower case, since musl and macOS's file module compare case-sensitively although names
/// are case-insensitive (RFC 952, RFC 1123 §2.1).
/// ```
/// use hostsfile::HostName;
/// assert_eq!(HostName::new("Orders.Backend")?.as_str(), "orders.backend");
/// assert!(HostName::new("orders.backend.").is_err());
/// assert!(HostName::new("under_score").is_err());
/// assert!(HostName::with_underscore("under_score").is_ok());
/// # Ok::<(), hostsfile::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Box<str>);

impl HostName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`Error::InvalidName`] with the broken rule. Blanks around the name are refused, not trimmed.
    pub fn new(name: &str) -> Result<Self, Error> {
        Self::check(name, false)
    }

    /// Checks a name in which underscores are allowed wherever letters are. systemd-resolved ignores such names.
    ///
    /// # Errors
    /// [`Error::InvalidName`] as for [`new`](Self::new).
    pub fn with_underscore(name: &str) -> Result<Self, Error> {
        Self::check(name, true)
    }

    /// Turns any text into a label: each run of other characters becomes one hyphen, hyphens at the ends are removed, and
    /// everything beyond 63 bytes is cut. `None` if nothing is left. For callers; this crate never does it on its own.
    #[must_use]
    pub fn sanitize_label(text: &str) -> Option<HostName> {
        let mut label = String::new();
        for c in text.chars() {
            if c.is_ascii_alphanumeric() {
                label.push(c.to_ascii_lowercase());
            } else if !label.is_empty() && !label.ends_with('-') {
                label.push('-');
            }
            if label.len() == MAX_LABEL {
                break;
            }
        }
        HostName::new(label.trim_end_matches('-')).ok()
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn check(name: &str, underscore: bool) -> Result<Self, Error> {
        let refuse = |reason| {
            Err(Error::InvalidName {
                name: name.to_owned(),
                reason,
            })
        };
        if name.is_empty() {
            return refuse("it is empty");
        }
        if name.len() > MAX_NAME {
            return refuse("it is longer than 253 bytes");
        }
        let mut last = "";
        for label in name.split('.') {
            if label.is_empty() {
                return refuse("a label is empty (a leading, trailing or double dot)");
            }
            if label.len() > MAX_LABEL {
                return refuse("a label is longer than 63 bytes");
            }
            if label.starts_with('-') || label.ends_with('-') {
                return refuse("a label begins or ends with a hyphen");
            }
            if !label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || (underscore && b == b'_'))
            {
                return refuse("only letters, digits, hyphens and dots are allowed");
            }
            last = label;
        }
        // 10.1, 0x7f.1 and 123 are addresses to inet_aton(3), and so to musl.
        let numeric = last.bytes().all(|b| b.is_ascii_digit())
            || last
                .strip_prefix("0x")
                .or(last.strip_prefix("0X"))
                .is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        if numeric {
            return refuse("its last label is a number, so it would be read as an address");
        }
        Ok(HostName(name.to_ascii_lowercase().into_boxed_str()))
    }
}

/// The name of a managed block: 1 to 64 characters of `A-Z a-z 0-9 . _ -`. `default` is reserved.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(Box<str>);

impl Tag {
    /// Checks a tag.
    ///
    /// # Errors
    /// [`Error::InvalidTag`] with the broken rule.
    pub fn new(tag: &str) -> Result<Self, Error> {
        let refuse = |reason| {
            Err(Error::InvalidTag {
                tag: tag.to_owned(),
                reason,
            })
        };
        if !is_tag(tag.as_bytes()) {
            return refuse("it must be 1 to 64 characters of A-Z a-z 0-9 . _ -");
        }
        if tag == "default" {
            return refuse("the name is reserved");
        }
        Ok(Tag(tag.into()))
    }

    /// The tag as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Tag {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The process that a block belongs to, as a token of its own choice: 1 to 64 characters of `A-Z a-z 0-9 . _ : -`, for example
/// `pid.starttime.boot`. [`HostsFile::sweep`](crate::HostsFile::sweep) asks whether it is still alive.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(Box<str>);

impl Owner {
    /// Checks an owner token.
    ///
    /// # Errors
    /// [`Error::InvalidOwner`].
    pub fn new(owner: &str) -> Result<Self, Error> {
        if !is_attribute_value(owner.as_bytes()) {
            return Err(Error::InvalidOwner {
                owner: owner.to_owned(),
            });
        }
        Ok(Owner(owner.into()))
    }

    /// The token as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text after the `#` of an entry: 1 to 120 printable ASCII characters with no blank at either end.
///
/// Blanks around the given text are trimmed. The limit keeps every line we write below 510 bytes; musl takes what follows for
/// another line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Comment(Box<str>);

impl Comment {
    /// Checks a comment.
    ///
    /// # Errors
    /// [`Error::InvalidComment`] if it is empty, too long, or has a character that is not printable ASCII, such as a line break.
    pub fn new(comment: &str) -> Result<Self, Error> {
        let refuse = |reason| {
            Err(Error::InvalidComment {
                comment: comment.to_owned(),
                reason,
            })
        };
        if !comment.bytes().all(|b| (0x20..0x7f).contains(&b)) {
            return refuse("only printable ASCII characters are allowed");
        }
        let trimmed = comment.trim_matches(' ');
        if trimmed.is_empty() {
            return refuse("it is empty");
        }
        if trimmed.len() > MAX_COMMENT {
            return refuse("it is longer than 120 bytes");
        }
        Ok(Comment(trimmed.into()))
    }

    /// The comment as text, without the `#`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The comment that marks a managed line. It is the line's whole comment, not a part of it.
///
/// The rules of [`Comment`] apply. An empty marker is refused, since it would match every line without a comment.
pub type Marker = Comment;

/// The interface of a scoped IPv6 address, as in `fe80::1%lo0`: 1 to 15 characters of `A-Z a-z 0-9 . _ -`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Zone(Box<str>);

impl Zone {
    /// Checks a zone.
    ///
    /// # Errors
    /// [`Error::InvalidZone`].
    pub fn new(zone: &str) -> Result<Self, Error> {
        // IFNAMSIZ - 1 on Linux and the BSDs.
        if zone.is_empty() || zone.len() > 15 || !is_tag(zone.as_bytes()) {
            return Err(Error::InvalidZone {
                zone: zone.to_owned(),
                reason: "it must be 1 to 15 characters of A-Z a-z 0-9 . _ -",
            });
        }
        Ok(Zone(zone.into()))
    }

    /// The zone as text, without the `%`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! text_like {
    ($($name:ident),*) => {$(
        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self, Error> {
                $name::new(text)
            }
        }
        impl TryFrom<&str> for $name {
            type Error = Error;
            fn try_from(text: &str) -> Result<Self, Error> {
                $name::new(text)
            }
        }
        impl TryFrom<&String> for $name {
            type Error = Error;
            fn try_from(text: &String) -> Result<Self, Error> {
                $name::new(text)
            }
        }
        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self, Error> {
                $name::new(&text)
            }
        }
        impl From<&$name> for $name {
            fn from(value: &$name) -> Self {
                value.clone()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    )*};
}
text_like!(HostName, Tag, Owner, Comment, Zone);

pub(crate) fn is_tag(text: &[u8]) -> bool {
    (1..=64).contains(&text.len())
        && text
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

pub(crate) fn is_attribute_value(text: &[u8]) -> bool {
    (1..=64).contains(&text.len())
        && text
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-'))
}

const MAX_LABEL: usize = 63;
const MAX_NAME: usize = 253;
const MAX_COMMENT: usize = 120;
