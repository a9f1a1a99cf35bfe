#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod config;
mod dns;
mod engine;
mod error;
mod file_watch;
mod helper;
mod holders;
mod host;
mod hosts;
mod installed;
mod leases;
mod notice;
mod obstacles;
mod plan;
mod providers;
mod resolver_rule;
mod running;
mod settle;
mod shared;
mod sinks;
mod succession;
mod surroundings;
mod sys;

pub use config::{
    Config, Dns, GatewayConfig, ProviderConfig, ProviderKind, Publish, Secret, TokenConfig, default_pools,
};
pub use devbox_session::sink::{PublishError, Registry};
pub use devbox_session::{
    BadServiceOption, Event, LinkState, MAX_CONNECTIONS, NamesPolicy, PortReport, PortState, ProviderReport,
    ServiceOptions, ServiceReport, StatusReport, StopReason,
};
pub use engine::{Engine, start, start_shared};
pub use error::Error;
pub use helper::{Helper, HelperConfig, Restart};
pub use hosts::{plan_block, system_hosts_file, without_sessions};
pub use leases::lease_store;
pub use netif::Suffix;
pub use netif::conflict::{Clash, Conflict, Fix, Verdict};
pub use notice::{EngineEvent, Events, Notice};
pub use plan::{Plan, plan};
pub use running::{Found, Joined, Running, Silence, Silent, Watch, find, records};
pub use shared::{Place, Share, share};
pub use sinks::PrivateHosts;
pub use tunnel_bridge::dial::{Carriage, Proxies, Proxy};
pub use tunnel_bridge::{Identity, Pin, Trust};

/// Raises this process's soft limit of open files to the hard one: each connection and each listener costs a descriptor.
/// The soft limit from before, for commands that are started with it; `None` on systems without such a limit.
///
/// # Errors
/// Those of the system; the limit stays as it was.
pub fn raise_open_files() -> std::io::Result<Option<u64>> {
    sys::raise_open_files()
}
