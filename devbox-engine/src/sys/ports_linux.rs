//! Linux: which ports everybody may bind, and which network this is.

use std::fs;
use std::path::PathBuf;

/// The first port that needs no right (`ip(7)`, `ip_unprivileged_port_start`).
pub(crate) fn first_free_port() -> u16 {
    fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(1024)
}

/// The network that this process is in: addresses of another one are others, loopback included (network_namespaces(7)).
pub(crate) fn network() -> PathBuf {
    fs::read_link("/proc/self/ns/net").unwrap_or_default()
}
