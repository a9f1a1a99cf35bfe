//! Frames: a length of four bytes, big endian, then that many bytes of JSON. Bytes in, messages out; no socket here.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The longest message, in bytes without its length prefix: 4 MiB, enough for a hosts block of about 100,000 names.
pub const MAX_FRAME_BYTES: usize = 4 << 20;

const PREFIX_BYTES: usize = 4;

/// Why bytes are not a message, or a message cannot become bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The length prefix asks for more than [`MAX_FRAME_BYTES`]. What follows cannot be read.
    #[error("a frame of {length} bytes is longer than the {MAX_FRAME_BYTES} bytes allowed")]
    TooLong {
        /// The length of the message in bytes.
        length: usize,
    },
    /// The frame is complete but is not the message expected. The next frame can be read.
    #[error("the frame is not a message")]
    Malformed {
        /// The request id, where the frame has a readable one all the same.
        id: Option<u64>,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The message has no JSON form, as a path that is not UTF-8.
    #[error("the message has no JSON form")]
    Unencodable(#[source] serde_json::Error),
}

/// One message as a frame.
///
/// # Errors
/// [`FrameError::TooLong`] or [`FrameError::Unencodable`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; PREFIX_BYTES];
    serde_json::to_writer(&mut frame, message).map_err(FrameError::Unencodable)?;
    let length = frame.len() - PREFIX_BYTES;
    let prefix = match u32::try_from(length) {
        Ok(prefix) if length <= MAX_FRAME_BYTES => prefix,
        _ => return Err(FrameError::TooLong { length }),
    };
    frame[..PREFIX_BYTES].copy_from_slice(&prefix.to_be_bytes());
    Ok(frame)
}

/// Takes bytes as they arrive and returns complete messages.
///
/// ```
/// use devbox_helper_client::{Decoder, Request, encode};
///
/// let frame = encode(&Request::Sweep)?;
/// let (head, tail) = frame.split_at(3);
/// let mut decoder = Decoder::default();
/// decoder.handle_bytes(head);
/// assert_eq!(decoder.poll_message::<Request>()?, None);
/// decoder.handle_bytes(tail);
/// assert_eq!(decoder.poll_message()?, Some(Request::Sweep));
/// # Ok::<(), devbox_helper_client::FrameError>(())
/// ```
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
    /// How many bytes of the stream came before the buffer.
    before: u64,
}

impl Decoder {
    /// Adds bytes that arrived. Call [`Decoder::poll_message`] until it gives `None` before the next bytes.
    pub fn handle_bytes(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.before += self.start as u64;
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete message, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] at every further call; [`FrameError::Malformed`] once for that frame.
    pub fn poll_message<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let pending = &self.buffer[self.start..];
        let Some((prefix, rest)) = pending.split_first_chunk::<PREFIX_BYTES>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes(*prefix)).unwrap_or(usize::MAX);
        if length > MAX_FRAME_BYTES {
            return Err(FrameError::TooLong { length });
        }
        let Some(body) = rest.get(..length) else {
            return Ok(None);
        };
        let message = serde_json::from_slice(body).map_err(|source| FrameError::Malformed {
            id: id_of(body),
            source,
        });
        self.start += PREFIX_BYTES + length;
        if !self.is_mid_frame() && self.buffer.capacity() > KEPT_BYTES {
            self.before += self.start as u64;
            self.start = 0;
            self.buffer = Vec::new();
        }
        message.map(Some)
    }

    /// Whether bytes are held that no message was read from yet.
    #[must_use]
    pub fn is_mid_frame(&self) -> bool {
        self.start < self.buffer.len()
    }

    /// Where the next frame begins, in bytes from the stream's beginning.
    pub(crate) fn position(&self) -> u64 {
        self.before + self.start as u64
    }

    /// How many bytes of the stream have arrived.
    pub(crate) fn received(&self) -> u64 {
        self.before + self.buffer.len() as u64
    }
}

/// What a buffer may keep for the next message. A block of names is longer, and the next one may be hours away.
const KEPT_BYTES: usize = 64 * 1024;

/// The request id in JSON that is otherwise not understood, so that the reply can still be matched to its request.
fn id_of(body: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Id {
        id: u64,
    }
    serde_json::from_slice::<Id>(body).ok().map(|found| found.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Call, Handshake, HostsBlock, HostsEntry, Request, Response};
    use proptest::prelude::*;

    #[test]
    fn too_long_is_seen_from_the_prefix_alone() {
        let mut decoder = Decoder::default();
        decoder.handle_bytes(&u32::try_from(MAX_FRAME_BYTES + 1).unwrap().to_be_bytes());
        for _ in 0..2 {
            let error = decoder.poll_message::<Request>().unwrap_err();
            assert!(matches!(error, FrameError::TooLong { length } if length == MAX_FRAME_BYTES + 1));
        }
    }

    #[test]
    fn message_after_malformed_frame_is_read() {
        let mut decoder = Decoder::default();
        decoder.handle_bytes(b"\0\0\0\x03{]}");
        decoder.handle_bytes(&encode(&Request::Release).unwrap());
        assert!(matches!(
            decoder.poll_message::<Request>(),
            Err(FrameError::Malformed { id: None, .. })
        ));
        assert_eq!(decoder.poll_message().unwrap(), Some(Request::Release));
        assert!(!decoder.is_mid_frame());
    }

    #[test]
    fn id_of_a_request_that_is_not_understood_is_read_where_there_is_one() {
        for (body, id) in [
            (r#"{"id":7,"request":"exec"}"#, Some(7)),
            (r#"{"id":18446744073709551615,"request":"exec"}"#, Some(u64::MAX)),
            (r#"{"id":18446744073709551616,"request":"sweep"}"#, None),
            (r#"{"id":-1,"request":"sweep"}"#, None),
            (r#"{"id":1.0,"request":"sweep"}"#, None),
            (r#"{"id":"1","request":"sweep"}"#, None),
            (r#"{"id":1,"id":2,"request":"sweep"}"#, None),
            (r#"{"id":1,"request":"#, None),
            (r#""sweep""#, None),
        ] {
            let mut decoder = Decoder::default();
            decoder.handle_bytes(&u32::try_from(body.len()).unwrap().to_be_bytes());
            decoder.handle_bytes(body.as_bytes());
            match decoder.poll_message::<Call>() {
                Err(FrameError::Malformed { id: told, .. }) => assert_eq!(told, id, "{body}"),
                other => panic!("{body}: {other:?}"),
            }
        }
    }

    #[test]
    fn message_that_does_not_fit_is_not_encoded() {
        let tag = "x".repeat(MAX_FRAME_BYTES);
        let request = Request::SetHosts {
            block: HostsBlock {
                tag,
                entries: Vec::new(),
            },
        };
        assert!(matches!(encode(&request), Err(FrameError::TooLong { .. })));
    }

    #[test]
    fn hello_of_a_later_version_is_still_understood() {
        let mut decoder = Decoder::default();
        let json = br#"{"hello":{"version":7,"colour":"blue"}}"#;
        let mut frame = u32::try_from(json.len()).unwrap().to_be_bytes().to_vec();
        frame.extend_from_slice(json);
        decoder.handle_bytes(&frame);
        assert_eq!(
            decoder.poll_message().unwrap(),
            Some(Handshake::Hello {
                version: 7,
                oldest: None
            })
        );
    }

    proptest! {
        #[test]
        fn messages_arrive_whole_under_any_chunking(
            names in prop::collection::vec("[a-z.]{1,30}", 0..20),
            cuts in prop::collection::vec(1usize..40, 1..20),
        ) {
            let entry = HostsEntry { address: "127.77.0.2".parse().unwrap(), names };
            let block = HostsBlock { tag: "devbox-a".into(), entries: vec![entry] };
            let requests = [Request::Sweep, Request::SetHosts { block }, Request::ClearHosts];
            let sent: Vec<Call> = (1..).zip(requests).map(|(id, request)| Call { id, request }).collect();
            let bytes: Vec<u8> = sent.iter().flat_map(|r| encode(r).unwrap()).collect();
            let mut decoder = Decoder::default();
            let mut got = Vec::new();
            let mut rest = &bytes[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (head, tail) = rest.split_at((*cut).min(rest.len()));
                decoder.handle_bytes(head);
                rest = tail;
                while let Some(call) = decoder.poll_message::<Call>().unwrap() {
                    got.push(call);
                }
                prop_assert!(decoder.position() <= decoder.received());
            }
            prop_assert_eq!(got, sent);
            prop_assert!(!decoder.is_mid_frame());
            prop_assert_eq!(decoder.position(), bytes.len() as u64);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut decoder = Decoder::default();
            decoder.handle_bytes(&bytes);
            for _ in 0..600 {
                match decoder.poll_message::<Response>() {
                    Ok(None) | Err(FrameError::TooLong { .. }) => break,
                    Ok(Some(_)) | Err(FrameError::Malformed { .. } | FrameError::Unencodable(_)) => {}
                }
            }
        }
    }
}
