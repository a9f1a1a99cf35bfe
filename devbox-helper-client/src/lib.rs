#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

#[cfg(feature = "tokio")]
mod async_client;
mod channel;
mod client;
mod codec;
mod endpoint;
mod error;
mod installed;
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
pub use installed::{PIPE, SOCKET, SOCKET_APPLE, installed_socket};
pub use keeper::Keeper;
pub use message::{
    BindFailure, Call, ClaimReport, Conflict, Diagnostic, Handshake, HeldNames, HelperError, Holder,
    HostsBlock, HostsEntry, HostsReport, InterfaceKind, MAX_GRACE, NetworkReport, NetworkUndone,
    NewInterface, NewResolver, OLDEST_VERSION, ReleaseReport, Reply, Request, Response, StatusReport,
    SweepReport, SweptBlock, Token, UserBlock, UserEdit, UserEntry, UserLine, UserWhich, VERSION,
    common_version,
};
pub use name_rule::name_refusal;
pub use sys::Descriptor;
