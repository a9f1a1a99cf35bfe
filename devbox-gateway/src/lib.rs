#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod admission;
mod config;
pub mod demo_services;
mod error;
mod gateway;
mod handshake;
mod push_admission;
mod pushed;
mod seat;
mod serve_client;
mod token_admission;

pub use admission::{Admission, Offer, Rejection, View};
pub use config::{GatewayConfig, Limits, TlsFiles};
pub use devbox_gateway_client::{Token, TokenSource};
pub use error::Error;
pub use gateway::Gateway;
pub use push_admission::PushAdmission;
pub use pushed::MAX_PUSHED_BYTES;
pub use token_admission::{TokenAdmission, TokenCheck};
