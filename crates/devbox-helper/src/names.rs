//! Which names a session may give. Narrower than what a hosts file can hold: no name that programs take for the machine
//! itself, or look for without being told.

use std::net::IpAddr;

use hostsfile::HostName;

use helper_client::HelperError;

use crate::policy::not_allowed;

/// Checks and parses a name of a session's block.
pub(crate) fn check(name: &str) -> Result<HostName, HelperError> {
    if let Some(why) = refusal(name) {
        return Err(not_allowed(format!("the name {name:?}"), why));
    }
    parse(name)
}

/// Parses a name without a policy.
pub(crate) fn parse(name: &str) -> Result<HostName, HelperError> {
    name.parse()
        .map_err(|error| not_allowed(format!("the name {name:?}"), format!("{error}")))
}

fn refusal(name: &str) -> Option<&'static str> {
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        return Some("names are given in lower case");
    }
    if !name
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'))
    {
        return Some("names hold letters, digits, hyphens and dots only");
    }
    // RFC 6761 §6.3; the others are what Debian, Red Hat and macOS write into their hosts files.
    let mut labels = name.split('.');
    let first = labels.next().unwrap_or_default();
    let last = name.rsplit('.').next().unwrap_or_default();
    let localhosts = [
        "localhost",
        "localhost4",
        "localhost6",
        "localdomain",
        "localdomain4",
        "localdomain6",
    ];
    if localhosts.contains(&first)
        || localhosts.contains(&last)
        || first == "broadcasthost"
        || name.starts_with("ip6-")
    {
        return Some("it is a name of the machine itself");
    }
    // RFC 8880 for ipv4only.arpa; the others turn a browser's or a system's traffic around when they resolve.
    if matches!(first, "wpad" | "isatap") || name == "ipv4only.arpa" || name == "use-application-dns.net" {
        return Some("programs ask for it by themselves");
    }
    // WHATWG URL §3.5: a host that ends in a number is an address.
    if name.parse::<IpAddr>().is_ok() || (!last.is_empty() && last.bytes().all(|b| b.is_ascii_digit())) {
        return Some("it reads like an address");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_services_are_taken() {
        for name in [
            "orders",
            "orders.backend",
            "orders.backend.svc.cluster.local",
            "a-1.b2",
            "ip6.backend",
            "7web",
        ] {
            assert_eq!(check(name).unwrap().to_string(), name);
        }
    }

    #[test]
    fn other_names_are_refused() {
        let long_label = format!("{}.backend", "a".repeat(64));
        let long_name = vec!["abcdefg"; 40].join(".");
        for name in [
            "",
            ".",
            "localhost",
            "localhost.localdomain",
            "web.localhost",
            "localhost6",
            "ip6-localhost",
            "ip6-allnodes",
            "broadcasthost",
            "wpad",
            "wpad.corp",
            "UPPER.x",
            "-a.b",
            "a-.b",
            "a..b",
            ".a",
            "a.",
            "a b",
            "a\nb",
            "a\r",
            "a\t",
            "a#b",
            "#",
            "a_b",
            "ä.b",
            "a\0b",
            "a/b",
            "..",
            "127.0.0.1",
            "1.2.3",
            "web.7",
            "::1",
            "fe80::1%lo",
            &long_label,
            &long_name,
        ] {
            assert!(check(name).is_err(), "{name:?} was taken");
        }
    }
}
