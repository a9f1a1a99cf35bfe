//! The secret that a client shows a gateway.

use std::fmt;
use std::path::Path;

use crate::Error;

/// Longest token, in bytes.
pub const MAX_TOKEN_BYTES: usize = 4096;

/// A bearer token: 1 to [`MAX_TOKEN_BYTES`] visible ASCII characters. It is never printed.
///
/// There is no `PartialEq`: whoever checks a token compares [`Token::expose`]d bytes in constant time.
///
/// ```
/// # fn main() -> Result<(), tunnel_bridge::Error> {
/// let token = tunnel_bridge::Token::new("s3cret")?;
/// assert_eq!(format!("{token:?}"), "Token(..)");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Token(Box<str>);

impl Token {
    /// Checks a token's text.
    ///
    /// # Errors
    /// [`Error::BadToken`] when it is empty, too long or has anything but visible ASCII; the text is not in the error.
    pub fn new(text: &str) -> Result<Token, Error> {
        let why = if text.is_empty() {
            "it is empty"
        } else if text.len() > MAX_TOKEN_BYTES {
            "it is longer than 4096 bytes"
        } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            "it has characters other than visible ASCII"
        } else {
            return Ok(Token(text.into()));
        };
        Err(Error::BadToken { path: None, why })
    }

    /// Reads a token from a file; white space around it (an editor's last newline) is not part of it.
    ///
    /// # Errors
    /// [`Error::File`] when the file cannot be read, [`Error::BadToken`] when what it holds is no token.
    pub fn read(path: impl AsRef<Path>) -> Result<Token, Error> {
        let path = path.as_ref();
        let file = |source| Error::File {
            what: "token",
            path: path.into(),
            source,
        };
        let opened = std::fs::File::open(path).map_err(file)?;
        let mut text = String::new();
        let limit = 2 * MAX_TOKEN_BYTES as u64;
        std::io::Read::read_to_string(&mut std::io::Read::take(opened, limit), &mut text).map_err(file)?;
        Token::new(text.trim()).map_err(|error| match error {
            Error::BadToken { why, .. } => Error::BadToken {
                path: Some(path.into()),
                why,
            },
            other => other,
        })
    }

    /// The secret itself, for a header or a comparison in constant time. Never log it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}
