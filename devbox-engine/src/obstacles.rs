//! What on this machine is in a session's way, and how to get around it: looked for before anything is changed, with this user's rights.

use std::time::Duration;

use devbox_helper_client::Protocol;
use devbox_session::StatusReport;
use ipnet::IpNet;
use netif::conflict::{Clash, Conflict, Intent, Verdict, conflicts};
use netif::observed::{Listener, Transport};
use netif::{Observed, Owner, Suffix};

/// Nobody waits longer for it: what cannot be seen is in nobody's way.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is in the way of these prefixes, ports and suffixes. Of sockets at single addresses only those are told that block: a session takes
/// another address by itself.
pub(crate) async fn find(intent: Intent) -> Vec<Conflict> {
    // Loopback is on every machine: all that can be in the way is known, or is a socket.
    let is_known =
        intent.suffixes.is_empty() && intent.prefixes.iter().all(|prefix| prefix.addr().is_loopback());
    let look = tokio::task::spawn_blocking(move || {
        let mut observed = if is_known { Observed::default() } else { observed() };
        observed.listeners = if intent.ports.is_empty() {
            Vec::new()
        } else {
            Listener::all_with_programs()
        };
        let mut found = conflicts(&observed, &intent);
        found.retain(|conflict| {
            let is_blocked = conflict.verdict == Verdict::Blocks;
            is_blocked || !matches!(conflict.clash, Clash::Listener { .. } | Clash::Address { .. })
        });
        found
    });
    match tokio::time::timeout(PATIENCE, look).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            tracing::debug!(%error, "what is in the way");
            Vec::new()
        }
        Err(_) => Vec::new(),
    }
}

/// What prefixes and a suffix meet.
pub(crate) fn intent(prefixes: &[IpNet], suffix: Option<&nameserver::Name>) -> Intent {
    let suffix = suffix.and_then(|suffix| Suffix::new(&suffix.to_string()).ok());
    Intent {
        prefixes: prefixes.to_vec(),
        suffixes: suffix.into_iter().collect(),
        ..Intent::default()
    }
}

/// What the ports of a session meet that will be as this says.
pub(crate) fn ports_of(status: &StatusReport) -> Vec<(Transport, u16)> {
    let ports = status.services.iter().flat_map(|service| &service.ports);
    let mut ports: Vec<_> = ports
        .map(|port| match port.protocol {
            Protocol::Tcp => (Transport::Tcp, port.port),
            Protocol::Udp => (Transport::Udp, port.port),
        })
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn observed() -> Observed {
    let seen = Owner::new(OWNER).and_then(|owner| netif::system(&owner));
    let seen = seen.and_then(|mut machine| machine.observe());
    seen.unwrap_or_else(|error| {
        let error = devbox_provider::with_causes(&error);
        tracing::debug!(error, "this machine's network is not seen");
        Observed::default()
    })
}

/// Whose the helper's changes are: in nobody's way.
const OWNER: &str = "devbox";
