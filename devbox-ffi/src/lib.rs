#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "what comes over the border is owned"
)]

mod addresses;
mod app;
mod cancel;
mod config;
mod error;
mod event;
mod gateway;
mod hosts;
mod log;
mod notice;
mod runtime;
mod scope;
mod session;
mod status;
mod stream;

pub use addresses::{Allocator, Leased};
pub use app::silence;
pub use cancel::Cancellation;
pub use config::{
    Carrier, DirectProvider, Dns, GatewayProvider, HelperProgram, KubernetesProvider, Limits, Names,
    Provider, Publish, ServiceSettings, SessionConfig, parse_config,
};
pub use error::{
    ClusterFailure, ConnectFailure, DevboxError, HelperFailure, HostsFailure, LineFault, PublishFailure,
    StopReason,
};
pub use event::Event;
pub use gateway::{Gateway, GatewaySettings};
pub use hosts::{HostsDocument, HostsEdit, HostsEntry, HostsFile};
pub use log::{LogLevel, LogRecord, LogSink, set_log_sink};
pub use notice::Notice;
pub use scope::{CommandEnd, ScopedCommand, ScopedCommandConfig};
pub use session::Session;
pub use status::{LinkState, PortState, PortStatus, ProviderStatus, ServiceStatus, Status};
pub use stream::{CallbackError, EventListener, EventStream, Subscription};

uniffi::setup_scaffolding!("devbox");

/// The version of the library. A package for a language compares it with its own before anything else.
#[uniffi::export]
#[must_use]
pub fn library_version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}

/// The system's hosts file: `/etc/hosts`, or what Windows has in its place.
#[uniffi::export]
pub fn system_hosts_file() -> Result<String, DevboxError> {
    Ok(devbox_engine::system_hosts_file()?.display().to_string())
}
