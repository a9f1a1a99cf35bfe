//! The edge to this machine: what a session asks of it. The state machine's tests stand a fake here; the program
//! puts a helper process, or the private hosts file of one process tree, behind it.

use std::net::{SocketAddr, TcpListener};

use devbox_helper_client::{HelperError, HostsEntry, HostsReport};
use futures_util::future::BoxFuture;
use service_catalog::Label;
use thiserror::Error;

/// This machine, as far as a session changes it.
pub trait Host: Send {
    /// Becomes the one session of this user for the environment: an older one is asked to leave, and what dead ones
    /// left is swept. Comes before anything else. What fails here is told by the host itself: a session runs without
    /// it.
    fn claim(&mut self, environment: Label) -> BoxFuture<'_, ()>;

    /// Listens on an address of this machine.
    ///
    /// # Errors
    ///
    /// [`BindFault`], which is shown to the user as it is.
    fn bind(&mut self, address: SocketAddr) -> BoxFuture<'_, Result<TcpListener, BindFault>>;

    /// Makes exactly these names resolvable; none at all takes away what was there.
    ///
    /// # Errors
    ///
    /// [`HelperError`]; nothing was changed then.
    fn write_hosts(&mut self, entries: Vec<HostsEntry>) -> BoxFuture<'_, Result<HostsReport, HelperError>>;

    /// Undoes what is left and lets go.
    ///
    /// # Errors
    ///
    /// [`HelperError`] names what could not be undone.
    fn release(&mut self) -> BoxFuture<'_, Result<(), HelperError>>;

    /// Resolves when whoever can undo is gone; never where nobody has to.
    ///
    /// # Cancel safety
    ///
    /// May be dropped and called again.
    fn lost(&mut self) -> BoxFuture<'_, ()>;
}

/// Why a port cannot be listened on. The text goes to the user.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BindFault {
    /// Something listens there already.
    #[error("{address} is in use{}; where that program listens on every address, end it or have it listen on 127.0.0.1 alone",
        .holder.as_ref().map_or_else(String::new, |holder| format!(" by {holder}")))]
    InUse {
        /// The address.
        address: SocketAddr,
        /// The program that holds it, where the system tells.
        holder: Option<String>,
    },
    /// Ports below 1024 need a right that the caller does not have.
    #[error(
        "port {port} is below {first_free} and may be bound by root alone: run with sudo, or \
         `sysctl net.ipv4.ip_unprivileged_port_start={port}`"
    )]
    Denied {
        /// The port.
        port: u16,
        /// The first port that everybody may bind.
        first_free: u16,
    },
    /// The address does not exist here.
    #[error("{address} is not an address of this machine")]
    NotAvailable {
        /// The address.
        address: SocketAddr,
    },
    /// Anything else that the system says.
    #[error("cannot listen on {address}: {message}")]
    Other {
        /// The address.
        address: SocketAddr,
        /// The system's words.
        message: String,
    },
}
