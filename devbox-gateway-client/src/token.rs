use std::fmt;
use std::path::Path;

use crate::Error;

/// The longest token, in bytes.
pub const MAX_TOKEN_BYTES: usize = 4096;

/// A bearer token: 1 to [`MAX_TOKEN_BYTES`] visible ASCII characters. It is never printed.
///
/// There is no `PartialEq`: whoever checks a token compares [`expose`](Token::expose)d bytes in constant time.
///
/// ```
/// let token = devbox_gateway_client::Token::new("s3cret")?;
/// assert_eq!(format!("{token:?}"), "Token(..)");
/// # Ok::<(), devbox_gateway_client::Error>(())
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

    /// Reads a token from a file. White space around it (an editor's last newline) is not part of it.
    ///
    /// # Errors
    /// [`Error::ReadToken`] when the file cannot be read, [`Error::BadToken`] when what it holds is no token.
    pub fn read(path: impl AsRef<Path>) -> Result<Token, Error> {
        let path = path.as_ref();
        let failed = |source| Error::ReadToken {
            path: path.into(),
            source,
        };
        let file = std::fs::File::open(path).map_err(failed)?;
        let mut text = String::new();
        let limit = 2 * MAX_TOKEN_BYTES as u64;
        std::io::Read::read_to_string(&mut std::io::Read::take(file, limit), &mut text).map_err(failed)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_visible_ascii() {
        for bad in ["", "two words", "ü", "tab\t", &"x".repeat(4097)] {
            assert!(matches!(Token::new(bad), Err(Error::BadToken { .. })), "{bad:?}");
        }
        assert_eq!(Token::new(&"x".repeat(4096)).unwrap().expose().len(), 4096);
    }

    #[test]
    fn a_token_file_holds_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "  abc\r\n").unwrap();
        assert_eq!(Token::read(&path).unwrap().expose(), "abc");
        std::fs::write(&path, "a b").unwrap();
        let error = Token::read(&path).unwrap_err().to_string();
        assert!(
            error.contains(path.to_str().unwrap()) && !error.contains("a b"),
            "{error}"
        );
        let missing = Token::read(dir.path().join("none"));
        assert!(matches!(missing, Err(Error::ReadToken { .. })));
    }
}
