//! The bytes that stand in front of a stream's own, and those of the control stream. Pure: they come in whatever pieces.

use bytes::{Buf as _, BufMut, Bytes, BytesMut};
use tunnel_proto::{MAX_DATAGRAM_BYTES, MAX_MESSAGE_BYTES, MAX_SUCCESSOR_BYTES, MAX_TARGET_BYTES};

use crate::{GoAwayReason, Leaving, Refusal, RefusalKind};

const GOAWAY: u8 = 0x04;
const PING: u8 = 0x02;
const HEARD: u8 = 0x05;
const OPEN: u8 = 0x10;
const ACCEPT: u8 = 0x11;
const REFUSE: u8 = 0x12;
const OPEN_FLOW: u8 = 0x20;

/// Kinds from here on are optional: who does not know one goes on without it.
const OPTIONAL: u8 = 0x80;
const SUCCESSOR: u8 = 0x92;

/// The longest payload of a frame of the control stream.
const MAX_CONTROL_BYTES: usize = 2048;

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Bytes.
    Stream,
    /// Datagrams, which bear the stream's number.
    Flow,
    /// Something that is not known here, and may be refused.
    Unknown,
}

/// The other end broke the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Violation(pub(super) &'static str);

/// How many bytes of a request stand before its target.
pub(super) const REQUEST_HEAD: usize = 3;

/// A request, for the first bytes of a stream.
pub(super) fn request(kind: Kind, target: &str) -> Bytes {
    let mut bytes = BytesMut::with_capacity(REQUEST_HEAD + target.len());
    bytes.put_u8(if kind == Kind::Flow { OPEN_FLOW } else { OPEN });
    put_text(&mut bytes, target, MAX_TARGET_BYTES);
    bytes.freeze()
}

/// A request's kind, and the length of its target.
pub(super) fn request_head(head: [u8; REQUEST_HEAD]) -> Result<(Kind, usize), Violation> {
    let [kind, high, low] = head;
    let kind = match kind {
        OPEN => Kind::Stream,
        OPEN_FLOW => Kind::Flow,
        kind if kind >= OPTIONAL => Kind::Unknown,
        _ => return Err(Violation("a stream begins with something that is no request")),
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if (1..=MAX_TARGET_BYTES).contains(&length) {
        Ok((kind, length))
    } else {
        Err(Violation("a target has 1 to 1024 bytes"))
    }
}

/// The answer that the target is connected.
pub(super) const ACCEPTED: &[u8] = &[ACCEPT];

/// The answer that it is not.
pub(super) fn refusal(refusal: &Refusal) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(REFUSE);
    bytes.put_u16(refusal.kind.code());
    put_text(&mut bytes, &refusal.message, MAX_MESSAGE_BYTES);
    bytes.freeze()
}

/// Reads the answer to a request, and nothing that stands behind it.
#[derive(Debug, Default)]
pub(super) struct AnswerReader {
    bytes: Vec<u8>,
}

impl AnswerReader {
    /// What was answered, once it is known.
    pub(super) fn poll(&self) -> Option<Result<Result<(), Refusal>, Violation>> {
        match *self.bytes.as_slice() {
            [] => None,
            [ACCEPT, ..] => Some(Ok(Ok(()))),
            [REFUSE, high, low, _, _, ref message @ ..] if self.missing() == 0 => {
                let kind = RefusalKind::from_code(u16::from_be_bytes([high, low]));
                Some(Ok(Err(Refusal::new(kind, String::from_utf8_lossy(message)))))
            }
            [REFUSE, ..] if self.is_too_long() => Some(Err(Violation("a refusal is too long"))),
            [REFUSE, ..] => None,
            _ => Some(Err(Violation(
                "a stream is answered with something that is no answer",
            ))),
        }
    }

    /// How many bytes are needed to go on.
    pub(super) fn missing(&self) -> usize {
        match *self.bytes.as_slice() {
            [] => 1,
            [REFUSE, _, _, high, low, ..] => {
                (5 + usize::from(u16::from_be_bytes([high, low]))).saturating_sub(self.bytes.len())
            }
            _ => 5_usize.saturating_sub(self.bytes.len()),
        }
    }

    fn is_too_long(&self) -> bool {
        matches!(*self.bytes.as_slice(), [_, _, _, high, low, ..]
            if usize::from(u16::from_be_bytes([high, low])) > MAX_MESSAGE_BYTES)
    }

    /// Takes bytes, at most as many as are [`missing`](Self::missing).
    pub(super) fn handle_bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }
}

/// What stands in front of a datagram of the stream with this number: the number as QUIC writes it (RFC 9000 §16).
pub(super) fn datagram_head(number: u64) -> Bytes {
    let (width, mark): (usize, u64) = match number {
        0..0x40 => (1, 0),
        0x40..0x4000 => (2, 1),
        0x4000..0x4000_0000 => (4, 2),
        _ => (8, 3),
    };
    let mut bytes = BytesMut::with_capacity(width);
    bytes.put_uint(number | mark << (8 * width - 2), width);
    bytes.freeze()
}

/// The number of the stream that a datagram belongs to, and what it carries.
pub(super) fn datagram_parts(bytes: &[u8]) -> Result<(u64, &[u8]), Violation> {
    let cut_off = Violation("a datagram does not say which flow it belongs to");
    let width = match bytes.first() {
        Some(first) => 1_usize << (first >> 6),
        None => return Err(cut_off),
    };
    let (mut number, datagram) = bytes.split_at_checked(width).ok_or(cut_off)?;
    let number = number.get_uint(width) & (u64::MAX >> (66 - 8 * width));
    if number & 2 != 0 {
        return Err(Violation("a datagram belongs to a stream of one direction"));
    }
    Ok((number, datagram))
}

/// A datagram as it stands on the stream of its flow: its length in two bytes, and itself.
pub(super) fn long_datagram(datagram: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(2 + datagram.len());
    // Callers have no longer ones than MAX_DATAGRAM_BYTES.
    bytes.put_u16(u16::try_from(datagram.len()).unwrap_or(u16::MAX));
    bytes.put_slice(datagram);
    bytes.freeze()
}

/// Takes the next datagram out of what came on the stream of a flow, once it is whole.
pub(super) fn take_long_datagram(bytes: &mut BytesMut) -> Result<Option<Bytes>, Violation> {
    let [high, low, ..] = **bytes else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_DATAGRAM_BYTES {
        return Err(Violation("a datagram is too long"));
    }
    if bytes.len() < 2 + length {
        return Ok(None);
    }
    let datagram = bytes.split_to(2 + length).freeze().slice(2..);
    if bytes.is_empty() {
        *bytes = BytesMut::new();
    }
    Ok(Some(datagram))
}

/// A frame of the control stream: kind, length of the payload in two bytes, payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Control {
    /// Nothing but a packet that has to be acknowledged, from wherever its sender is now.
    Ping,
    /// The sender opens no more streams, and the other side should open none.
    GoAway(Leaving),
    /// The answer: how many streams its sender has opened, and it opens no more.
    Heard(u64),
}

impl Control {
    pub(super) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        match self {
            Control::Ping => put_frame(&mut bytes, PING, &[]),
            Control::GoAway(Leaving {
                reason,
                message,
                successor,
            }) => {
                if let Some(url) = successor {
                    put_frame(&mut bytes, SUCCESSOR, url.as_bytes());
                }
                let message = cut(message, MAX_MESSAGE_BYTES);
                let payload = [&reason.code().to_be_bytes()[..], message.as_bytes()].concat();
                put_frame(&mut bytes, GOAWAY, &payload);
            }
            Control::Heard(opened) => put_frame(&mut bytes, HEARD, &opened.to_be_bytes()),
        }
        bytes.freeze()
    }
}

/// Whether this can be named as a successor: 1 to 1024 visible ASCII characters.
pub(super) fn is_successor(url: &[u8]) -> bool {
    (1..=MAX_SUCCESSOR_BYTES).contains(&url.len()) && url.iter().all(u8::is_ascii_graphic)
}

/// A frame of the control stream.
fn put_frame(bytes: &mut BytesMut, kind: u8, payload: &[u8]) {
    bytes.put_u8(kind);
    // Whoever calls has cut it to what fits.
    bytes.put_u16(u16::try_from(payload.len()).unwrap_or(u16::MAX));
    bytes.put_slice(payload);
}

/// Reads the control stream's frames.
#[derive(Debug, Default)]
pub(super) struct ControlReader {
    /// At most a frame and what came with its end.
    bytes: BytesMut,
    /// Named for the next word that the other end leaves.
    successor: Option<String>,
}

impl ControlReader {
    /// Takes what came. To be followed by [`poll`](Self::poll) until it gives nothing.
    pub(super) fn handle_bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn poll(&mut self) -> Result<Option<Control>, Violation> {
        loop {
            let [kind, high, low, ..] = *self.bytes else {
                return Ok(None);
            };
            let length = usize::from(u16::from_be_bytes([high, low]));
            if length > MAX_CONTROL_BYTES {
                return Err(Violation("a frame of the control stream is too long"));
            }
            if self.bytes.len() < 3 + length {
                return Ok(None);
            }
            let frame = self.bytes.split_to(3 + length);
            let payload = frame.get(3..).unwrap_or_default();
            return match (kind, payload) {
                (PING, _) => Ok(Some(Control::Ping)),
                (GOAWAY, [high, low, message @ ..]) => {
                    let reason = GoAwayReason::from_code(u16::from_be_bytes([*high, *low]));
                    let message = String::from_utf8_lossy(message).into_owned();
                    Ok(Some(Control::GoAway(Leaving {
                        reason,
                        message,
                        successor: self.successor.clone(),
                    })))
                }
                (SUCCESSOR, url) if is_successor(url) => {
                    self.successor = Some(String::from_utf8_lossy(url).into_owned());
                    continue;
                }
                (SUCCESSOR, _) => Err(Violation("a successor is 1 to 1024 visible ASCII characters")),
                (HEARD, [a, b, c, d, e, f, g, h, ..]) => {
                    let opened = u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]);
                    Ok(Some(Control::Heard(opened)))
                }
                (kind, _) if kind >= OPTIONAL => continue,
                _ => Err(Violation("a frame of the control stream cannot be read")),
            };
        }
    }
}

fn put_text(bytes: &mut BytesMut, text: &str, most: usize) {
    let text = cut(text, most);
    // It fits: `most` is one of the protocol's limits.
    bytes.put_u16(u16::try_from(text.len()).unwrap_or(u16::MAX));
    bytes.put_slice(text.as_bytes());
}

/// The beginning of a text, at most so many bytes of it.
fn cut(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Answer = Result<Result<(), Refusal>, Violation>;

    fn read(bytes: &[u8], step: usize) -> (Option<Answer>, usize) {
        let mut reader = AnswerReader::default();
        let mut taken = 0;
        while reader.poll().is_none() && taken < bytes.len() {
            let count = reader.missing().min(step).min(bytes.len() - taken);
            reader.handle_bytes(&bytes[taken..taken + count]);
            taken += count;
        }
        (reader.poll(), taken)
    }

    #[test]
    fn an_answer_is_read_in_any_pieces_and_nothing_behind_it() {
        let no = Refusal::new(RefusalKind::NotFound, "no such service");
        let mut refused = refusal(&no).to_vec();
        let length = refused.len();
        refused.extend_from_slice(b"behind");
        for step in 1..40 {
            assert_eq!(read(&refused, step), (Some(Ok(Err(no.clone()))), length));
            assert_eq!(read(b"\x11data", step), (Some(Ok(Ok(()))), 1));
        }
        for cut in 0..length {
            assert_eq!(read(&refused[..cut], 7), (None, cut));
        }
        let empty = Refusal::new(RefusalKind::Refused, "");
        assert_eq!(read(&refusal(&empty), 3).0, Some(Ok(Err(empty))));
    }

    #[test]
    fn what_is_no_answer_is_a_violation() {
        assert!(matches!(read(b"\x10", 1).0, Some(Err(_))));
        assert!(matches!(read(&[REFUSE, 0, 1, 0xff, 0xff], 9).0, Some(Err(_))));
    }

    #[test]
    fn requests_are_checked() {
        let bytes = request(Kind::Stream, "tcp/a/b/1");
        assert_eq!(&bytes[..], b"\x10\0\x09tcp/a/b/1");
        assert_eq!(request_head([0x10, 0, 9]), Ok((Kind::Stream, 9)));
        assert_eq!(request_head([0x20, 4, 0]), Ok((Kind::Flow, 1024)));
        assert_eq!(request_head([0x90, 0, 1]), Ok((Kind::Unknown, 1)));
        for bad in [[0x10, 0, 0], [0x10, 4, 1], [0, 0, 1], [b'G', b'E', b'T']] {
            assert!(request_head(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn control_frames_are_read_in_any_pieces() {
        let leaving = Leaving::of(GoAwayReason::Superseded, "by generation 9".to_owned());
        let mut moving = Leaving::of(GoAwayReason::Leaving, String::new());
        moving.successor = Some("quic://b.example/mounted".to_owned());
        let frames = [
            Control::GoAway(leaving),
            Control::Ping,
            Control::GoAway(moving),
            Control::Heard(1 << 40),
        ];
        let mut bytes = vec![0x99, 0, 2, 1, 2];
        bytes.extend(frames.iter().flat_map(Control::encode));
        for step in 1..bytes.len() {
            let mut reader = ControlReader::default();
            let mut read = Vec::new();
            for piece in bytes.chunks(step) {
                reader.handle_bytes(piece);
                read.extend(std::iter::from_fn(|| reader.poll().unwrap()));
            }
            assert_eq!(read, frames);
        }
    }

    #[test]
    fn control_frames_that_cannot_be_read_are_violations() {
        for bad in [
            &[0x10, 0, 0][..],
            &[GOAWAY, 0, 1, 0],
            &[HEARD, 0, 1, 0],
            &[SUCCESSOR, 0, 0],
            &[SUCCESSOR, 0, 2, b'a', b' '],
            &[0x99, 0xff, 0xff],
        ] {
            let mut reader = ControlReader::default();
            reader.handle_bytes(bad);
            assert!(reader.poll().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_datagram_names_its_stream_as_quic_does() {
        // The examples of RFC 9000, appendix A.1, where they are numbers of streams of both directions.
        assert_eq!(datagram_head(37)[..], [0x25]);
        assert_eq!(datagram_head(494_878_333)[..], [0x9d, 0x7f, 0x3e, 0x7d]);
        assert_eq!(
            datagram_parts(&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c, 7]),
            Ok((151_288_809_941_952_652, &[7][..]))
        );
        assert_eq!(
            datagram_parts(&[0x40, 0x25]),
            Ok((37, &[][..])),
            "longer than need be"
        );
        for number in [
            0,
            0x3d,
            0x40,
            0x3ffd,
            0x4000,
            0x3fff_fffd,
            0x4000_0000,
            (1 << 62) - 3,
        ] {
            let bytes = [&*datagram_head(number), b"what it says"].concat();
            assert_eq!(
                datagram_parts(&bytes),
                Ok((number, &b"what it says"[..])),
                "{number:x}"
            );
        }
        for bad in [
            &[][..],
            &[0x40],
            &[0x80, 0, 0],
            &[0xc0, 0, 0, 0, 0, 0, 0],
            &[0x02],
        ] {
            assert!(datagram_parts(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn long_datagrams_are_read_in_any_pieces() {
        let all = [vec![1; 5000], vec![], vec![2; MAX_DATAGRAM_BYTES]];
        let bytes: Vec<u8> = all.iter().flat_map(|datagram| long_datagram(datagram)).collect();
        for step in [1, 7, 1200, 65_509, bytes.len()] {
            let (mut came, mut read) = (BytesMut::new(), Vec::new());
            for piece in bytes.chunks(step) {
                came.extend_from_slice(piece);
                read.extend(std::iter::from_fn(|| take_long_datagram(&mut came).unwrap()));
            }
            assert_eq!(read, all, "{step}");
            assert!(came.is_empty());
        }
        let too_long = u16::try_from(MAX_DATAGRAM_BYTES + 1).unwrap().to_be_bytes();
        assert!(take_long_datagram(&mut BytesMut::from(&too_long[..])).is_err());
    }

    #[test]
    fn a_long_message_is_cut_between_two_characters() {
        let no = Refusal::new(RefusalKind::Refused, "ä".repeat(600));
        let answer = refusal(&no);
        let Some(Ok(Err(read))) = read(&answer, 4096).0 else {
            panic!("not a refusal");
        };
        assert_eq!(read.message, "ä".repeat(512));
    }
}
