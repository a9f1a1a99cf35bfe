//! Frames as bytes: an 8-byte head (kind, length of the payload, stream) and the payload. `docs/protocol.md` is their
//! specification.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::reason::MAX_MESSAGE_BYTES;
use crate::{Features, ResumeToken, Violation};

/// Version in HELLO.
pub(crate) const VERSION: u16 = 1;

/// Length of a frame's head.
pub(crate) const HEAD_BYTES: usize = 8;

/// Longest target of an OPEN.
pub const MAX_TARGET_BYTES: usize = 1024;

/// Longest payload of a frame that is not DATA or FIN.
pub(crate) const MAX_CONTROL_BYTES: u32 = 2048;

/// Length of a token in TOKEN and RESUME.
pub(crate) const RESUME_TOKEN_BYTES: usize = 16;

/// Longest URL in SUCCESSOR.
pub const MAX_SUCCESSOR_BYTES: usize = 1024;

pub(crate) const HELLO: u8 = 0x01;
pub(crate) const PING: u8 = 0x02;
pub(crate) const PONG: u8 = 0x03;
pub(crate) const GOAWAY: u8 = 0x04;
pub(crate) const OPEN: u8 = 0x10;
pub(crate) const ACCEPT: u8 = 0x11;
pub(crate) const REFUSE: u8 = 0x12;
pub(crate) const DATA: u8 = 0x13;
pub(crate) const FIN: u8 = 0x14;
pub(crate) const RESET: u8 = 0x15;
pub(crate) const CREDIT: u8 = 0x16;
pub(crate) const RESUME: u8 = 0x40;
pub(crate) const RESUMED: u8 = 0x41;
pub(crate) const ACK: u8 = 0x42;
pub(crate) const TOKEN: u8 = 0x43;
pub(crate) const NOT_RESUMED: u8 = 0x44;
pub(crate) const OPEN_FLOW: u8 = 0x20;
pub(crate) const DATAGRAM: u8 = 0x21;

/// Largest payload of a datagram: what UDP over IPv4 can carry.
pub const MAX_DATAGRAM_BYTES: usize = 65_507;

/// Kinds from here on are skipped by a side that does not know them.
const FIRST_OPTIONAL: u8 = 0x80;

pub(crate) const RECLAIM: u8 = 0x90;
pub(crate) const RETURN: u8 = 0x91;
pub(crate) const SUCCESSOR: u8 = 0x92;

/// What a peer's HELLO says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) features: Features,
    pub(crate) initial_window: u32,
    pub(crate) max_frame: u32,
    pub(crate) max_streams: u32,
    pub(crate) max_pending_opens: u32,
}

/// A frame other than DATA and FIN, whole. DATAGRAM is one, since a part of a datagram is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Control {
    pub(crate) kind: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Bytes,
}

/// What was found in the bytes of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    Control(Control),
    Data(Data),
}

/// Bytes of a DATA or FIN frame: all of it, or as much as has come. They are a slice of what was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Data {
    pub(crate) kind: u8,
    pub(crate) stream: u32,
    pub(crate) bytes: Bytes,
    /// These are the frame's last ones.
    pub(crate) whole: bool,
}

/// Finds the frames in the bytes of a link, however they are cut.
#[derive(Debug)]
pub(crate) struct Reader {
    max_frame: u32,
    state: Reading,
    /// The start of a head or of a control frame's payload whose rest has not arrived.
    partial: BytesMut,
}

#[derive(Debug, Clone, Copy)]
enum Reading {
    Head,
    Control { kind: u8, stream: u32, len: usize },
    Data { kind: u8, stream: u32, left: usize },
    Skip { left: usize },
}

impl Reader {
    pub(crate) fn new(max_frame: u32) -> Reader {
        Reader {
            max_frame,
            state: Reading::Head,
            partial: BytesMut::new(),
        }
    }

    /// The next piece of `bytes`; `None` when they are used up.
    pub(crate) fn next(&mut self, bytes: &mut Bytes) -> Result<Option<Piece>, Violation> {
        loop {
            match self.state {
                Reading::Head => {
                    let Some(mut head) = self.gather(bytes, HEAD_BYTES) else {
                        return Ok(None);
                    };
                    let kind_and_len = head.get_u32();
                    let [kind, ..] = kind_and_len.to_be_bytes();
                    self.begin(kind, kind_and_len & 0x00FF_FFFF, head.get_u32())?;
                }
                Reading::Control { kind, stream, len } => {
                    let Some(payload) = self.gather(bytes, len) else {
                        return Ok(None);
                    };
                    self.state = Reading::Head;
                    return Ok(Some(Piece::Control(Control {
                        kind,
                        stream,
                        payload,
                    })));
                }
                Reading::Data { kind, stream, left } => {
                    if left > 0 && bytes.is_empty() {
                        return Ok(None);
                    }
                    let n = left.min(bytes.len());
                    let part = bytes.split_to(n);
                    let left = left - n;
                    self.state = if left == 0 {
                        Reading::Head
                    } else {
                        Reading::Data { kind, stream, left }
                    };
                    return Ok(Some(Piece::Data(Data {
                        kind,
                        stream,
                        bytes: part,
                        whole: left == 0,
                    })));
                }
                Reading::Skip { left } => {
                    let n = left.min(bytes.len());
                    bytes.advance(n);
                    if n < left {
                        self.state = Reading::Skip { left: left - n };
                        return Ok(None);
                    }
                    self.state = Reading::Head;
                }
            }
        }
    }

    fn begin(&mut self, kind: u8, len: u32, stream: u32) -> Result<(), Violation> {
        let optional = kind >= FIRST_OPTIONAL && !matches!(kind, RECLAIM | RETURN | SUCCESSOR);
        let limit = match kind {
            DATA | FIN => self.max_frame,
            DATAGRAM => max_datagram(self.max_frame),
            HELLO | PING | PONG | GOAWAY | OPEN | ACCEPT | REFUSE | RESET | CREDIT | OPEN_FLOW | RECLAIM
            | RETURN | RESUME | RESUMED | ACK | TOKEN | NOT_RESUMED | SUCCESSOR => MAX_CONTROL_BYTES,
            _ if optional => u32::MAX,
            _ => return Err(Violation::UnknownKind { kind }),
        };
        if len > limit {
            return Err(Violation::FrameTooLong { kind, len, limit });
        }
        let of_connection = matches!(
            kind,
            HELLO | PING | PONG | GOAWAY | RESUME | RESUMED | ACK | TOKEN | NOT_RESUMED | SUCCESSOR
        );
        if !optional && of_connection != (stream == 0) {
            return Err(Violation::WrongStream { kind, id: stream });
        }
        let len = len as usize;
        self.state = match kind {
            DATA | FIN => Reading::Data {
                kind,
                stream,
                left: len,
            },
            _ if optional => Reading::Skip { left: len },
            _ => Reading::Control { kind, stream, len },
        };
        Ok(())
    }

    /// `len` bytes in one piece, once they have arrived; what has arrived of them is kept until then.
    fn gather(&mut self, bytes: &mut Bytes, len: usize) -> Option<Bytes> {
        if self.partial.is_empty() && bytes.len() >= len {
            return Some(bytes.split_to(len));
        }
        let missing = len - self.partial.len();
        let n = missing.min(bytes.len());
        self.partial.extend_from_slice(&bytes[..n]);
        bytes.advance(n);
        (n == missing).then(|| self.partial.split().freeze())
    }
}

/// The head of a frame of the connection.
pub(crate) fn put_head(out: &mut BytesMut, kind: u8, len: usize) {
    head(out, kind, len, 0);
}

/// The longest datagram where frames have up to `max_frame` bytes.
pub(crate) fn max_datagram(max_frame: u32) -> u32 {
    max_frame.min(u32::try_from(MAX_DATAGRAM_BYTES).unwrap_or(u32::MAX))
}

fn head(out: &mut BytesMut, kind: u8, len: usize, stream: u32) {
    out.put_slice(&head_bytes(kind, len, stream));
}

fn head_bytes(kind: u8, len: usize, stream: u32) -> [u8; HEAD_BYTES] {
    // Payloads are bounded by `max_frame` or MAX_CONTROL_BYTES, both below 2^24.
    let len = u32::try_from(len).unwrap_or(u32::MAX) & 0x00FF_FFFF;
    let [a, b, c, d] = (u32::from(kind) << 24 | len).to_be_bytes();
    let [e, f, g, h] = stream.to_be_bytes();
    [a, b, c, d, e, f, g, h]
}

pub(crate) fn put_hello(out: &mut BytesMut, hello: &Hello) {
    head(out, HELLO, 20, 0);
    out.put_u16(VERSION);
    out.put_u16(hello.features.to_bits());
    out.put_u32(hello.initial_window);
    out.put_u32(hello.max_frame);
    out.put_u32(hello.max_streams);
    out.put_u32(hello.max_pending_opens);
}

pub(crate) fn put_ping(out: &mut BytesMut, kind: u8, token: u64) {
    head(out, kind, 8, 0);
    out.put_u64(token);
}

pub(crate) fn ack(received: u64) -> [u8; HEAD_BYTES + 8] {
    let mut bytes = [0; HEAD_BYTES + 8];
    let (head, payload) = bytes.split_at_mut(HEAD_BYTES);
    head.copy_from_slice(&head_bytes(ACK, 8, 0));
    payload.copy_from_slice(&received.to_be_bytes());
    bytes
}

pub(crate) fn put_token(out: &mut BytesMut, token: &ResumeToken, window_secs: u16, replay_bytes: u32) {
    head(out, TOKEN, RESUME_TOKEN_BYTES + 6, 0);
    out.put_slice(token.as_bytes());
    out.put_u16(window_secs);
    out.put_u32(replay_bytes);
}

pub(crate) fn put_successor(out: &mut BytesMut, url: &str) {
    head(out, SUCCESSOR, url.len(), 0);
    out.put_slice(url.as_bytes());
}

pub(crate) fn put_go_away(out: &mut BytesMut, code: u16, message: &str) {
    put_code(out, GOAWAY, 0, code, message);
}

/// OPEN or OPEN_FLOW.
pub(crate) fn put_open(out: &mut BytesMut, kind: u8, stream: u32, target: &[u8]) {
    head(out, kind, target.len(), stream);
    out.put_slice(target);
}

pub(crate) fn put_accept(out: &mut BytesMut, stream: u32) {
    head(out, ACCEPT, 0, stream);
}

/// REFUSE, RESET, GOAWAY or NOT_RESUMED.
pub(crate) fn put_code(out: &mut BytesMut, kind: u8, stream: u32, code: u16, message: &str) {
    let message = cut(message);
    head(out, kind, 2 + message.len(), stream);
    out.put_u16(code);
    out.put_slice(message.as_bytes());
}

/// CREDIT, RECLAIM or RETURN.
pub(crate) fn put_credit(out: &mut BytesMut, kind: u8, stream: u32, bytes: u32) {
    head(out, kind, 4, stream);
    out.put_u32(bytes);
}

pub(crate) fn data_head(kind: u8, stream: u32, len: usize) -> [u8; HEAD_BYTES] {
    head_bytes(kind, len, stream)
}

fn cut(message: &str) -> &str {
    &message[..message.floor_char_boundary(MAX_MESSAGE_BYTES)]
}

impl Control {
    pub(crate) fn hello(mut self) -> Result<Hello, Violation> {
        let bad = Violation::BadPayload { kind: self.kind };
        let version = self.payload.try_get_u16().map_err(|_| bad.clone())?;
        if version != VERSION {
            return Err(Violation::Version { version });
        }
        if self.payload.len() < 18 {
            return Err(bad);
        }
        let hello = Hello {
            features: Features::from_bits(self.payload.get_u16()),
            initial_window: self.payload.get_u32(),
            max_frame: self.payload.get_u32(),
            max_streams: self.payload.get_u32(),
            max_pending_opens: self.payload.get_u32(),
        };
        // More fields may follow in later revisions of this version.
        let sane = hello.initial_window <= i32::MAX as u32
            && hello.max_frame > 0
            && hello.max_streams > 0
            && hello.max_pending_opens > 0;
        if sane { Ok(hello) } else { Err(bad) }
    }

    pub(crate) fn number(mut self) -> Result<u64, Violation> {
        self.payload
            .try_get_u64()
            .map_err(|_| Violation::BadPayload { kind: self.kind })
    }

    pub(crate) fn credit(mut self) -> Result<u32, Violation> {
        self.payload
            .try_get_u32()
            .map_err(|_| Violation::BadPayload { kind: self.kind })
    }

    /// A code and a message, the latter made fit for one line.
    pub(crate) fn code(self) -> Result<(u16, String), Violation> {
        code_and_message(self.kind, self.payload)
    }

    /// A token, the window in seconds and how many bytes the peer keeps.
    pub(crate) fn token(mut self) -> Result<(ResumeToken, u16, u32), Violation> {
        let bad = Violation::BadPayload { kind: self.kind };
        let token = ResumeToken::take(&mut self.payload).ok_or_else(|| bad.clone())?;
        let window = self.payload.try_get_u16().map_err(|_| bad.clone())?;
        let replay = self.payload.try_get_u32().map_err(|_| bad)?;
        Ok((token, window, replay))
    }

    /// A URL: visible ASCII.
    pub(crate) fn url(self) -> Result<String, Violation> {
        let fits = (1..=MAX_SUCCESSOR_BYTES).contains(&self.payload.len())
            && self.payload.iter().all(u8::is_ascii_graphic);
        let text = String::from_utf8(self.payload.to_vec()).ok();
        text.filter(|_| fits)
            .ok_or(Violation::BadPayload { kind: self.kind })
    }
}

/// A code and a message, the latter made fit for one line.
pub(crate) fn code_and_message(kind: u8, mut payload: Bytes) -> Result<(u16, String), Violation> {
    let code = payload
        .try_get_u16()
        .map_err(|_| Violation::BadPayload { kind })?;
    let text = String::from_utf8_lossy(&payload);
    let line = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect::<String>();
    Ok((code, cut(&line).to_owned()))
}
