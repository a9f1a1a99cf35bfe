//! Whom the system asks: resolv.conf(5).

use std::net::{IpAddr, SocketAddr};

/// The name servers of a resolv.conf(5), at most three as the system's resolver has it, without those that are our own addresses: who
/// forwards to itself asks forever.
///
/// ```
/// let text = "search example.com\nnameserver 127.0.0.53\nnameserver 192.0.2.1 # office\n";
/// let ours = ["127.0.0.53:53".parse()?];
/// assert_eq!(nameserver::system_upstreams(text, &ours), ["192.0.2.1:53".parse()?]);
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
pub fn system_upstreams(resolv_conf: &str, ours: &[SocketAddr]) -> Vec<SocketAddr> {
    let servers = resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver"))
            .then(|| words.next())
            .flatten()
    });
    servers
        .take(MAX_SERVERS)
        .filter_map(server)
        .filter(|server| !ours.iter().any(|own| is_same(own, server)))
        .collect()
}

/// MAXNS of resolv.conf(5).
const MAX_SERVERS: usize = 3;

/// An address, for a link-local one with its interface's number: `fe80::1%2`. Interfaces by name need the system and are left out.
fn server(word: &str) -> Option<SocketAddr> {
    if let Ok(address) = word.parse::<IpAddr>() {
        return Some(SocketAddr::new(address, 53));
    }
    format!("[{word}]:53").parse().ok()
}

/// Whether packets to `server` would come to our socket `own`.
fn is_same(own: &SocketAddr, server: &SocketAddr) -> bool {
    let (mine, theirs) = (own.ip().to_canonical(), server.ip().to_canonical());
    // A socket on 0.0.0.0 has every loopback address; whether it has another one only the system knows.
    let everywhere = mine.is_unspecified() && (theirs.is_loopback() || theirs.is_unspecified());
    own.port() == server.port() && (mine == theirs || everywhere)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_servers_that_are_not_us_are_taken() {
        let text = "# nameserver 9.9.9.9\nnameserver 127.0.0.1\n nameserver\t::1\nnameserver fe80::1%2\nnameserver 8.8.8.8\n";
        let found = |own: &str| {
            let found = system_upstreams(text, &[own.parse().unwrap()]);
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(found("127.0.0.1:53"), ["[::1]:53", "[fe80::1%2]:53"]);
        assert_eq!(found("0.0.0.0:53"), ["[fe80::1%2]:53"]);
        assert_eq!(found("127.0.0.1:5300").len(), 3);
        assert!(system_upstreams("nameserver eth0 junk\noptions edns0", &[]).is_empty());
    }
}
