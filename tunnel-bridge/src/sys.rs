//! The socket options that make a difference, each as far as the system has it.

mod socket;

pub(crate) use socket::{allow_restart, prepare_link, prepare_local, prepare_target, reset_on_close};
