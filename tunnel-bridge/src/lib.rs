// The examples of the README need a WebSocket.
#![cfg_attr(feature = "websocket", doc = include_str!("../README.md"))]
#![cfg_attr(
    not(feature = "websocket"),
    doc = "TCP connections carried over one link, here without WebSocket."
)]
//!
//! # What this crate knows
//! Carrying TCP and UDP over one link: the carriers under it, the task that drives it, listeners, and joining two connections
//! so that each end arrives as what it was.
//!
//! # What it must not know
//! Kubernetes, catalogs, the hosts file, addresses and leases, and who may ask for what: a target is an opaque text,
//! and whoever accepts streams decides.

#![forbid(unsafe_code)]

mod buffer;
mod carrier;
#[cfg_attr(
    not(feature = "websocket"),
    expect(dead_code, reason = "some of it is for links through HTTP")
)]
#[cfg_attr(
    not(any(feature = "tls", feature = "websocket")),
    expect(
        unused_imports,
        reason = "only links through HTTP or TLS make connections of their own"
    )
)]
pub mod dial;
pub mod direct;
mod driver;
mod error;
#[cfg_attr(
    not(feature = "websocket"),
    expect(dead_code, reason = "some of it is for links through HTTP")
)]
mod http;
mod join;
mod link;
mod link_stream;
pub mod listener;
mod mux;
#[cfg(feature = "tls")]
pub mod per_stream;
mod program;
#[cfg(feature = "quic")]
pub mod quic;
#[cfg(any(feature = "tls", feature = "websocket"))]
mod rest;
pub mod resume;
mod splice;
mod stream;
mod sys;
mod target;
#[cfg(feature = "tls")]
pub mod tls;
mod trust;
pub mod udp;
#[cfg(feature = "websocket")]
pub mod ws;

#[cfg(feature = "websocket")]
pub use carrier::WebSocketCarrier;
pub use carrier::{Carrier, CarrierEnd, StreamCarrier, prepare_socket};
pub use error::Error;
pub use join::splice_streams;
pub use link::{Incoming, Leaving, Link, LinkEnd, LinkOptions};
pub use link_stream::MuxStream;
pub use resume::LinkStatus;
pub use splice::{End, Side, SpliceReport, splice};
pub use stream::{ByteStream, DatagramFlow, Dialer, is_link_lost, refusal_of, reset_of};
pub use target::{MAX_TARGET_BYTES, Target};
pub use trust::{Identity, Pin, Trust};
pub use tunnel_proto::{ChunkQueue, GoAwayReason, Refusal, RefusalKind, ResetReason, Role};
