//! This machine as a session sees it: what is behind [`devbox_session::Host`].

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use devbox_helper_client::{BindFailure, Endpoint, HelperError};
use devbox_session::control::{AskError, Asking};
use devbox_session::sink::PublishError;
use devbox_session::{BindFault, Host};
use service_catalog::Label;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::helper::Helper;
use crate::holders::Holders;
use crate::notice::{Notice, Notices};
use crate::sys::{self, ControlListener};

/// What becomes of the control sockets, for whoever serves them.
pub(crate) enum Control {
    /// A new one.
    Serve(Label, ControlListener),
    /// No more.
    Close(Label),
}

/// How a session becomes the one of its user for an environment, and is found by `devbox status`.
pub(crate) struct Claims {
    /// How this session calls itself when it displaces another.
    pub(crate) introduction: String,
    /// Holds one message for each claim under way; a claim waits while it is full.
    pub(crate) control: mpsc::Sender<Control>,
}

/// Binds as the calling user, then through the helper, and claims environments.
pub(crate) struct MachineHost {
    /// `None`: nothing needs one.
    pub(crate) helper: Option<Helper>,
    /// The hosts file that the session writes, if it writes one.
    pub(crate) hosts_file: Option<PathBuf>,
    /// `None`: a session that displaces nobody and that nobody finds.
    pub(crate) claims: Option<Claims>,
    pub(crate) notices: Notices,
    pub(crate) holders: Holders,
}

impl MachineHost {
    /// Whether the hosts file can be written, as far as that can be seen beforehand.
    fn may_write(&self) -> bool {
        let privileged = self.helper.as_ref().is_some_and(|helper| helper.privileged);
        let Some(file) = self.hosts_file.as_ref().filter(|_| !privileged) else {
            return true;
        };
        let folder = file.parent().unwrap_or(Path::new("/"));
        std::fs::OpenOptions::new().write(true).open(file).is_ok() || sys::may_make_files(folder)
    }

    async fn claim_control(&self, environment: &Label, by: &str) -> io::Result<ControlListener> {
        let name = control_name(environment, self.hosts_file.as_deref());
        ControlListener::claim(&name, |socket| async move {
            let Ok(stream) = sys::connect_control(&socket).await else {
                return Ok(false);
            };
            self.notices.add(Notice::WaitingForOlder {
                environment: environment.clone(),
            });
            let mut asking = match Asking::connect(stream).await {
                // It displaces the same way; only its reports differ.
                Err(AskError::Older | AskError::Version { .. }) => {
                    Asking::connect_old(sys::connect_control(&socket).await?)
                }
                asking => asking.map_err(io::Error::other)?,
            };
            asking.displace(by).await.map_err(io::Error::other)?;
            asking.ended().await.map_err(io::Error::other)?;
            Ok(true)
        })
        .await
    }

    /// Has the address be this session's, where a helper gives addresses out. One that another user's session holds is in use, on
    /// every port.
    async fn claim_address(&self, endpoint: Endpoint) -> Result<(), BindFault> {
        let Some(helper) = &self.helper else { return Ok(()) };
        match helper.claim_address(endpoint.address).await {
            Ok(()) => Ok(()),
            Err(devbox_helper_client::Error::Helper(HelperError::Held { what, holder })) => {
                tracing::debug!(%what, %holder, "held by another session");
                Err(BindFault::InUse {
                    endpoint,
                    holder: None,
                })
            }
            Err(failed) => Err(self.helper_fault(endpoint, failed).await),
        }
    }

    async fn fault(&self, endpoint: Endpoint, error: &io::Error) -> BindFault {
        match error.kind() {
            io::ErrorKind::AddrInUse => self.in_use(endpoint).await,
            _ => fault(endpoint, error),
        }
    }

    /// Why the helper could not bind.
    async fn helper_fault(&self, endpoint: Endpoint, failed: devbox_helper_client::Error) -> BindFault {
        match failed {
            devbox_helper_client::Error::Helper(HelperError::Bind { kind, message, .. }) => match kind {
                BindFailure::AddrInUse => self.in_use(endpoint).await,
                BindFailure::PermissionDenied => BindFault::Denied {
                    port: endpoint.port,
                    first_free: sys::first_free_port(),
                },
                BindFailure::AddrNotAvailable => BindFault::NotAvailable { endpoint },
                _ => BindFault::Other { endpoint, message },
            },
            devbox_helper_client::Error::TimedOut { after } => BindFault::TimedOut { endpoint, after },
            error => BindFault::Other {
                endpoint,
                message: devbox_provider::with_causes(&error),
            },
        }
    }

    async fn in_use(&self, endpoint: Endpoint) -> BindFault {
        BindFault::InUse {
            endpoint,
            holder: self.holders.of(endpoint).await,
        }
    }
}

/// Sessions of one user for the same environment and hosts file share this name, and so displace each other.
fn control_name(environment: &Label, hosts_file: Option<&Path>) -> String {
    let file = hosts_file.map(|file| file.canonicalize().unwrap_or_else(|_| file.to_owned()));
    let digest = Sha256::digest(file.unwrap_or_default().as_os_str().as_encoded_bytes());
    let short: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("{environment}-{short}")
}

/// The environment in the name of a control socket.
pub(crate) fn environment_of(socket: &Path) -> Option<&str> {
    let (environment, _) = socket.file_stem()?.to_str()?.rsplit_once('-')?;
    Some(environment)
}

/// What the system said, without the holder of a port in use.
pub(crate) fn fault(endpoint: Endpoint, error: &io::Error) -> BindFault {
    match error.kind() {
        io::ErrorKind::AddrInUse => BindFault::InUse {
            endpoint,
            holder: None,
        },
        io::ErrorKind::PermissionDenied => BindFault::Denied {
            port: endpoint.port,
            first_free: sys::first_free_port(),
        },
        io::ErrorKind::AddrNotAvailable => BindFault::NotAvailable { endpoint },
        _ if sys::is_out_of_descriptors(error) => BindFault::OutOfDescriptors,
        _ => BindFault::Other {
            endpoint,
            message: error.to_string(),
        },
    }
}

/// What a failed request to the helper comes down to.
pub(crate) fn helper_error(error: devbox_helper_client::Error) -> PublishError {
    match error {
        devbox_helper_client::Error::Helper(error) => error.into(),
        devbox_helper_client::Error::TimedOut { after } => PublishError::TimedOut {
            what: "the helper".to_owned(),
            after,
        },
        error => PublishError::Other {
            message: devbox_provider::with_causes(&error),
        },
    }
}

#[async_trait]
impl Host for MachineHost {
    async fn claim(&self, environment: Label) {
        let Some(claims) = &self.claims else { return };
        // A session that cannot write the file will end: it displaces nobody.
        if !self.may_write() {
            return;
        }
        match self.claim_control(&environment, &claims.introduction).await {
            Ok(listener) => {
                let served = claims.control.send(Control::Serve(environment, listener)).await;
                if served.is_err() {
                    tracing::debug!("the session is ending: its control socket is not served");
                }
            }
            Err(error) => self.notices.add(Notice::NoControlSocket {
                environment,
                reason: error.to_string(),
            }),
        }
    }

    async fn unclaim(&self, environment: Label) {
        if let Some(claims) = &self.claims
            && claims.control.send(Control::Close(environment)).await.is_err()
        {
            tracing::debug!("the session is ending: its control sockets are closed already");
        }
    }

    async fn bind(&self, endpoint: Endpoint) -> Result<TcpListener, BindFault> {
        self.claim_address(endpoint).await?;
        let address = SocketAddr::new(endpoint.address, endpoint.port);
        let error = match tunnel_bridge::listener::bind(address) {
            // The rest is for connections, files and whoever asks over the control socket.
            Ok(listener) if sys::is_in_reserve(&listener) => return Err(BindFault::OutOfDescriptors),
            Ok(listener) => return Ok(listener),
            Err(error) => error,
        };
        let Some(helper) = &self.helper else {
            return Err(self.fault(endpoint, &error).await);
        };
        if error.kind() != io::ErrorKind::PermissionDenied {
            return Err(self.fault(endpoint, &error).await);
        }
        match helper.bind(endpoint).await {
            Ok(listener) => Ok(listener),
            Err(failed) => Err(self.helper_fault(endpoint, failed).await),
        }
    }

    async fn bind_udp(&self, endpoint: Endpoint) -> Result<UdpSocket, BindFault> {
        self.claim_address(endpoint).await?;
        let address = SocketAddr::new(endpoint.address, endpoint.port);
        let error = match tunnel_bridge::udp::bind(address) {
            Ok(socket) if sys::is_in_reserve(&socket) => return Err(BindFault::OutOfDescriptors),
            Ok(socket) => return Ok(socket),
            Err(error) => error,
        };
        match &self.helper {
            Some(helper) if error.kind() == io::ErrorKind::PermissionDenied => {
                match helper.bind_udp(address).await {
                    Ok(socket) => {
                        tunnel_bridge::udp::prepare(&socket);
                        Ok(socket)
                    }
                    Err(failed) => Err(self.helper_fault(endpoint, failed).await),
                }
            }
            _ => Err(self.fault(endpoint, &error).await),
        }
    }

    async fn release(&self) -> Result<(), PublishError> {
        let Some(helper) = &self.helper else { return Ok(()) };
        helper.release().await.map(drop).map_err(helper_error)
    }

    async fn lost(&self) {
        match &self.helper {
            Some(helper) => {
                helper.lost(&self.notices).await;
            }
            None => std::future::pending().await,
        }
    }

    fn helper_pid(&self) -> Option<u32> {
        self.helper.as_ref().map(Helper::pid)
    }

    fn helper_awaited(&self) -> Option<String> {
        self.helper.as_ref().and_then(Helper::awaited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_control_socket_tells_its_environment() {
        let environment = "my-dev-2".parse().unwrap();
        let name = control_name(&environment, Some(Path::new("/etc/hosts")));
        let socket = Path::new("/run/user/1000/devbox").join(format!("{name}.sock"));
        assert_eq!(environment_of(&socket), Some("my-dev-2"));
        assert_ne!(name, control_name(&environment, None));
    }

    #[test]
    fn what_the_system_says_is_told_by_its_kind() {
        let endpoint = Endpoint::tcp("127.77.0.2:80".parse().unwrap());
        assert_eq!(
            fault(endpoint, &io::ErrorKind::AddrInUse.into()),
            BindFault::InUse {
                endpoint,
                holder: None
            }
        );
    }
}
