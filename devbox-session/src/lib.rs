//! A session's life: what is wanted, what is there, and the steps from one to the other.
//!
//! This crate knows how a session connects to its providers, which names and addresses their services get, in which
//! order things are done and undone, and how others ask it. It knows every far side only as a
//! [`Provider`](devbox_provider::Provider), this machine only as a [`Host`], and the places that names go to only as
//! [`NameSink`](sink::NameSink)s. It must not know argv, other languages, any one kind of far side, nor how an operating
//! system does what is asked of it.
//!
#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod clocks;
pub mod control;
mod driver;
mod handle;
mod host;
mod key;
mod lease_keeper;
mod links;
mod names_policy;
mod report;
mod route;
mod service_options;
mod settings;
pub mod sink;
mod state;
mod step;

pub use clocks::{Clocks, LOOK_AT_CLOCKS};
pub use driver::{Parts, Session};
pub use handle::{Changes, Events, Handle};
pub use host::{BindFault, Holder, Host};
pub use key::{ProviderId, ServiceKey};
pub use lease_keeper::{Forget, LeaseChange, LeaseKeeper};
pub use names_policy::{NamesPolicy, RefusedName};
pub use report::{
    DroppedReport, Event, Held, Identity, LinkState, NameClash, NameSample, PortReport, PortState,
    ProviderReport, PutBack, Refusals, Rejected, ServicePort, ServiceReport, StatusReport, UdpReport,
};
pub use service_options::{BadServiceOption, ListenerPolicy, ServiceOptions};
pub use settings::{MAX_CONNECTIONS, ProviderSettings, Settings, StopReason};
pub use state::{SessionState, Traffic};
pub use step::Step;
