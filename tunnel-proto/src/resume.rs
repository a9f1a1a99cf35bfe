//! The frames with which a link goes on over a new connection. They come before the link's own bytes and do not count among them.

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::frame::{self, HEAD_BYTES, MAX_CONTROL_BYTES, RESUME_TOKEN_BYTES};
use crate::{MAX_MESSAGE_BYTES, Violation};

/// What a client shows to take a link up again: 16 bytes that only the two ends of that link know.
///
/// Comparing two of them takes the same time wherever they differ, and `Debug` does not show the bytes.
#[derive(Clone, Copy)]
pub struct ResumeToken([u8; RESUME_TOKEN_BYTES]);

impl ResumeToken {
    /// A token of these bytes, which must come from a generator that nobody can predict.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; RESUME_TOKEN_BYTES]) -> ResumeToken {
        ResumeToken(bytes)
    }

    pub(crate) const fn as_bytes(&self) -> &[u8; RESUME_TOKEN_BYTES] {
        &self.0
    }

    pub(crate) fn take(payload: &mut Bytes) -> Option<ResumeToken> {
        let mut bytes = [0; RESUME_TOKEN_BYTES];
        payload.try_copy_to_slice(&mut bytes).ok()?;
        Some(ResumeToken(bytes))
    }
}

impl PartialEq for ResumeToken {
    fn eq(&self, other: &ResumeToken) -> bool {
        // As one number: no branch depends on where the two differ.
        let difference = u128::from_ne_bytes(self.0) ^ u128::from_ne_bytes(other.0);
        std::hint::black_box(difference) == 0
    }
}

impl Eq for ResumeToken {}

impl fmt::Debug for ResumeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResumeToken(..)")
    }
}

/// Why a server does not take a link up again. Travels as a code in NOT_RESUMED.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NotResumedReason {
    /// It has no such link for this client: its time is over, the server has started anew, or the token is another one's. Code 1.
    Unknown,
    /// It cannot send what the client is missing, or was told of bytes that it never sent. Code 2.
    Offset,
    /// Anything else, and every code that this version does not know. Code 3.
    Internal,
}

impl NotResumedReason {
    /// The code on the wire.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            NotResumedReason::Unknown => 1,
            NotResumedReason::Offset => 2,
            NotResumedReason::Internal => 3,
        }
    }

    /// The reason of a code; [`NotResumedReason::Internal`] for codes of later versions.
    #[must_use]
    pub const fn from_code(code: u16) -> NotResumedReason {
        match code {
            1 => NotResumedReason::Unknown,
            2 => NotResumedReason::Offset,
            _ => NotResumedReason::Internal,
        }
    }
}

/// What the client says first on a new connection.
///
/// ```
/// use tunnel_proto::{FirstFrame, ResumeToken};
///
/// let resume = FirstFrame::Resume { token: ResumeToken::from_bytes([7; 16]), received: 1000 };
/// let bytes = resume.to_bytes();
/// assert_eq!(FirstFrame::parse(&bytes[..10]), Ok(None));
/// assert_eq!(FirstFrame::parse(&bytes), Ok(Some((resume, bytes.len()))));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstFrame {
    /// HELLO: a link begins, and these are its first bytes.
    Hello,
    /// RESUME: a link goes on.
    Resume {
        /// Which one.
        token: ResumeToken,
        /// How many bytes of the link the client has received.
        received: u64,
    },
}

impl FirstFrame {
    /// Reads the first frame at the start of `bytes`, and how many of them are not the link's own: none of HELLO, all of RESUME. `None`
    /// while more bytes are needed.
    ///
    /// # Errors
    /// [`Violation`] when another frame comes first, or one is malformed.
    pub fn parse(bytes: &[u8]) -> Result<Option<(FirstFrame, usize)>, Violation> {
        let Some((kind, len)) = head(bytes)? else {
            return Ok(None);
        };
        match kind {
            frame::HELLO => Ok(Some((FirstFrame::Hello, 0))),
            frame::RESUME => {
                let Some(mut payload) = payload(bytes, len) else {
                    return Ok(None);
                };
                let bad = Violation::BadPayload { kind };
                let token = ResumeToken::take(&mut payload).ok_or_else(|| bad.clone())?;
                let received = payload.try_get_u64().map_err(|_| bad)?;
                Ok(Some((FirstFrame::Resume { token, received }, HEAD_BYTES + len)))
            }
            _ => Err(Violation::HelloMisplaced),
        }
    }

    /// RESUME as bytes; nothing for HELLO, which a [`Connection`](crate::Connection) sends itself.
    #[must_use]
    pub fn to_bytes(self) -> Bytes {
        let mut out = BytesMut::new();
        if let FirstFrame::Resume { token, received } = self {
            frame::put_head(&mut out, frame::RESUME, RESUME_TOKEN_BYTES + 8);
            out.put_slice(token.as_bytes());
            out.put_u64(received);
        }
        out.freeze()
    }
}

/// What the server answers to RESUME.
///
/// ```
/// use tunnel_proto::ResumeAnswer;
///
/// let answer = ResumeAnswer::Resumed { received: 512 };
/// let bytes = answer.to_bytes();
/// assert_eq!(ResumeAnswer::parse(&bytes), Ok(Some((answer, bytes.len()))));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResumeAnswer {
    /// RESUMED: the link goes on.
    Resumed {
        /// How many bytes of the link the server has received.
        received: u64,
    },
    /// NOT_RESUMED: the link is over.
    NotResumed {
        /// Why.
        reason: NotResumedReason,
        /// One line for a person.
        message: String,
    },
}

impl ResumeAnswer {
    /// Reads the answer at the start of `bytes`, and how many of them are not the link's own. `None` while more bytes are needed.
    ///
    /// A server says HELLO and PING before it knows that the client wants no new link: these are skipped.
    ///
    /// # Errors
    /// [`Violation`] when another frame comes first, or one is malformed.
    pub fn parse(bytes: &[u8]) -> Result<Option<(ResumeAnswer, usize)>, Violation> {
        let mut at = 0;
        for _ in 0..=MOST_SKIPPED {
            let rest = bytes.get(at..).unwrap_or_default();
            let Some((kind, len)) = head(rest)? else {
                return Ok(None);
            };
            let Some(mut payload) = payload(rest, len) else {
                return Ok(None);
            };
            at += HEAD_BYTES + len;
            let answer = match kind {
                frame::HELLO | frame::PING => continue,
                frame::RESUMED => {
                    let received = payload
                        .try_get_u64()
                        .map_err(|_| Violation::BadPayload { kind })?;
                    ResumeAnswer::Resumed { received }
                }
                frame::NOT_RESUMED => {
                    let (code, message) = frame::code_and_message(kind, payload)?;
                    ResumeAnswer::NotResumed {
                        reason: NotResumedReason::from_code(code),
                        message,
                    }
                }
                _ => return Err(Violation::OutOfPlace { kind, id: 0 }),
            };
            return Ok(Some((answer, at)));
        }
        Err(Violation::HelloMisplaced)
    }

    /// The answer as bytes. A message is cut after [`MAX_MESSAGE_BYTES`].
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEAD_BYTES + 2 + MAX_MESSAGE_BYTES.min(64));
        match self {
            ResumeAnswer::Resumed { received } => {
                frame::put_head(&mut out, frame::RESUMED, 8);
                out.put_u64(*received);
            }
            ResumeAnswer::NotResumed { reason, message } => {
                frame::put_code(&mut out, frame::NOT_RESUMED, 0, reason.code(), message);
            }
        }
        out.freeze()
    }
}

/// Frames of a link that the server thought would begin.
const MOST_SKIPPED: usize = 4;

/// Kind and payload length of the frame that `bytes` begin with, which must be one of the connection's own.
fn head(bytes: &[u8]) -> Result<Option<(u8, usize)>, Violation> {
    let Some(&[kind, a, b, c, d, e, f, g]) = bytes.first_chunk::<HEAD_BYTES>() else {
        return Ok(None);
    };
    let len = u32::from_be_bytes([0, a, b, c]);
    if len > MAX_CONTROL_BYTES {
        return Err(Violation::FrameTooLong {
            kind,
            len,
            limit: MAX_CONTROL_BYTES,
        });
    }
    match u32::from_be_bytes([d, e, f, g]) {
        0 => Ok(Some((kind, len as usize))),
        id => Err(Violation::WrongStream { kind, id }),
    }
}

fn payload(bytes: &[u8], len: usize) -> Option<Bytes> {
    bytes
        .get(HEAD_BYTES..HEAD_BYTES + len)
        .map(Bytes::copy_from_slice)
}
