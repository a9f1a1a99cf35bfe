//! What resolvectl(1) tells: a line for each interface, `Link 5 (devbox0): ~cluster.local`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::observed::SeenResolver;

/// The rules of each interface, from what `resolvectl dns` and `resolvectl domain` print. `Global` is none.
pub(crate) fn rules(dns: &str, domains: &str) -> Vec<SeenResolver> {
    let servers: BTreeMap<_, Vec<_>> = lines(dns)
        .map(|(interface, values)| (interface, values.filter_map(server).collect()))
        .collect();
    let rule = |interface: &str, domain: &str| SeenResolver {
        // A search domain's names are asked there as well; the root as `~.`.
        suffix: domain
            .trim_start_matches('~')
            .trim_end_matches('.')
            .to_ascii_lowercase(),
        servers: servers.get(interface).cloned().unwrap_or_default(),
        place: interface.to_owned(),
        ours: false,
    };
    lines(domains)
        .flat_map(|(interface, values)| values.map(move |domain| (interface, domain)))
        .map(|(interface, domain)| rule(interface, domain))
        .collect()
}

fn lines(text: &str) -> impl Iterator<Item = (&str, std::str::SplitWhitespace<'_>)> {
    text.lines().filter_map(|line| {
        let (head, values) = line.trim().strip_prefix("Link ")?.split_once("):")?;
        let (_, interface) = head.split_once('(')?;
        Some((interface, values.split_whitespace()))
    })
}

/// `10.0.0.1`, `10.0.0.1:5353`, `[fd77::1]:53`, each perhaps with `%eth0` and `#name.of.its.certificate`.
fn server(text: &str) -> Option<SocketAddr> {
    let (text, _) = text.split_once('#').unwrap_or((text, ""));
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let (text, _) = text.split_once('%').unwrap_or((text, ""));
    let address: IpAddr = text.parse().ok()?;
    Some(SocketAddr::new(address, 53))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_of_each_interface_are_read() {
        // systemd 252.
        let dns = "Global:\nLink 2 (eth0): 192.168.1.1 fe80::1%eth0\nLink 5 (devbox0): 127.77.0.1:5454 [fd77::1]:53#ns.example\n";
        let domains =
            "Global: example.org\nLink 2 (eth0): corp.example ~.\nLink 5 (devbox0): ~Cluster.local ~test\n";
        let rules = rules(dns, domains);
        let told: Vec<_> = rules
            .iter()
            .map(|rule| (rule.place.as_str(), rule.suffix.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                ("eth0", "corp.example"),
                ("eth0", ""),
                ("devbox0", "cluster.local"),
                ("devbox0", "test")
            ]
        );
        assert_eq!(
            rules[0].servers,
            ["192.168.1.1:53", "[fe80::1]:53"].map(|text| text.parse().unwrap())
        );
        assert_eq!(
            rules[2].servers,
            ["127.77.0.1:5454", "[fd77::1]:53"].map(|text| text.parse().unwrap())
        );
    }

    #[test]
    fn other_lines_are_no_rules() {
        assert_eq!(
            rules("Link 2 eth0 1.1.1.1\nLink", "Link 2 (eth0: a\n\nGlobal: b\n"),
            []
        );
    }
}
