#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod admission;
mod certificate;
mod config;
pub mod demo_services;
mod error;
mod gateway;
mod handshake;
#[cfg(feature = "kube")]
mod kube_admission;
#[cfg(feature = "kube")]
mod kube_replicas;
mod lobby;
mod presence;
mod push_admission;
mod pushed;
mod reception;
mod refusals;
mod replicas;
mod seat;
mod serve_client;
mod status;
mod tally;
mod token_admission;
mod tokens;

pub use admission::{Admission, Offer, Rejection, View};
pub use config::{GatewayConfig, Limits, TlsFiles};
pub use devbox_gateway_client::{Token, TokenSource};
pub use error::Error;
pub use gateway::Gateway;
#[cfg(feature = "kube")]
pub use kube_admission::KubeAdmission;
pub use push_admission::PushAdmission;
pub use pushed::MAX_PUSHED_BYTES;
pub use replicas::{Claim, Replicas};
pub use token_admission::{Grant, TokenAdmission, TokenCheck};
pub use tunnel_bridge::resume::DeskOptions;
