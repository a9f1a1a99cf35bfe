//! What is asked of the operating system directly, each as far as the system has it.

mod program;
mod socket;

pub(crate) use program::has_closed;
pub(crate) use socket::{
    allow_restart, is_out_of_descriptors, prepare_datagrams, prepare_link, prepare_local, prepare_target,
    reset_on_close,
};
