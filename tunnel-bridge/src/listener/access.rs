//! Who may connect to a listener.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

pub use crate::sys::Transport;
use crate::sys::{self, Owner};

/// Who may connect to a listener.
///
/// ```
/// use tunnel_bridge::listener::{Access, Transport};
///
/// let access = Access::Prefix("192.168.7.0/24".parse()?);
/// let at = "192.168.7.1:5432".parse()?;
/// assert!(access.admit(Transport::Tcp, at, "192.168.7.20:40000".parse()?).is_ok());
/// let stranger = access.admit(Transport::Tcp, at, "10.1.1.1:40000".parse()?).unwrap_err();
/// assert_eq!(stranger.to_string(), "10.1.1.1");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// Whoever reaches the address.
    #[default]
    Everybody,
    /// Programs of this machine that run as one of these users (numeric ids). On Linux the owner of the program's socket is
    /// looked up, which takes some microseconds; where it cannot be found out nobody is let in. Other systems do not
    /// tell, and there this is [`Access::Everybody`].
    Users(Arc<[u32]>),
    /// Programs whose address is in this prefix.
    Prefix(IpNet),
}

/// Somebody who may not connect to a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Stranger {
    /// A program of another user of this machine.
    User {
        /// Its numeric id.
        uid: u32,
    },
    /// A program at an address outside the prefix.
    Address {
        /// The address.
        ip: IpAddr,
    },
    /// A program that closed its socket before its owner was looked up, or that runs on another machine.
    Gone,
    /// A program whose owner the system did not tell.
    Unknown,
}

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stranger::User { uid } => write!(f, "uid {uid}"),
            Stranger::Address { ip } => ip.fmt(f),
            Stranger::Gone => f.write_str("a program that had closed its socket"),
            Stranger::Unknown => f.write_str("a program whose user cannot be found out"),
        }
    }
}

impl Access {
    /// Whether a program at `peer` may use the listener at `local`. For datagrams it is asked as a flow begins, and again while it lasts.
    ///
    /// It makes two system calls for [`Access::Users`] and waits for nobody.
    ///
    /// # Errors
    /// Who it is instead.
    pub fn admit(&self, transport: Transport, local: SocketAddr, peer: SocketAddr) -> Result<(), Stranger> {
        match self {
            Access::Everybody => Ok(()),
            Access::Prefix(prefix) => {
                let ip = peer.ip().to_canonical();
                if prefix.contains(&ip) {
                    Ok(())
                } else {
                    Err(Stranger::Address { ip })
                }
            }
            Access::Users(users) => match sys::owner_of(transport, local, peer) {
                Ok(Owner::User(uid)) if users.contains(&uid) => Ok(()),
                Ok(Owner::User(uid)) => Err(Stranger::User { uid }),
                Ok(Owner::Gone) => Err(Stranger::Gone),
                Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
                Err(error) => {
                    tracing::debug!(%local, %peer, %error, "cannot look up whose socket it is");
                    Err(Stranger::Unknown)
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_admits_its_own_addresses_however_they_are_written() {
        let access = Access::Prefix("10.7.0.0/16".parse().unwrap());
        let at = "10.7.0.1:80".parse().unwrap();
        let admit = |peer: &str| access.admit(Transport::Tcp, at, peer.parse().unwrap());
        assert_eq!(admit("10.7.255.3:9"), Ok(()));
        assert_eq!(admit("[::ffff:10.7.1.1]:9"), Ok(()));
        let ip = "10.8.0.1".parse().unwrap();
        assert_eq!(admit("10.8.0.1:9"), Err(Stranger::Address { ip }));
        assert!(admit("[fd00::1]:9").is_err());
    }
}
