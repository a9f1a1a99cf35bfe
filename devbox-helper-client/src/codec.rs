//! Frames: a length of four bytes, big endian, then that many bytes of JSON. Bytes in, messages out; no socket here.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest message, in bytes without its length prefix: 4 MiB, enough for a hosts block of about 100,000 names.
pub const MAX_FRAME_BYTES: usize = 4 << 20;

const PREFIX_BYTES: usize = 4;

/// Why bytes are no message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The length prefix asks for more than [`MAX_FRAME_BYTES`]. What follows cannot be read.
    #[error("a frame of {length} bytes is longer than the {MAX_FRAME_BYTES} bytes allowed")]
    TooLong {
        /// The length of the message in bytes.
        length: usize,
    },
    /// The frame is whole but not a message. The next frame can be read.
    #[error("the frame is not a message")]
    Malformed(#[source] serde_json::Error),
}

/// One message as a frame.
///
/// # Errors
/// [`FrameError::TooLong`] when it does not fit, [`FrameError::Malformed`] when it cannot be said in JSON.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; PREFIX_BYTES];
    serde_json::to_writer(&mut frame, message).map_err(FrameError::Malformed)?;
    let length = frame.len() - PREFIX_BYTES;
    let prefix = match u32::try_from(length) {
        Ok(prefix) if length <= MAX_FRAME_BYTES => prefix,
        _ => return Err(FrameError::TooLong { length }),
    };
    frame[..PREFIX_BYTES].copy_from_slice(&prefix.to_be_bytes());
    Ok(frame)
}

/// Takes bytes as they come and gives whole messages.
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
}

impl Decoder {
    /// Adds bytes that arrived. Call [`Decoder::poll_message`] until it gives `None` before the next bytes.
    pub fn handle_bytes(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, or `None` when more bytes are needed.
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
        let message = serde_json::from_slice(body).map_err(FrameError::Malformed);
        self.start += PREFIX_BYTES + length;
        message.map(Some)
    }

    /// Whether some bytes of an unfinished frame are held.
    #[must_use]
    pub fn is_mid_frame(&self) -> bool {
        self.start < self.buffer.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{HostsBlock, HostsEntry, Reply, Request};
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
            Err(FrameError::Malformed(_))
        ));
        assert_eq!(decoder.poll_message().unwrap(), Some(Request::Release));
        assert!(!decoder.is_mid_frame());
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
            Some(Request::Hello { version: 7 })
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
            let sent = vec![Request::Hello { version: 1 }, Request::SetHosts { block }, Request::ClearHosts];
            let bytes: Vec<u8> = sent.iter().flat_map(|r| encode(r).unwrap()).collect();
            let mut decoder = Decoder::default();
            let mut got = Vec::new();
            let mut rest = &bytes[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (head, tail) = rest.split_at((*cut).min(rest.len()));
                decoder.handle_bytes(head);
                rest = tail;
                while let Some(request) = decoder.poll_message::<Request>().unwrap() {
                    got.push(request);
                }
            }
            prop_assert_eq!(got, sent);
            prop_assert!(!decoder.is_mid_frame());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut decoder = Decoder::default();
            decoder.handle_bytes(&bytes);
            for _ in 0..600 {
                match decoder.poll_message::<Reply>() {
                    Ok(None) | Err(FrameError::TooLong { .. }) => break,
                    Ok(Some(_)) | Err(FrameError::Malformed(_)) => {}
                }
            }
        }
    }
}
