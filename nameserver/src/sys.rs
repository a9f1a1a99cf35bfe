//! Datagrams, as many at once as the system can.

cfg_if::cfg_if! {
    if #[cfg(target_os = "linux")] {
        mod linux;
        pub(crate) use linux::{Datagrams, send, wake};
    } else {
        mod other;
        pub(crate) use other::{Datagrams, send, wake};
    }
}

use std::net::{IpAddr, SocketAddr};

/// Whom a datagram came from, and at which of our addresses if the socket has several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    pub(crate) local: Option<IpAddr>,
}

/// The longest query that is read. What is longer is cut, and then a format error.
const MAX_QUERY_LEN: usize = 4096;

/// Whether a listener asks for an address whose old connections still linger. On Windows that would let another program take it over.
pub(crate) const REUSE_ADDRESS: bool = cfg!(unix);
