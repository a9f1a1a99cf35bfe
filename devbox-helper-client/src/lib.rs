#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

#[cfg(feature = "tokio")]
mod async_client;
mod channel;
mod client;
mod codec;
mod endpoint;
mod error;
mod keeper;
mod message;
mod name_rule;
mod sys;

#[cfg(feature = "tokio")]
pub use async_client::AsyncClient;
pub use channel::{Channel, Receiver, Sender};
pub use client::{Client, StartOptions};
pub use codec::{Decoder, FrameError, MAX_FRAME_BYTES, encode};
pub use endpoint::{Endpoint, Protocol};
pub use error::Error;
pub use keeper::Keeper;
pub use message::{
    BindFailure, Call, Conflict, Diagnostic, Handshake, HeldNames, HelperError, HostsBlock, HostsEntry,
    HostsReport, ReleaseReport, Reply, Request, Response, SweepReport, SweptBlock, UserBlock, UserEdit,
    UserEntry, UserLine, UserWhich, VERSION,
};
pub use name_rule::name_refusal;
