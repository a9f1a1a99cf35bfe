//! Systems without `/proc`: a port's holder is not told.

use std::net::SocketAddr;

/// Where ports below this one are for root alone; systems that know no such rule answer as Linux does.
pub(crate) fn first_free_port() -> u16 {
    1024
}

pub(crate) fn port_holder(_address: SocketAddr) -> Option<String> {
    None
}
