#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod catalog;
mod error;
mod label;
mod line;
mod pending;
mod service;
mod source;
mod target;
pub mod wire;

pub use catalog::{Catalog, Health, MAX_NOTES, Update};
pub use error::{Error, LabelFault};
pub use label::{Label, MAX_LABEL_BYTES};
pub use line::{MAX_REASON_BYTES, is_format, printable};
pub use pending::PendingUpdates;
pub use service::{MAX_ALIASES, MAX_TARGET_BYTES, Port, Protocol, Readiness, Service, ServiceId};
pub use source::{Source, SourceError};
pub use target::Target;

/// The target text that a client opens on the tunnel to receive [`Update`]s in their [`wire`] form.
///
/// It can be no service's [`Target`]: those contain slashes.
pub const CATALOG_STREAM: &str = "catalog";
