//! Which servers macOS asks for which names, from what `scutil --dns` prints.

use std::net::{IpAddr, SocketAddr};

use crate::observed::SeenResolver;

/// Those that are not for single interfaces: they are asked for names, the others only where a program chose an interface.
pub fn rules(text: &str) -> Vec<SeenResolver> {
    let mut found = Vec::new();
    let mut rule: Option<Rule> = None;
    for line in text.lines().map(str::trim) {
        if line.starts_with("DNS configuration (for scoped queries)") {
            break;
        }
        if line.starts_with("resolver #") {
            found.extend(rule.take().and_then(Rule::seen));
            rule = Some(Rule::default());
            continue;
        }
        let (Some(rule), Some((key, value))) = (&mut rule, line.split_once(" : ")) else {
            continue;
        };
        let key = key.trim_end();
        match key.split_once('[').map_or(key, |(word, _)| word) {
            "domain" => rule.domain = Some(value.trim_end_matches('.').to_ascii_lowercase()),
            "nameserver" => rule.servers.extend(server(value)),
            "port" => rule.port = value.parse().ok(),
            "options" if value.contains("mdns") => rule.place = Some("multicast DNS".to_owned()),
            // 15 (utun3)
            "if_index" => {
                let name = value.split_once('(').and_then(|(_, name)| name.strip_suffix(')'));
                rule.place = name.map(str::to_owned);
            }
            _ => {}
        }
    }
    found.extend(rule.and_then(Rule::seen));
    found
}

#[derive(Debug, Default)]
struct Rule {
    domain: Option<String>,
    servers: Vec<IpAddr>,
    port: Option<u16>,
    place: Option<String>,
}

impl Rule {
    fn seen(self) -> Option<SeenResolver> {
        let port = self.port.unwrap_or(53);
        let servers = self.servers.into_iter();
        Some(SeenResolver {
            // Whoever has none is asked for all names.
            suffix: self.domain.unwrap_or_default(),
            servers: servers.map(|server| SocketAddr::new(server, port)).collect(),
            place: self
                .place
                .unwrap_or_else(|| "the system's configuration".to_owned()),
            ours: false,
        })
    }
}

/// `10.0.0.1`, `fe80::1%12d`
fn server(text: &str) -> Option<IpAddr> {
    let (address, _) = text.split_once('%').unwrap_or((text, ""));
    address.parse().ok()
}
