//! `NO_PROXY`: the hosts that are reached without a proxy.

use std::net::IpAddr;

use ipnet::IpNet;

/// A list as curl reads it (curl(1), `--noproxy`), and a little more: networks may have a port, `*.` is taken as `.`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NoProxy {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    hosts: Hosts,
    /// Only this one; every one without.
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    All,
    Network(IpNet),
    /// The domain itself and what is below it. Lower case, without a dot at either end.
    Domain(String),
}

impl NoProxy {
    /// Reads a list; items are separated by commas or white space, and what is no item is skipped, as others do.
    pub(crate) fn parse(list: &str) -> NoProxy {
        let items = list.split(|c: char| c == ',' || c.is_whitespace());
        NoProxy {
            entries: items.filter_map(Entry::parse).collect(),
        }
    }

    /// Whether a host, a name or an address without brackets, is on the list.
    pub(crate) fn has(&self, host: &str, port: u16) -> bool {
        let ip = host.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        self.entries
            .iter()
            .filter(|entry| entry.port.is_none_or(|only| only == port))
            .any(|entry| match (&entry.hosts, ip) {
                (Hosts::All, _) => true,
                (Hosts::Network(network), Some(ip)) => network.contains(&ip),
                (Hosts::Domain(domain), None) => name
                    .strip_suffix(domain.as_str())
                    .is_some_and(|above| above.is_empty() || above.ends_with('.')),
                _ => false,
            })
    }
}

impl Entry {
    fn parse(item: &str) -> Option<Entry> {
        let (hosts, port) = match item.strip_prefix('[') {
            // [2001:db8::1] or [2001:db8::1]:443
            Some(bracketed) => {
                let (inside, behind) = bracketed.split_once(']')?;
                let port = match behind {
                    "" => None,
                    _ => Some(behind.strip_prefix(':')?.parse().ok()?),
                };
                (Hosts::of_address(inside)?, port)
            }
            None => match Hosts::of_address(item) {
                Some(hosts) => (hosts, None),
                None => {
                    let (host, port) = match item.rsplit_once(':') {
                        Some((host, port)) => (host, Some(port.parse().ok()?)),
                        None => (item, None),
                    };
                    (Hosts::of_address(host).or_else(|| Hosts::of_name(host))?, port)
                }
            },
        };
        Some(Entry { hosts, port })
    }
}

impl Hosts {
    fn of_address(text: &str) -> Option<Hosts> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Some(Hosts::Network(ip.to_canonical().into()));
        }
        text.parse().ok().map(Hosts::Network)
    }

    fn of_name(text: &str) -> Option<Hosts> {
        if text == "*" {
            return Some(Hosts::All);
        }
        let name = text.strip_prefix('*').unwrap_or(text).trim_matches('.');
        (!name.is_empty() && !name.contains('*')).then(|| Hosts::Domain(name.to_ascii_lowercase()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_list_covers() {
        let table: &[(&str, &[(&str, u16)], &[(&str, u16)])] = &[
            ("", &[], &[("a.example", 80)]),
            ("*", &[("a.example", 80), ("10.0.0.1", 1), ("::1", 1)], &[]),
            (
                "example.com",
                &[
                    ("example.com", 80),
                    ("a.example.com", 80),
                    ("EXAMPLE.com.", 80),
                    ("a.b.Example.COM", 1),
                ],
                &[("notexample.com", 80), ("example.com.evil", 80), ("com", 80)],
            ),
            (
                ".example.com",
                &[("example.com", 80), ("a.example.com", 80)],
                &[("aexample.com", 80)],
            ),
            (
                "*.example.com",
                &[("example.com", 80), ("a.example.com", 80)],
                &[("aexample.com", 80)],
            ),
            (
                "example.com:8080",
                &[("example.com", 8080), ("a.example.com", 8080)],
                &[("example.com", 80)],
            ),
            (
                "10.0.0.1",
                &[("10.0.0.1", 80), ("::ffff:10.0.0.1", 80)],
                &[("10.0.0.2", 80), ("10.0.0.1.example", 80)],
            ),
            ("10.0.0.1:443", &[("10.0.0.1", 443)], &[("10.0.0.1", 80)]),
            (
                "10.0.0.0/8",
                &[("10.255.0.1", 80)],
                &[("11.0.0.1", 80), ("fd00::1", 80)],
            ),
            ("10.0.0.0/8:443", &[("10.1.2.3", 443)], &[("10.1.2.3", 80)]),
            ("::1", &[("::1", 80), ("0:0::1", 80)], &[("::2", 80)]),
            ("[::1]:443", &[("::1", 443)], &[("::1", 80)]),
            ("[2001:db8::1]", &[("2001:db8::1", 80)], &[("2001:db8::2", 80)]),
            ("fd00::/8", &[("fd12::9", 80)], &[("fe80::1", 80)]),
            (
                " a.example ,,b.example\tc.example, ",
                &[("a.example", 1), ("b.example", 1), ("c.example", 1)],
                &[("d.example", 1)],
            ),
            // What is no item hides nothing and does not hide the others.
            (
                "a:b:c,[::1,10.0.0.0/99,x:99999,*x*,good.example",
                &[("good.example", 1)],
                &[("x", 1), ("::1", 1)],
            ),
            // An address is no name: its digits are not a suffix of another one.
            ("0.0.1", &[], &[("10.0.0.1", 80)]),
        ];
        for (list, covered, others) in table {
            let list_of = NoProxy::parse(list);
            for (host, port) in *covered {
                assert!(list_of.has(host, *port), "{list:?} covers {host} {port}");
            }
            for (host, port) in *others {
                assert!(!list_of.has(host, *port), "{list:?} does not cover {host} {port}");
            }
        }
    }
}
