#![cfg_attr(feature = "server", doc = include_str!("../README.md"))]
#![cfg_attr(
    not(feature = "server"),
    doc = "A small, correct DNS responder: its pure core."
)]
#![forbid(unsafe_code)]

mod answer;
mod data;
mod error;
mod forward;
mod limit;
#[cfg(feature = "server")]
mod metrics;
mod name;
mod registry;
#[cfg(feature = "server")]
mod server;
#[cfg(feature = "server")]
mod sys;
mod system;
mod text;
#[cfg(feature = "tls")]
mod tls;
mod wire;
mod zone;

pub use answer::{Answering, Outcome, Responder, Sharing, Unreadable, Verdict};
pub use data::Data;
pub use error::Error;
pub use forward::{ForwardCounts, Forwarder, Forwarding, PortId, Transmit};
pub use limit::{Limiter, RateLimit};
#[cfg(feature = "server")]
pub use metrics::Metrics;
pub use name::Name;
pub use registry::{Record, Registry, Snapshot};
#[cfg(feature = "server")]
pub use server::{Listening, Server, ServerError};
pub use system::system_upstreams;
pub use text::{query, to_text};
#[cfg(feature = "tls")]
pub use tls::{TlsConfig, TlsError, ask_over_tls, tls_server};
pub use wire::Transport;
pub use zone::{DEFAULT_TTL, Zone, reverse_zones};
