//! What the command asks of the operating system itself. Each function is there on every system; what one lacks says
//! so.

use std::path::PathBuf;

#[cfg(unix)]
#[path = "sys/unix.rs"]
mod imp;
#[cfg(not(unix))]
#[path = "sys/other.rs"]
mod imp;

#[cfg(target_os = "linux")]
#[path = "sys/linux.rs"]
mod ports;
#[cfg(not(target_os = "linux"))]
#[path = "sys/no_ports.rs"]
mod ports;

pub(crate) use imp::{
    ControlListener, ExecSignals, Signals, as_caller, caller, connect_control, control_sockets,
    drop_to_caller, is_root, raise_open_files, remove_dead_control_sockets,
};
pub(crate) use ports::{first_free_port, port_holder};

/// The person behind the command: under sudo the one who called it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: Option<PathBuf>,
}
