//! A session's life: what is wanted, what is there, and the steps from one to the other.
//!
//! This crate knows how a session connects, which names and addresses its services get, in which order things are
//! done and undone, and how others ask it. It knows the far side only through two traits
//! ([`service_catalog::Source`], [`tunnel_bridge::Dialer`]) and this machine only through [`Host`]. It does not know
//! argv, other languages, Kubernetes, nor how an operating system does what is asked of it.
//!
#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod control;
mod driver;
mod hold;
mod host;
mod names;
pub mod provider;
mod report;
mod state;
mod step;

pub use driver::{Handle, Session};
pub use host::{BindFault, Host};
pub use names::NamesPolicy;
pub use provider::{ConnectFailure, FarSide, Provider};
pub use report::{Event, Identity, LinkState, PortReport, PortState, ServiceReport, StatusReport};
pub use state::SessionState;
pub use step::{Settings, Step, StopReason};
