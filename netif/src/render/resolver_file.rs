//! Files of macOS's `/etc/resolver`, resolver(5): one for each suffix, of that name.

use crate::{Owner, ResolverRule};

/// The first line of a file of this owner's.
pub(crate) fn mark(owner: &Owner) -> String {
    format!("# Made by {owner} (netif), which removes it again.\n")
}

/// The file's text.
pub(crate) fn text(owner: &Owner, rule: &ResolverRule) -> String {
    let mut text = mark(owner);
    for server in &rule.servers {
        text += &format!("nameserver {}\n", server.ip());
    }
    // One port for all servers of a file, and not written where it is the usual one.
    if let Some(port) = rule
        .servers
        .first()
        .map(std::net::SocketAddr::port)
        .filter(|port| *port != 53)
    {
        text += &format!("port {port}\n");
    }
    text
}
