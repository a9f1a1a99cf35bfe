#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod address;
mod admission;
mod client;
mod config;
pub mod demo;
mod dial;
mod error;
mod follow;
mod gateway;
mod served;
mod static_catalog;

pub use address::{DialAddress, Host, HostName};
pub use config::{CatalogSource, GatewayConfig, Limits, TlsFiles, TokenSource};
pub use error::Error;
pub use gateway::Gateway;
pub use static_catalog::StaticCatalog;
