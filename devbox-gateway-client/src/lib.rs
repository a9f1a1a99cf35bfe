#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod approach;
mod error;
pub mod handshake;
mod provider;
mod push;
mod redial;
mod source;
mod successor;
mod token;

pub use approach::Approach;
pub use error::Error;
pub use provider::{GatewayProvider, TokenIssuer, TokenSource};
pub use token::{MAX_TOKEN_BYTES, Token};
