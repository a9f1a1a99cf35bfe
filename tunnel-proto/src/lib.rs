#![doc = include_str!("../README.md")]
//!
//! # What this crate knows
//! Frames, streams, credit, open and refuse, ping: the wire protocol of `docs/protocol.md`, as a state machine that takes
//! bytes and the time, and returns what to send and what happened.
//!
//! # What it must not know
//! Sockets, TLS, WebSocket, the clock, a runtime, and what a target means.

#![forbid(unsafe_code)]

mod chunks;
mod config;
mod connection;
mod error;
mod event;
mod features;
mod frame;
mod reason;
mod resume;

pub use chunks::{ChunkQueue, TransmitSink};
pub use config::Config;
pub use connection::{Connection, Role, StreamId};
pub use error::{Error, Violation};
pub use event::Event;
pub use features::Features;
pub use frame::{MAX_DATAGRAM_BYTES, MAX_SUCCESSOR_BYTES, MAX_TARGET_BYTES};
pub use reason::{GoAwayReason, MAX_MESSAGE_BYTES, Refusal, RefusalKind, ResetReason};
pub use resume::{FirstFrame, NotResumedReason, ResumeAnswer, ResumeToken};
