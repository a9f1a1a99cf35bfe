//! What the owner cannot have, and how the peer broke the protocol.

use crate::StreamId;

/// What can go wrong with a [`Connection`](crate::Connection).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A limit in [`Config`](crate::Config) is out of its range.
    #[error("{what} is {value}, but must be from {low} to {high}")]
    LimitOutOfRange {
        /// The limit's name.
        what: &'static str,
        /// What it was set to.
        value: u64,
        /// The least it may be.
        low: u64,
        /// The most it may be.
        high: u64,
    },
    /// A target is empty or longer than [`MAX_TARGET_BYTES`](crate::MAX_TARGET_BYTES).
    #[error("a target of {len} bytes")]
    TargetLength {
        /// Its length.
        len: usize,
    },
    /// The limit on open streams is reached.
    #[error("{limit} streams are open, which is the limit")]
    TooManyStreams {
        /// The limit: ours or the peer's.
        limit: u32,
    },
    /// The connection has used all stream numbers; a new one is needed.
    #[error("the connection has used up its stream numbers")]
    StreamIdsUsedUp,
    /// One of the sides is leaving and takes no new streams.
    #[error("the connection is going away")]
    GoingAway,
    /// There is no such stream, or it is over. After a reset that crossed on the wire this is no fault.
    #[error("stream {id} is not open")]
    NotOpen {
        /// The stream.
        id: StreamId,
    },
    /// The stream's state does not allow this.
    #[error("stream {id} cannot {what}")]
    WrongState {
        /// The stream.
        id: StreamId,
        /// What was asked.
        what: &'static str,
    },
    /// A successor is no URL of 1 to [`MAX_SUCCESSOR_BYTES`](crate::MAX_SUCCESSOR_BYTES) visible ASCII characters.
    #[error("a successor must be 1 to 1024 visible ASCII characters")]
    BadSuccessor,
    /// The link cannot go on with a peer that has received this many of its bytes: they are not kept any more, or were never sent.
    #[error("the link cannot be taken up again from byte {offset}")]
    CannotResume {
        /// How many bytes the peer says that it has.
        offset: u64,
    },
    /// One of the sides does not offer that part of the protocol.
    #[error("{what} are not carried on this connection: the other side may be older")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
    },
    /// A datagram is longer than the peer, or this side, takes.
    #[error("a datagram of {len} bytes, at most {most} are carried")]
    DatagramTooLong {
        /// Its length.
        len: usize,
        /// The most it may have.
        most: usize,
    },
    /// The peer broke the protocol. The connection is over; a GOAWAY that says why waits to be sent.
    #[error(transparent)]
    Violation(#[from] Violation),
}

/// How the peer broke the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// Its first frame is not HELLO, or it sent a second HELLO.
    #[error("HELLO must come first, and once")]
    HelloMisplaced,
    /// It speaks another version.
    #[error("protocol version {version} is not supported")]
    Version {
        /// Its version.
        version: u16,
    },
    /// A frame of an unknown kind that is not optional.
    #[error("frame of unknown kind {kind:#04x}")]
    UnknownKind {
        /// The kind.
        kind: u8,
    },
    /// A frame is longer than its kind, or our limit, allows.
    #[error("frame of kind {kind:#04x} with {len} bytes, at most {limit} are allowed")]
    FrameTooLong {
        /// The kind.
        kind: u8,
        /// Its payload's length.
        len: u32,
        /// The most it may be.
        limit: u32,
    },
    /// A frame's payload does not fit its kind.
    #[error("frame of kind {kind:#04x} with a malformed payload")]
    BadPayload {
        /// The kind.
        kind: u8,
    },
    /// A connection's frame carries a stream number, or a stream's frame carries none.
    #[error("frame of kind {kind:#04x} on stream {id}")]
    WrongStream {
        /// The kind.
        kind: u8,
        /// The stream.
        id: u32,
    },
    /// It opened a stream with one of our numbers, or with a number not above its last.
    #[error("stream {id} opened out of turn")]
    OpenedOutOfTurn {
        /// The stream.
        id: u32,
    },
    /// A frame for a stream that was never opened.
    #[error("frame of kind {kind:#04x} for stream {id}, which was never opened")]
    NeverOpened {
        /// The kind.
        kind: u8,
        /// The stream.
        id: u32,
    },
    /// A frame that the stream's state does not allow: data before ACCEPT or after FIN, a second answer.
    #[error("frame of kind {kind:#04x} for stream {id} out of place")]
    OutOfPlace {
        /// The kind.
        kind: u8,
        /// The stream.
        id: u32,
    },
    /// It sent, or gave back, more than it was granted.
    #[error("stream {id} exceeded its credit")]
    CreditExceeded {
        /// The stream.
        id: u32,
    },
    /// It granted more than 2^31 - 1 bytes at once.
    #[error("credit of stream {id} overflows")]
    CreditOverflow {
        /// The stream.
        id: u32,
    },
    /// It acknowledged more than it was sent.
    #[error("{received} bytes were acknowledged, which is more than were sent")]
    AckAhead {
        /// How many bytes it says to have received.
        received: u64,
    },
    /// It requests answers without reading them, or without acknowledging them.
    #[error("too many frames are queued for a peer that does not read")]
    Flood,
}
