//! What the engine asks of the operating system itself. Each function is there on every system; what one lacks says so.

use cfg_if::cfg_if;

cfg_if! {
    if #[cfg(unix)] {
        mod control;
        mod limits;
        pub(crate) use control::{
            ControlListener, ControlStream, Taken, connect_control, control_sockets,
            remove_dead_control_sockets,
        };
        pub(crate) use limits::{is_in_reserve, is_out_of_descriptors, may_make_files, own_user, raise_open_files, write_privately};
    } else {
        mod other;
        pub(crate) use other::{
            ControlListener, ControlStream, Taken, connect_control, control_sockets, is_in_reserve,
            is_out_of_descriptors, may_make_files, own_user, raise_open_files, remove_dead_control_sockets, write_privately,
        };
    }
}

cfg_if! {
    if #[cfg(target_os = "linux")] {
        #[path = "sys/ports_linux.rs"]
        mod ports;
        /// What systemd-resolved makes when it starts, where it is the one that is told whom to ask.
        pub(crate) const RESOLVED: Option<&str> = Some("/run/systemd/resolve");
    } else {
        #[path = "sys/ports_other.rs"]
        mod ports;
        pub(crate) const RESOLVED: Option<&str> = None;
    }
}

/// The port that a resolver rule means on this system, where it cannot name one.
pub(crate) const RULE_PORT: Option<u16> = if cfg!(windows) { Some(53) } else { None };

pub(crate) use ports::{first_free_port, network};
