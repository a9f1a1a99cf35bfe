//! What a connection reports to its owner.

use std::time::Duration;

use bytes::Bytes;

use crate::{GoAwayReason, Refusal, ResetReason, StreamId};

/// What happened. Events of one stream come in the order in which they happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The peer's HELLO arrived: it speaks this protocol.
    Ready,
    /// The peer opened a stream. Answer with [`accept`](crate::Connection::accept) or
    /// [`refuse`](crate::Connection::refuse); data may come before the answer.
    Opened {
        /// The stream.
        id: StreamId,
        /// What it asks for.
        target: Bytes,
    },
    /// The peer opened a flow of datagrams. Answer it as a stream; datagrams may come before the answer.
    FlowOpened {
        /// The flow.
        id: StreamId,
        /// What it asks for.
        target: Bytes,
    },
    /// A datagram of a flow.
    Datagram {
        /// The flow.
        id: StreamId,
        /// All of it, perhaps empty.
        bytes: Bytes,
    },
    /// The OPEN of a stream of ours, which was [held back](crate::Connection::is_held), is on its way.
    OpenSent {
        /// The stream.
        id: StreamId,
    },
    /// The peer accepted a stream of ours.
    Accepted {
        /// The stream.
        id: StreamId,
    },
    /// The peer refused a stream of ours. It is over.
    Refused {
        /// The stream.
        id: StreamId,
        /// Why.
        refusal: Refusal,
    },
    /// Bytes of a stream. Call [`consumed`](crate::Connection::consumed) when they are used up.
    Data {
        /// The stream.
        id: StreamId,
        /// At least one byte.
        bytes: Bytes,
    },
    /// The peer's direction of a stream ended: no data follows.
    Finished {
        /// The stream.
        id: StreamId,
    },
    /// The peer reset a stream. It is over.
    Reset {
        /// The stream.
        id: StreamId,
        /// Why.
        reason: ResetReason,
    },
    /// Bytes of a stream were put into a transmit sink.
    Sent {
        /// The stream.
        id: StreamId,
        /// How many.
        bytes: usize,
    },
    /// The peer takes that many more bytes of a stream.
    Credit {
        /// The stream.
        id: StreamId,
        /// How many.
        bytes: u32,
    },
    /// That much of a stream's credit was given back to the peer, which had asked for it.
    CreditReturned {
        /// The stream.
        id: StreamId,
        /// How many bytes.
        bytes: u32,
    },
    /// Both directions of a stream have ended. It is over.
    Closed {
        /// The stream.
        id: StreamId,
    },
    /// The peer takes no new streams. It may say so again, with another reason.
    GoingAway {
        /// Why.
        reason: GoAwayReason,
        /// What it said.
        message: String,
    },
    /// Where the peer says that one should connect to once it leaves, which it is about to say.
    Successor {
        /// A URL of visible ASCII characters, at most [`MAX_SUCCESSOR_BYTES`](crate::MAX_SUCCESSOR_BYTES).
        url: String,
    },
    /// The server has given its token: from here on the link [can be taken up again](crate::Connection::handle_carrier_lost).
    Resumable,
    /// The link was without a connection for too long: it is over.
    Expired,
    /// The peer has heard that this side drains: every stream that it opened before that has been told of, and what it
    /// opens from here on is refused.
    Drained,
    /// Nothing was received for too long: the link is dead.
    Dead {
        /// For how long.
        silent_for: Duration,
    },
}
