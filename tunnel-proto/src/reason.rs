//! Why a stream was refused or reset, and why a connection ends: codes on the wire, types here.

use std::fmt;

/// Why the far side did not connect a stream to its target. Travels as a code in REFUSE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum RefusalKind {
    /// The target refused the connection (nothing listens there). Code 1.
    Refused,
    /// No route to the target, or its name has no address. Code 2.
    Unreachable,
    /// The target did not answer in time. Code 3.
    TimedOut,
    /// This client may not reach the target, or the text is not a target. Code 4.
    NotAllowed,
    /// The far side knows no such target. Code 5.
    NotFound,
    /// A limit on streams is reached. Code 6.
    TooMany,
    /// The link to the far side is gone or going: another link can take the connection. Code 7; only the near side says
    /// so, it is never sent.
    LinkLost,
    /// Anything else, and every code that this version does not know. Code 8.
    Internal,
    /// This kind of target is not carried here. Code 9.
    Unsupported,
}

impl RefusalKind {
    /// The code on the wire.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            RefusalKind::Refused => 1,
            RefusalKind::Unreachable => 2,
            RefusalKind::TimedOut => 3,
            RefusalKind::NotAllowed => 4,
            RefusalKind::NotFound => 5,
            RefusalKind::TooMany => 6,
            RefusalKind::LinkLost => 7,
            RefusalKind::Internal => 8,
            RefusalKind::Unsupported => 9,
        }
    }

    /// The kind of a code; [`RefusalKind::Internal`] for codes of later versions.
    #[must_use]
    pub const fn from_code(code: u16) -> RefusalKind {
        match code {
            1 => RefusalKind::Refused,
            2 => RefusalKind::Unreachable,
            3 => RefusalKind::TimedOut,
            4 => RefusalKind::NotAllowed,
            5 => RefusalKind::NotFound,
            6 => RefusalKind::TooMany,
            7 => RefusalKind::LinkLost,
            9 => RefusalKind::Unsupported,
            _ => RefusalKind::Internal,
        }
    }
}

impl fmt::Display for RefusalKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RefusalKind::Refused => "refused",
            RefusalKind::Unreachable => "unreachable",
            RefusalKind::TimedOut => "timed out",
            RefusalKind::NotAllowed => "not allowed",
            RefusalKind::NotFound => "not found",
            RefusalKind::TooMany => "too many streams",
            RefusalKind::LinkLost => "link lost",
            RefusalKind::Internal => "internal error",
            RefusalKind::Unsupported => "unsupported",
        })
    }
}

/// The far side's answer to an open that it did not accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What to decide on.
    pub kind: RefusalKind,
    /// What to show a person: one line, no line breaks, at most [`MAX_MESSAGE_BYTES`] on the wire.
    pub message: String,
}

impl Refusal {
    /// A refusal of `kind` with a line for a person.
    pub fn new(kind: RefusalKind, message: impl Into<String>) -> Refusal {
        Refusal {
            kind,
            message: message.into(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() {
            write!(f, "{}", self.kind)
        } else {
            write!(f, "{}: {}", self.kind, self.message)
        }
    }
}

impl std::error::Error for Refusal {}

/// Why a stream ended before both directions were finished. Travels as a code in RESET.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ResetReason {
    /// Its user gave it up. Code 1.
    Cancelled,
    /// The socket behind the stream was reset or failed. Code 2.
    SocketReset,
    /// Nothing moved for too long. Code 3.
    TimedOut,
    /// That side is leaving and does not wait for the stream. Code 4.
    Leaving,
    /// Anything else, and every code that this version does not know. Code 5.
    Internal,
}

impl ResetReason {
    /// The code on the wire.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            ResetReason::Cancelled => 1,
            ResetReason::SocketReset => 2,
            ResetReason::TimedOut => 3,
            ResetReason::Leaving => 4,
            ResetReason::Internal => 5,
        }
    }

    /// The reason of a code; [`ResetReason::Internal`] for codes of later versions.
    #[must_use]
    pub const fn from_code(code: u16) -> ResetReason {
        match code {
            1 => ResetReason::Cancelled,
            2 => ResetReason::SocketReset,
            3 => ResetReason::TimedOut,
            4 => ResetReason::Leaving,
            _ => ResetReason::Internal,
        }
    }
}

impl fmt::Display for ResetReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ResetReason::Cancelled => "given up by the other side",
            ResetReason::SocketReset => "the connection behind the stream was reset",
            ResetReason::TimedOut => "timed out",
            ResetReason::Leaving => "the other side is leaving",
            ResetReason::Internal => "internal error",
        })
    }
}

/// Why a side announces that it takes no new streams. Travels as a code in GOAWAY.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GoAwayReason {
    /// It shuts down. Code 1.
    Leaving,
    /// A newer connection of the same session took this one's place. Code 2.
    Superseded,
    /// The other side broke the protocol. Code 3.
    Protocol,
    /// Anything else, and every code that this version does not know. Code 4.
    Internal,
}

impl GoAwayReason {
    /// The code on the wire.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            GoAwayReason::Leaving => 1,
            GoAwayReason::Superseded => 2,
            GoAwayReason::Protocol => 3,
            GoAwayReason::Internal => 4,
        }
    }

    /// The reason of a code; [`GoAwayReason::Internal`] for codes of later versions.
    #[must_use]
    pub const fn from_code(code: u16) -> GoAwayReason {
        match code {
            1 => GoAwayReason::Leaving,
            2 => GoAwayReason::Superseded,
            3 => GoAwayReason::Protocol,
            _ => GoAwayReason::Internal,
        }
    }
}

/// Longest message of a REFUSE or GOAWAY on the wire; longer ones are cut at a character boundary.
pub const MAX_MESSAGE_BYTES: usize = 1024;
