//! Names as they arrive: checked against the rule that both ends share, and parsed.

use hostsfile::HostName;

use devbox_helper_client::{HelperError, name_refusal};

use crate::policy::not_allowed;

/// Checks and parses a name of a session's block.
pub(crate) fn check(name: &str) -> Result<HostName, HelperError> {
    if let Some(why) = name_refusal(name) {
        return Err(not_allowed(format!("the name {name:?}"), why));
    }
    parse(name)
}

/// Parses a name without applying the policy.
pub(crate) fn parse(name: &str) -> Result<HostName, HelperError> {
    name.parse()
        .map_err(|error| not_allowed(format!("the name {name:?}"), format!("{error}")))
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
            "web.0x7f",
            "::1",
            "fe80::1%lo",
            &long_label,
            &long_name,
        ] {
            assert!(check(name).is_err(), "{name:?} was taken");
        }
    }
}
