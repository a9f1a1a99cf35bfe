//! systemd-resolved, told by its own program.
//!
//! Three ways lead to it. D-Bus wants a client library in a program that root runs. A file in `/run/systemd/dns-delegate.d` is for systemd
//! 258 and later, and stays when its writer is killed. `resolvectl(1)` is there wherever resolved is, since 239, and what it sets
//! belongs to an interface, so that it goes with it.

use crate::{InterfaceName, ResolverRule};

/// A program's arguments.
pub(crate) type Arguments = Vec<String>;

/// The commands that make a rule, in their order. Other names are not asked of its servers (`default-route no`).
pub(crate) fn add(rule: &ResolverRule) -> [Arguments; 3] {
    let interface = rule.interface.as_str();
    let line = |verb: &str, values: &mut dyn Iterator<Item = String>| {
        let mut line = vec![verb.to_owned(), interface.to_owned()];
        line.extend(values);
        line
    };
    [
        // Without a port where it is the usual one: older ones take none.
        line(
            "dns",
            &mut rule.servers.iter().map(|server| match server.port() {
                53 => server.ip().to_string(),
                _ => server.to_string(),
            }),
        ),
        line(
            "domain",
            &mut rule.suffixes.iter().map(|suffix| format!("~{suffix}")),
        ),
        line("default-route", &mut std::iter::once("no".to_owned())),
    ]
}

/// The command that forgets all rules of an interface.
pub(crate) fn remove(interface: &InterfaceName) -> Arguments {
    vec!["revert".to_owned(), interface.to_string()]
}

/// The commands that tell the servers and the suffixes of all interfaces.
pub(crate) fn show() -> [Arguments; 2] {
    [vec!["dns".to_owned()], vec!["domain".to_owned()]]
}
