//! What a stream asks the far side for.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::Error;

/// Longest target, in bytes.
pub const MAX_TARGET_BYTES: usize = 512;

/// An opaque text that names what the far side shall connect a stream to.
///
/// The tunnel carries it and never looks inside: who may ask for what is the far side's business. It has 1 to
/// [`MAX_TARGET_BYTES`] bytes of UTF-8 without control characters, so that it can be shown and logged. Cloning is cheap.
///
/// ```
/// # fn main() -> Result<(), tunnel_bridge::Error> {
/// let target = tunnel_bridge::Target::new("tcp/backend/orders/5432")?;
/// assert_eq!(target.as_str(), "tcp/backend/orders/5432");
/// assert!(tunnel_bridge::Target::new("").is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target(Arc<str>);

impl Target {
    /// Checks a target's text.
    ///
    /// # Errors
    /// [`Error::BadTarget`] when it is empty, longer than [`MAX_TARGET_BYTES`] or has control characters.
    pub fn new(text: &str) -> Result<Target, Error> {
        let why = if text.is_empty() {
            "it is empty"
        } else if text.len() > MAX_TARGET_BYTES {
            "it is longer than 512 bytes"
        } else if text.chars().any(char::is_control) {
            "it has a control character"
        } else {
            return Ok(Target(text.into()));
        };
        Err(Error::BadTarget { why })
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Target, Error> {
        Target::new(text)
    }
}

impl AsRef<str> for Target {
    fn as_ref(&self) -> &str {
        &self.0
    }
}
