//! What the command asks of the operating system itself. Each function is there on every system; what one lacks says
//! so.

use std::path::PathBuf;

#[cfg(unix)]
mod control;
#[cfg(all(unix, not(target_vendor = "apple")))]
mod ids;
#[cfg(target_vendor = "apple")]
#[path = "sys/ids_apple.rs"]
mod ids;
#[cfg(not(unix))]
mod other;
#[cfg(target_os = "linux")]
#[path = "sys/linux.rs"]
mod ports;
#[cfg(not(target_os = "linux"))]
#[path = "sys/no_ports.rs"]
mod ports;
#[cfg(unix)]
mod signals;

#[cfg(unix)]
pub(crate) use control::{ControlListener, connect_control, control_sockets, remove_dead_control_sockets};
#[cfg(unix)]
pub(crate) use ids::{as_caller, caller, drop_to_caller, is_root, may_make_files, own_identity};
#[cfg(not(unix))]
pub(crate) use other::{
    ControlListener, ExecSignals, Signals, as_caller, caller, connect_control, control_sockets,
    drop_to_caller, is_root, may_make_files, own_identity, raise_open_files, remove_dead_control_sockets,
};
pub(crate) use ports::{first_free_port, port_holder};
#[cfg(unix)]
pub(crate) use signals::{ExecSignals, Signals, raise_open_files};

/// The person behind the command: under sudo the one who called it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: Option<PathBuf>,
}
