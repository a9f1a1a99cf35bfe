#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod address;
mod dial;
mod error;
mod file;
pub mod follow;
mod live;
mod static_catalog;
mod sys;

pub use address::{DialAddress, Host, HostName};
pub use dial::DialPolicy;
pub use error::Error;
pub use file::{CatalogFile, MAX_CATALOG_FILE_BYTES, OpenOptions};
pub use live::LiveCatalog;
pub use static_catalog::StaticCatalog;
