//! The edge to this machine: what a session asks of it besides names. Tests put a fake behind it; the engine a helper
//! process, or nothing at all for `exec`.

use std::net::{TcpListener, UdpSocket};
use std::time::Duration;

use async_trait::async_trait;
use devbox_helper_client::Endpoint;
use service_catalog::Label;
use thiserror::Error;

use crate::sink::PublishError;

/// This machine, as far as a session changes it (names go through [`NameSink`](crate::sink::NameSink) only).
///
/// Calls run beside the session's loop and may overlap.
#[async_trait]
pub trait Host: Send + Sync + 'static {
    /// Becomes the one session of this user for the environment: an older one is asked to leave. Comes before the
    /// first listener of the environment. What fails here is told by the host itself: a session runs without it.
    ///
    /// # Cancel safety
    /// Safe: the claim is not made.
    async fn claim(&self, environment: Label);

    /// Gives the environment up.
    ///
    /// # Cancel safety
    /// Safe.
    async fn unclaim(&self, environment: Label);

    /// Listens on an endpoint of this machine.
    ///
    /// # Errors
    /// [`BindFault`], which is shown to the user as it is.
    ///
    /// # Cancel safety
    /// Safe: a listener that nobody takes is closed.
    async fn bind(&self, endpoint: Endpoint) -> Result<TcpListener, BindFault>;

    /// Takes a UDP port of this machine. Unless overridden, there is none to be had.
    ///
    /// # Errors
    /// [`BindFault`], which is shown to the user as it is.
    ///
    /// # Cancel safety
    /// Safe: a socket that nobody takes is closed.
    async fn bind_udp(&self, endpoint: Endpoint) -> Result<UdpSocket, BindFault> {
        let message = "UDP ports are not offered here".to_owned();
        Err(BindFault::Other { endpoint, message })
    }

    /// Undoes what is left and lets go.
    ///
    /// # Errors
    /// [`PublishError`] says what could not be undone.
    ///
    /// # Cancel safety
    /// Not safe: it may be half done.
    async fn release(&self) -> Result<(), PublishError>;

    /// Resolves when whoever can undo is gone; never where nobody has to.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    async fn lost(&self);

    /// The process that can undo, if another one than at the start of the session may be meant. Default: `None`.
    fn helper_pid(&self) -> Option<u32> {
        None
    }

    /// Why nobody can undo anything at present, while somebody is waited for who can. Default: `None`.
    fn helper_awaited(&self) -> Option<String> {
        None
    }
}

/// Who holds a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The program, in words: `postgres (pid 4242)`.
    pub program: String,
    /// Whether it is this user's own and listens on this address alone, as another session does. Of such holders there are
    /// only so many, and each leaves the next address free.
    pub own: bool,
}

/// Why a port cannot be listened on. The text goes to the user.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BindFault {
    /// Something listens there already.
    #[error("{endpoint} is in use{}; where that program listens on every address, end it or have it listen on 127.0.0.1 alone",
        .holder.as_ref().map_or_else(String::new, |holder| format!(" by {}", holder.program)))]
    InUse {
        /// The endpoint.
        endpoint: Endpoint,
        /// Who holds it, where the system tells.
        holder: Option<Holder>,
    },
    /// Ports below 1024 need a right that the caller does not have. Without a value for the setting that allows it: several
    /// ports would have several ([`Event::LowPorts`](crate::Event::LowPorts) has the one).
    #[error(
        "port {port} is below {first_free} and may be bound by root alone: run with sudo, or lower \
         net.ipv4.ip_unprivileged_port_start"
    )]
    Denied {
        /// The port.
        port: u16,
        /// The first port that everybody may bind.
        first_free: u16,
    },
    /// The address does not exist here.
    #[error("{endpoint} is not an address of this machine")]
    NotAvailable {
        /// The endpoint.
        endpoint: Endpoint,
    },
    /// This process may open no more files.
    #[error("this process has too many open files: raise the limit (`ulimit -n`)")]
    OutOfDescriptors,
    /// There was no answer in time.
    #[error("cannot listen on {endpoint}: no answer within {} s", after.as_secs())]
    TimedOut {
        /// The endpoint.
        endpoint: Endpoint,
        /// How long was waited.
        after: Duration,
    },
    /// Anything else that the system says.
    #[error("cannot listen on {endpoint}: {message}")]
    Other {
        /// The endpoint.
        endpoint: Endpoint,
        /// What the system says.
        message: String,
    },
}
