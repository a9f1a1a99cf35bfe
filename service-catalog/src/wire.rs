//! Updates as bytes: sans IO, versioned, bounded.
//!
//! A message is a header of 4 bytes and a body: the version ([`VERSION`]), the length of the body in 3 bytes
//! (big endian), and the [`Update`] as JSON. Messages follow each other with nothing between. Within a
//! version fields may be added, and readers pass over those that they do not know; anything else is a new
//! version.
//!
//! ```
//! use service_catalog::{Catalog, Update, wire};
//!
//! let update = Update::Snapshot(Catalog::empty("dev".parse()?));
//! let bytes = wire::Encoder::new().encode(&update)?;
//!
//! let mut decoder = wire::Decoder::new();
//! for byte in bytes {
//!     decoder.handle_bytes(&[byte]);
//! }
//! assert_eq!(decoder.poll_update()?, Some(update));
//! assert_eq!(decoder.poll_update()?, None);
//! decoder.handle_end()?;
//! # Ok::<(), service_catalog::Error>(())
//! ```

use crate::{Error, Update};

/// The version that this crate writes and reads.
pub const VERSION: u8 = 1;

/// The longest body of a message in bytes: 16 MiB less one, what 3 bytes can say.
pub const MAX_MESSAGE_BYTES: usize = (1 << 24) - 1;

const HEADER_BYTES: usize = 4;

/// Turns updates into bytes.
#[derive(Debug, Clone, Default)]
pub struct Encoder {
    _private: (),
}

impl Encoder {
    /// An encoder of [`VERSION`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One message.
    ///
    /// # Errors
    /// [`Error::TooLong`] where the body would be over [`MAX_MESSAGE_BYTES`]; [`Error::Malformed`] where it
    /// cannot be written as JSON, which no update of this crate's types is known to cause.
    pub fn encode(&mut self, update: &Update) -> Result<Vec<u8>, Error> {
        let mut message = vec![0; HEADER_BYTES];
        serde_json::to_writer(&mut message, update).map_err(malformed)?;
        let length = message.len() - HEADER_BYTES;
        if length > MAX_MESSAGE_BYTES {
            return Err(Error::TooLong {
                length,
                limit: MAX_MESSAGE_BYTES,
            });
        }
        let [.., a, b, c] = length.to_be_bytes();
        message[..HEADER_BYTES].copy_from_slice(&[VERSION, a, b, c]);
        Ok(message)
    }
}

/// Turns bytes into updates, however they are cut.
///
/// It holds the bytes that were given and not yet polled: poll until `None` after each
/// [`handle_bytes`](Self::handle_bytes), and it holds less than one message and one input. After an error it stays in
/// error.
#[derive(Debug, Clone)]
pub struct Decoder {
    bytes: Vec<u8>,
    /// How much of `bytes` was used already.
    used: usize,
    max_message_bytes: usize,
    failed: Option<Error>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            used: 0,
            max_message_bytes: MAX_MESSAGE_BYTES,
            failed: None,
        }
    }
}

impl Decoder {
    /// A decoder for messages of up to [`MAX_MESSAGE_BYTES`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A decoder for messages of up to `max_message_bytes` (at most [`MAX_MESSAGE_BYTES`]).
    #[must_use]
    pub fn with_limit(max_message_bytes: usize) -> Self {
        Self {
            max_message_bytes: max_message_bytes.min(MAX_MESSAGE_BYTES),
            ..Self::default()
        }
    }

    /// Takes the next bytes of the stream.
    pub fn handle_bytes(&mut self, bytes: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        if self.used > 0 {
            self.bytes.drain(..self.used);
            self.used = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next update, or `None` until more bytes come.
    ///
    /// # Errors
    /// [`Error::WireVersion`], [`Error::TooLong`] (both as soon as the header is there), [`Error::Malformed`].
    pub fn poll_update(&mut self) -> Result<Option<Update>, Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.next_update().inspect_err(|error| {
            self.bytes = Vec::new();
            self.used = 0;
            self.failed = Some(error.clone());
        })
    }

    /// Tells that no bytes follow.
    ///
    /// # Errors
    /// [`Error::Truncated`] where the stream ended inside a message; the error that [`poll_update`](Self::poll_update)
    /// gave before.
    pub fn handle_end(&self) -> Result<(), Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        match &self.bytes[self.used..] {
            [] => Ok(()),
            [_, a, b, c, body @ ..] => {
                let missing = length_of([*a, *b, *c]).saturating_sub(body.len());
                if missing == 0 {
                    Ok(())
                } else {
                    Err(Error::Truncated { missing })
                }
            }
            part => Err(Error::Truncated {
                missing: HEADER_BYTES - part.len(),
            }),
        }
    }

    fn next_update(&mut self) -> Result<Option<Update>, Error> {
        let pending = &self.bytes[self.used..];
        if let Some(&found) = pending.first()
            && found != VERSION
        {
            return Err(Error::WireVersion {
                found,
                known: VERSION,
            });
        }
        let [_, a, b, c, rest @ ..] = pending else {
            return Ok(None);
        };
        let length = length_of([*a, *b, *c]);
        if length > self.max_message_bytes {
            return Err(Error::TooLong {
                length,
                limit: self.max_message_bytes,
            });
        }
        let Some(body) = rest.get(..length) else {
            return Ok(None);
        };
        let update = serde_json::from_slice(body).map_err(malformed)?;
        self.used += HEADER_BYTES + length;
        if self.used == self.bytes.len() {
            // A snapshot's megabytes are not kept for the small changes that follow it.
            self.bytes = Vec::new();
            self.used = 0;
        }
        Ok(Some(update))
    }
}

fn length_of([a, b, c]: [u8; 3]) -> usize {
    usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn malformed(error: serde_json::Error) -> Error {
    Error::Malformed {
        message: error.to_string(),
    }
}
