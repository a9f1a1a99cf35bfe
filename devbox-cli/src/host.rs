//! The machine as `up` and `exec` see it: what stands behind [`devbox_session::Host`].

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use devbox_helper_client::{
    AsyncClient, BindFailure, Endpoint, HelperError, HostsBlock, HostsEntry, HostsReport,
};
use devbox_session::control::{Asking, Request};
use devbox_session::{BindFault, Host};
use futures_util::future::BoxFuture;
use service_catalog::Label;
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, watch};

use crate::sys::{self, ControlListener};
use crate::{print, private_hosts};

/// Listens as the calling user; `Err` only for what the system says.
fn bind_as_caller(address: SocketAddr) -> io::Result<TcpListener> {
    tunnel_bridge::listener::bind(address)
}

pub(crate) fn fault(address: SocketAddr, error: &io::Error) -> BindFault {
    match error.kind() {
        io::ErrorKind::AddrInUse => BindFault::InUse {
            address,
            holder: sys::port_holder(address),
        },
        io::ErrorKind::PermissionDenied => BindFault::Denied {
            port: address.port(),
            first_free: sys::first_free_port(),
        },
        io::ErrorKind::AddrNotAvailable => BindFault::NotAvailable { address },
        _ => BindFault::Other {
            address,
            message: error.to_string(),
        },
    }
}

/// What the other kinds of failure of asking the helper come down to.
fn helper_error(file: Option<&PathBuf>, error: devbox_helper_client::Error) -> HelperError {
    match error {
        devbox_helper_client::Error::Helper(error) => error,
        error => HelperError::Hosts {
            file: file.cloned().unwrap_or_default(),
            message: format!("{:#}", anyhow::Error::new(error)),
        },
    }
}

/// A session that all programs of the machine see: its helper writes the hosts block and binds low ports.
pub(crate) struct MachineHost {
    /// `None`: nothing needs one.
    pub(crate) helper: Option<AsyncClient>,
    /// Whether it may write whatever it is given.
    pub(crate) helper_is_root: bool,
    /// `None` under `--no-hosts`.
    pub(crate) hosts_file: Option<PathBuf>,
    /// The block's tag.
    pub(crate) tag: String,
    /// How this session calls itself when it displaces another.
    pub(crate) introduction: String,
    /// Where the control socket goes once it is claimed. One at most is ever sent.
    pub(crate) control: mpsc::Sender<io::Result<ControlListener>>,
}

impl MachineHost {
    /// Whether the hosts file can be written, as far as that shows beforehand.
    fn may_write(&self) -> bool {
        let Some(file) = self.hosts_file.as_ref().filter(|_| !self.helper_is_root) else {
            return true;
        };
        let folder = file.parent().unwrap_or(Path::new("/"));
        std::fs::OpenOptions::new().write(true).open(file).is_ok() || sys::may_make_files(folder)
    }

    async fn claim_control(&self, environment: &Label) -> io::Result<ControlListener> {
        let name = control_name(environment, self.hosts_file.as_ref());
        ControlListener::claim(&name, |stream| async {
            print::note("an older session of yours is running for this: waiting for it to leave");
            let request = Request::Displace {
                by: self.introduction.clone(),
            };
            let mut asking = Asking::ask(stream, &request).await?;
            asking.ended().await
        })
        .await
    }
}

/// Sessions of one user for the same environment and hosts file share this name, and so displace each other.
fn control_name(environment: &Label, hosts_file: Option<&PathBuf>) -> String {
    let file = hosts_file.map(|file| file.canonicalize().unwrap_or_else(|_| file.clone()));
    let digest = Sha256::digest(file.unwrap_or_default().as_os_str().as_encoded_bytes());
    let short: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("{environment}-{short}")
}

impl Host for MachineHost {
    fn claim(&mut self, environment: Label) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            // One that will fail displaces nobody.
            if !self.may_write() {
                return;
            }
            let claimed = self.claim_control(&environment).await;
            if self.control.send(claimed).await.is_err() {
                tracing::debug!("nobody serves the control socket");
            }
        })
    }

    fn bind(&mut self, address: SocketAddr) -> BoxFuture<'_, Result<TcpListener, BindFault>> {
        Box::pin(async move {
            let error = match bind_as_caller(address) {
                Ok(listener) => return Ok(listener),
                Err(error) => error,
            };
            match &self.helper {
                Some(helper) if error.kind() == io::ErrorKind::PermissionDenied => helper
                    .bind(Endpoint::tcp(address))
                    .await
                    .map_err(|error| match error {
                        devbox_helper_client::Error::Helper(HelperError::Bind { kind, message, .. }) => {
                            match kind {
                                BindFailure::AddrInUse => BindFault::InUse {
                                    address,
                                    holder: sys::port_holder(address),
                                },
                                BindFailure::PermissionDenied => BindFault::Denied {
                                    port: address.port(),
                                    first_free: sys::first_free_port(),
                                },
                                BindFailure::AddrNotAvailable => BindFault::NotAvailable { address },
                                _ => BindFault::Other { address, message },
                            }
                        }
                        error => BindFault::Other {
                            address,
                            message: error.to_string(),
                        },
                    }),
                _ => Err(fault(address, &error)),
            }
        })
    }

    fn write_hosts(&mut self, entries: Vec<HostsEntry>) -> BoxFuture<'_, Result<HostsReport, HelperError>> {
        Box::pin(async move {
            let Some(helper) = &self.helper else {
                return Err(HelperError::Unsupported {
                    what: "a hosts file without a helper".to_owned(),
                });
            };
            let written = if entries.is_empty() {
                helper.clear_hosts().await
            } else {
                helper
                    .set_hosts(HostsBlock {
                        tag: self.tag.clone(),
                        entries,
                    })
                    .await
            };
            written.map_err(|error| helper_error(self.hosts_file.as_ref(), error))
        })
    }

    fn release(&mut self) -> BoxFuture<'_, Result<(), HelperError>> {
        Box::pin(async move {
            let Some(helper) = self.helper.take() else {
                return Ok(());
            };
            helper
                .release()
                .await
                .map(drop)
                .map_err(|error| helper_error(self.hosts_file.as_ref(), error))
        })
    }

    fn lost(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            match &self.helper {
                Some(helper) => {
                    helper.closed().await;
                }
                None => std::future::pending().await,
            }
        })
    }
}

/// A session that one process tree alone sees: its names stand in a private hosts file.
pub(crate) struct PrivateHost {
    /// What the private file is made from.
    pub(crate) base: Vec<u8>,
    /// The private file's content; whoever runs the command writes it there.
    pub(crate) content: watch::Sender<Vec<u8>>,
}

impl Host for PrivateHost {
    fn claim(&mut self, _environment: Label) -> BoxFuture<'_, ()> {
        // It displaces nobody, and nobody displaces it.
        Box::pin(std::future::ready(()))
    }

    fn bind(&mut self, address: SocketAddr) -> BoxFuture<'_, Result<TcpListener, BindFault>> {
        let bound = bind_as_caller(address).map_err(|error| fault(address, &error));
        Box::pin(std::future::ready(bound))
    }

    fn write_hosts(&mut self, entries: Vec<HostsEntry>) -> BoxFuture<'_, Result<HostsReport, HelperError>> {
        let rendered = private_hosts::render(&self.base, &entries).map(|rendered| {
            let report = rendered.report(Path::new("/etc/hosts"));
            self.content.send_replace(rendered.bytes);
            report
        });
        Box::pin(std::future::ready(rendered.map_err(|error| HelperError::Hosts {
            file: PathBuf::from("/etc/hosts"),
            message: format!("{error:#}"),
        })))
    }

    fn release(&mut self) -> BoxFuture<'_, Result<(), HelperError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn lost(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }
}
