//! What is asked of the operating system directly, each as far as the system has it.

mod owner;
mod pipe;
mod socket;
mod stream;

pub use owner::Transport;
pub(crate) use owner::{Owner, has_closed, owner_of};
pub(crate) use pipe::Pipe;
pub(crate) use socket::{
    SHORT_READ_DRAINS, allow_restart, is_out_of_descriptors, prepare_accepted, prepare_datagrams,
    prepare_link, prepare_listener, prepare_target, reset_on_close,
};
#[cfg(feature = "tls")]
pub(crate) use stream::failure_of;
pub(crate) use stream::{read_some, write_some};
