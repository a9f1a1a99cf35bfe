//! The frames in what arrives, however it is cut.
//!
//! The messages of a link are one stream of bytes, so a payload is given out as it comes and no message is ever put
//! together.

use bytes::{Buf, BytesMut};
use tunnel_proto::Role;

use super::frames::{self, MAX_CONTROL_BYTES, MAX_HEAD_BYTES, Payload};
use super::mask::Mask;

/// The longest message that is accepted. The other end may put more into one than we do.
pub(super) const MAX_MESSAGE_BYTES: u64 = 4 * 1024 * 1024;

/// What was found.
pub(super) enum Found {
    /// Bytes of a binary message, unmasked; never none.
    Bytes(BytesMut),
    /// The end of a binary message.
    End,
    /// A Ping, which wants a Pong with the same payload.
    Ping(Payload),
    /// A Close. Nothing that follows it counts.
    Close {
        /// `None` where it has no payload.
        code: Option<u16>,
        reason: String,
    },
}

/// A breach of RFC 6455. Nothing that follows it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Breach {
    #[error("a WebSocket frame has reserved bits set")]
    ReservedBits,
    #[error("a WebSocket frame has the unknown opcode {0:#x}")]
    Opcode(u8),
    #[error("a WebSocket control frame is in fragments")]
    FragmentedControl,
    #[error("a WebSocket control frame is longer than 125 bytes")]
    LongControl,
    #[error("a client's WebSocket frame is not masked")]
    NotMasked,
    #[error("a server's WebSocket frame is masked")]
    Masked,
    #[error("the length of a WebSocket frame is not written as RFC 6455 says")]
    Length,
    #[error("a WebSocket message goes on that has not begun")]
    NothingToContinue,
    #[error("a WebSocket message begins inside another one")]
    InsideMessage,
    #[error("a WebSocket message is longer than 4 MiB")]
    TooLong,
    #[error("a WebSocket Close has a payload of one byte")]
    ShortClose,
    #[error("a WebSocket Close has the code {0}, which none may have")]
    CloseCode(u16),
    #[error("the reason of a WebSocket Close is not UTF-8")]
    CloseReason,
}

impl Breach {
    /// The code to close with.
    pub(super) const fn code(self) -> u16 {
        match self {
            Breach::TooLong => frames::MESSAGE_TOO_BIG,
            Breach::CloseReason => frames::INVALID_PAYLOAD,
            _ => frames::PROTOCOL_ERROR,
        }
    }
}

/// Reads the other end's frames.
pub(super) struct Reader {
    /// Ours.
    role: Role,
    state: State,
    /// The message whose last frame has not begun.
    message: Option<Message>,
    /// What has come of a head.
    head: [u8; MAX_HEAD_BYTES],
    head_len: usize,
    /// What has come of a control frame's payload.
    control: Payload,
    /// The payload of the latest data frame.
    latest: u64,
}

#[derive(Clone, Copy)]
enum State {
    Head,
    Data {
        left: u64,
        mask: Mask,
        binary: bool,
        fin: bool,
    },
    Control {
        opcode: u8,
        left: usize,
        mask: Mask,
    },
}

#[derive(Clone, Copy)]
struct Message {
    binary: bool,
    /// What its frames have had.
    len: u64,
}

impl Reader {
    /// A reader of what the other end of `role` sends.
    pub(super) const fn new(role: Role) -> Reader {
        Reader {
            role,
            state: State::Head,
            message: None,
            head: [0; MAX_HEAD_BYTES],
            head_len: 0,
            control: Payload::EMPTY,
            latest: 0,
        }
    }

    /// How many payload bytes of the data frame that has begun are missing, and how many bytes the next frame has if it is
    /// as long as the latest one.
    pub(super) const fn lengths(&self) -> (u64, u64) {
        let left = match self.state {
            State::Data { left, .. } => left,
            _ => 0,
        };
        (left, MAX_HEAD_BYTES as u64 + self.latest)
    }

    /// The next find in `bytes`, which are used up when there is none.
    pub(super) fn next(&mut self, bytes: &mut BytesMut) -> Result<Option<Found>, Breach> {
        loop {
            match &mut self.state {
                State::Head => match self.gather_head(bytes)? {
                    Some(state) => {
                        self.state = state;
                        self.head_len = 0;
                    }
                    None => return Ok(None),
                },
                State::Data {
                    left: 0, binary, fin, ..
                } => {
                    let is_end = *binary && *fin;
                    self.state = State::Head;
                    if is_end {
                        return Ok(Some(Found::End));
                    }
                }
                State::Data {
                    left, mask, binary, ..
                } => {
                    if bytes.is_empty() {
                        return Ok(None);
                    }
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= n as u64;
                    if *binary {
                        let mut part = bytes.split_to(n);
                        mask.apply(&mut part);
                        return Ok(Some(Found::Bytes(part)));
                    }
                    bytes.advance(n);
                }
                State::Control { opcode, left, mask } => {
                    let n = (*left).min(bytes.len());
                    self.control.put(&bytes[..n]);
                    bytes.advance(n);
                    *left -= n;
                    if *left > 0 {
                        return Ok(None);
                    }
                    let (opcode, mut mask) = (*opcode, *mask);
                    self.state = State::Head;
                    let mut payload = std::mem::replace(&mut self.control, Payload::EMPTY);
                    mask.apply(payload.bytes_mut());
                    match opcode {
                        frames::PING => return Ok(Some(Found::Ping(payload))),
                        frames::CLOSE => return close(payload.bytes()).map(Some),
                        // A Pong that nobody asked for (RFC 6455 §5.5.3).
                        _ => {}
                    }
                }
            }
        }
    }

    /// Puts a head together and checks it, as early as its bytes tell; `None` while some of it is missing.
    fn gather_head(&mut self, bytes: &mut BytesMut) -> Result<Option<State>, Breach> {
        loop {
            let [first, second, ..] = self.head;
            let needed = match self.head_len {
                0 | 1 => 2,
                _ => head_bytes(second),
            };
            if self.head_len == needed {
                return self.begin(first, second).map(Some);
            }
            if bytes.is_empty() {
                return Ok(None);
            }
            let n = (needed - self.head_len).min(bytes.len());
            self.head[self.head_len..self.head_len + n].copy_from_slice(&bytes[..n]);
            bytes.advance(n);
            let before = self.head_len;
            self.head_len += n;
            if before < 2 && self.head_len >= 2 {
                self.check(self.head[0], self.head[1])?;
            }
        }
    }

    /// What the first two bytes tell.
    fn check(&self, first: u8, second: u8) -> Result<(), Breach> {
        let (opcode, fin) = (first & frames::OPCODE, first & frames::FIN != 0);
        if first & frames::RESERVED != 0 {
            return Err(Breach::ReservedBits);
        }
        match (opcode, self.message) {
            (frames::CONTINUATION, None) => return Err(Breach::NothingToContinue),
            (frames::TEXT | frames::BINARY, Some(_)) => return Err(Breach::InsideMessage),
            (frames::CONTINUATION | frames::TEXT | frames::BINARY, _) => {}
            (frames::CLOSE | frames::PING | frames::PONG, _) => {
                if !fin {
                    return Err(Breach::FragmentedControl);
                }
                if usize::from(second & !frames::MASKED) > MAX_CONTROL_BYTES {
                    return Err(Breach::LongControl);
                }
            }
            _ => return Err(Breach::Opcode(opcode)),
        }
        match (self.role, second & frames::MASKED != 0) {
            (Role::Server, false) => Err(Breach::NotMasked),
            (Role::Client, true) => Err(Breach::Masked),
            _ => Ok(()),
        }
    }

    /// Begins the frame whose head is whole.
    fn begin(&mut self, first: u8, second: u8) -> Result<State, Breach> {
        let mut rest = &self.head[2..self.head_len];
        // The rest is as long as `head_bytes` says, so that nothing is missing here.
        let len = match second & !frames::MASKED {
            126 => {
                let len = u64::from(rest.try_get_u16().unwrap_or(0));
                if len < 126 {
                    return Err(Breach::Length);
                }
                len
            }
            127 => {
                let len = rest.try_get_u64().unwrap_or(0);
                if len <= u64::from(u16::MAX) || len > i64::MAX as u64 {
                    return Err(Breach::Length);
                }
                len
            }
            len => u64::from(len),
        };
        let mut key = [0; 4];
        if rest.len() == key.len() {
            key.copy_from_slice(rest);
        }
        let mask = Mask::new(key);
        let (opcode, fin) = (first & frames::OPCODE, first & frames::FIN != 0);
        if matches!(opcode, frames::CLOSE | frames::PING | frames::PONG) {
            let left = usize::try_from(len).map_err(|_| Breach::LongControl)?;
            return Ok(State::Control { opcode, left, mask });
        }
        let mut message = self.message.unwrap_or(Message {
            binary: opcode == frames::BINARY,
            len: 0,
        });
        message.len = message.len.saturating_add(len);
        if message.len > MAX_MESSAGE_BYTES {
            return Err(Breach::TooLong);
        }
        self.message = (!fin).then_some(message);
        self.latest = len;
        Ok(State::Data {
            left: len,
            mask,
            binary: message.binary,
            fin,
        })
    }
}

/// How long a head is, by its second byte.
const fn head_bytes(second: u8) -> usize {
    let length = match second & !frames::MASKED {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let key = if second & frames::MASKED == 0 { 0 } else { 4 };
    2 + length + key
}

fn close(mut payload: &[u8]) -> Result<Found, Breach> {
    if payload.is_empty() {
        return Ok(Found::Close {
            code: None,
            reason: String::new(),
        });
    }
    let code = payload.try_get_u16().map_err(|_| Breach::ShortClose)?;
    if !frames::may_be_sent(code) {
        return Err(Breach::CloseCode(code));
    }
    let reason = std::str::from_utf8(payload).map_err(|_| Breach::CloseReason)?;
    Ok(Found::Close {
        code: Some(code),
        reason: reason.to_owned(),
    })
}
