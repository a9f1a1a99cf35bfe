//! The channels of a port-forward, out of the messages that arrive: a pure part.
//!
//! The first byte of each message is the number of a channel: 0 for data, 1 for errors. The first two bytes on each channel are the
//! port that it is for, little-endian (`k8s.io/kubelet/pkg/cri/streaming/portforward/websocket.go`), and may be spread over messages.

use std::num::NonZeroU16;

use bytes::{Buf, Bytes};

pub(super) const DATA: u8 = 0;
const ERRORS: u8 = 1;

/// As much of an error's text as is kept.
const MAX_TEXT_BYTES: usize = 2048;

/// What has arrived so far.
#[derive(Debug)]
pub(super) struct Channels {
    port: [u8; 2],
    /// The channel of the message that has begun.
    channel: Option<u8>,
    /// How much of the port has come on each channel.
    named: [usize; 2],
    carried: bool,
    text: Vec<u8>,
}

/// The other end does not speak of the port that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer is for another port")]
pub(super) struct AnotherPort;

impl Channels {
    pub(super) const fn new(port: NonZeroU16) -> Channels {
        Channels {
            port: port.get().to_le_bytes(),
            channel: None,
            named: [0; 2],
            carried: false,
            text: Vec::new(),
        }
    }

    /// The next bytes of a message, and the data in them, which may be none.
    pub(super) fn handle_bytes(&mut self, mut bytes: Bytes) -> Result<Option<Bytes>, AnotherPort> {
        let channel = match self.channel {
            Some(channel) => channel,
            None if bytes.is_empty() => return Ok(None),
            None => *self.channel.insert(bytes.get_u8()),
        };
        // What a later version has on other channels is not for us.
        let Some(named) = self.named.get_mut(usize::from(channel)) else {
            return Ok(None);
        };
        while *named < self.port.len() && !bytes.is_empty() {
            if bytes.get_u8() != self.port[*named] {
                return Err(AnotherPort);
            }
            *named += 1;
        }
        if bytes.is_empty() {
            return Ok(None);
        }
        if channel == ERRORS {
            let room = MAX_TEXT_BYTES - self.text.len();
            self.text.extend_from_slice(&bytes[..bytes.len().min(room)]);
            return Ok(None);
        }
        self.carried = true;
        Ok(Some(bytes))
    }

    /// The end of a message, and the text of the error that it brought, if it did.
    pub(super) fn handle_end(&mut self) -> Option<String> {
        let channel = self.channel.take();
        if channel == Some(ERRORS) && !self.text.is_empty() {
            let text = std::mem::take(&mut self.text);
            return Some(String::from_utf8_lossy(&text).into_owned());
        }
        None
    }

    /// Whether data has arrived.
    pub(super) const fn carried(&self) -> bool {
        self.carried
    }

    /// Whether the far side has begun to connect: then it has named the port.
    pub(super) const fn is_begun(&self) -> bool {
        self.named[DATA as usize] == self.port.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PORT: NonZeroU16 = NonZeroU16::new(0x1F90).unwrap();

    /// What came of messages that were cut in pieces.
    #[derive(Debug, Default, PartialEq, Eq)]
    struct Seen {
        data: Vec<u8>,
        errors: Vec<String>,
    }

    fn read(messages: &[Vec<u8>], piece_bytes: usize) -> Result<Seen, AnotherPort> {
        let mut channels = Channels::new(PORT);
        let mut seen = Seen::default();
        for message in messages {
            for piece in message.chunks(piece_bytes) {
                let data = channels.handle_bytes(Bytes::copy_from_slice(piece))?;
                seen.data.extend(data.into_iter().flatten());
            }
            seen.errors.extend(channels.handle_end());
        }
        assert_eq!(channels.carried(), !seen.data.is_empty());
        Ok(seen)
    }

    #[test]
    fn an_error_is_the_text_behind_the_port() {
        let messages = [vec![0, 0x90, 0x1F], vec![1, 0x90, 0x1F], b"\x01refused".to_vec()];
        let seen = read(&messages, 99).unwrap();
        assert_eq!((seen.data.len(), seen.errors), (0, vec!["refused".to_owned()]));
    }

    #[test]
    fn an_error_has_a_bound() {
        let messages = [vec![1, 0x90, 0x1F], [&[1][..], &[b'x'; 100_000]].concat()];
        assert_eq!(
            read(&messages, 1000).unwrap().errors,
            ["x".repeat(MAX_TEXT_BYTES)]
        );
    }

    #[test]
    fn the_port_of_another_forward_is_noticed() {
        assert_eq!(read(&[vec![0, 0x91, 0x1F]], 99), Err(AnotherPort));
    }

    proptest! {
        #[test]
        fn data_is_whole_however_messages_and_pieces_are_cut(
            data in prop::collection::vec(any::<u8>(), 0..400),
            message_bytes in 1..50usize,
            piece_bytes in 1..60usize,
            others: bool,
        ) {
            let stream = [&PORT.get().to_le_bytes()[..], &data].concat();
            let mut messages = Vec::new();
            for part in stream.chunks(message_bytes) {
                messages.push([&[DATA][..], part].concat());
                if others {
                    messages.extend([vec![9, 1, 2, 3], vec![DATA], vec![]]);
                }
            }
            let seen = read(&messages, piece_bytes).unwrap();
            prop_assert_eq!(seen, Seen { data, errors: Vec::new() });
        }
    }
}
