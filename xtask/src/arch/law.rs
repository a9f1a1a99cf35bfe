//! What each crate may do, one row per crate. A new crate needs a new row.

/// One crate's row.
#[derive(Clone, Copy)]
pub(crate) struct Law {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// Which of our crates it may name in its manifest. Never one that sits above it.
    pub(crate) may_link: &'static [&'static str],
    /// Whether an async runtime may be in its tree.
    pub(crate) runtime: bool,
    /// Where it may use `cfg` to ask for an operating system, in addition to any `src/sys`; `src` means the whole crate.
    pub(crate) os_under: &'static [&'static str],
    /// Where `unsafe` is allowed. If empty it is allowed nowhere, and the crate forbids it.
    pub(crate) unsafe_under: &'static [&'static str],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Library,
    /// Talks to a person: may print, read arguments and use `anyhow`.
    Program,
    /// Examples, tests and benches: may use every crate and print.
    Workbench,
}

const fn row(name: &'static str, may_link: &'static [&'static str]) -> Law {
    Law {
        name,
        kind: Kind::Library,
        may_link,
        runtime: false,
        os_under: &[],
        unsafe_under: &[],
    }
}

const fn with_runtime(law: Law) -> Law {
    Law { runtime: true, ..law }
}

/// What the `devbox` command, the examples, the tests and the benches may link.
const EVERY: &[&str] = &[
    "catalog-file",
    "catalog-kube",
    "devbox-engine",
    "devbox-gateway",
    "devbox-gateway-client",
    "devbox-helper",
    "devbox-helper-client",
    "devbox-provider",
    "devbox-session",
    "hostsfile",
    "ipalloc",
    "nameserver",
    "netif",
    "process-scope",
    "service-catalog",
    "tunnel-bridge",
    "tunnel-proto",
];

/// What the benches may link: they start clusters and sessions as the tests do.
const EVERY_AND_THE_TESTS: &[&str] = {
    const ALL: [&str; EVERY.len() + 1] = {
        let mut all = ["devbox-tests"; EVERY.len() + 1];
        let mut at = 0;
        while at < EVERY.len() {
            all[at] = EVERY[at];
            at += 1;
        }
        all
    };
    &ALL
};

/// What a kind of far side is built from.
const PROVIDER_PARTS: &[&str] = &["devbox-provider", "service-catalog", "tunnel-bridge"];

const fn workbench(name: &'static str) -> Law {
    Law {
        kind: Kind::Workbench,
        runtime: true,
        ..row(name, EVERY)
    }
}

/// The rows, lowest first: a crate links only crates whose rows come before its own.
pub(crate) const LAWS: &[Law] = &[
    Law {
        os_under: &["src/file"],
        unsafe_under: &["src/file", "src/sys"],
        ..row("hostsfile", &[])
    },
    row("ipalloc", &[]),
    Law {
        unsafe_under: &["src/sys"],
        ..row("netif", &[])
    },
    Law {
        os_under: &["src"],
        unsafe_under: &["src/sys"],
        ..row("process-scope", &[])
    },
    row("tunnel-proto", &[]),
    row("service-catalog", &[]),
    // Its core is a pure function; only its sockets are tokio's.
    with_runtime(row("nameserver", &[])),
    Law {
        unsafe_under: &["src/sys"],
        ..row("devbox-helper-client", &[])
    },
    Law {
        os_under: &["src/peer"],
        unsafe_under: &["src/peer", "src/sys"],
        ..row("devbox-helper", &["devbox-helper-client", "hostsfile", "netif"])
    },
    with_runtime(row("tunnel-bridge", &["tunnel-proto"])),
    // Traits only, but the trait of how to reach a target is tunnel-bridge's, which brings tokio.
    with_runtime(row("devbox-provider", &["service-catalog", "tunnel-bridge"])),
    with_runtime(row("devbox-gateway-client", PROVIDER_PARTS)),
    with_runtime(row("catalog-file", PROVIDER_PARTS)),
    // The upper rungs of its ladder are gateways.
    with_runtime(row(
        "catalog-kube",
        &[
            "devbox-gateway-client",
            "devbox-provider",
            "service-catalog",
            "tunnel-bridge",
        ],
    )),
    with_runtime(row(
        "devbox-session",
        &[
            "devbox-helper-client",
            "devbox-provider",
            "ipalloc",
            "service-catalog",
            "tunnel-bridge",
        ],
    )),
    // Of devbox-gateway-client it uses the words of the handshake, so that both ends have them from one place.
    with_runtime(row(
        "devbox-gateway",
        &[
            "catalog-file",
            "catalog-kube",
            "devbox-gateway-client",
            "devbox-provider",
            "service-catalog",
            "tunnel-bridge",
        ],
    )),
    // Not devbox-helper: whoever embeds a session names a helper program or uses the installed service.
    with_runtime(row(
        "devbox-engine",
        &[
            "catalog-file",
            "catalog-kube",
            "devbox-gateway-client",
            "devbox-helper-client",
            "devbox-provider",
            "devbox-session",
            "hostsfile",
            "ipalloc",
            "nameserver",
            "netif",
            "process-scope",
            "service-catalog",
            "tunnel-bridge",
        ],
    )),
    Law {
        kind: Kind::Program,
        unsafe_under: &["src/sys"],
        runtime: true,
        ..row("devbox-cli", EVERY)
    },
    Law {
        unsafe_under: &["src"],
        runtime: true,
        ..row(
            "devbox-ffi",
            &[
                "catalog-file",
                "catalog-kube",
                "devbox-engine",
                "devbox-gateway",
                "devbox-gateway-client",
                "devbox-helper-client",
                "devbox-provider",
                "hostsfile",
                "ipalloc",
                "nameserver",
                "process-scope",
                "service-catalog",
            ],
        )
    },
    workbench("devbox-examples"),
    workbench("devbox-tests"),
    Law {
        may_link: EVERY_AND_THE_TESTS,
        ..workbench("devbox-benches")
    },
    Law {
        kind: Kind::Program,
        ..row("xtask", &[])
    },
];

/// The row of a crate.
pub(crate) fn of(name: &str) -> Option<&'static Law> {
    LAWS.iter().find(|law| law.name == name)
}

/// A library that only some of our crates may name in their manifests.
pub(crate) struct Reserved {
    /// Its name, or the beginning of its name followed by `*`.
    pub(crate) name: &'static str,
    pub(crate) to: &'static [&'static str],
}

impl Reserved {
    pub(crate) fn matches(&self, dependency: &str) -> bool {
        self.name
            .strip_suffix('*')
            .map_or(self.name == dependency, |start| dependency.starts_with(start))
    }
}

const fn reserved(name: &'static str, to: &'static [&'static str]) -> Reserved {
    Reserved { name, to }
}

/// TLS for links, and DNS over TLS.
const TLS: &[&str] = &["tunnel-bridge", "nameserver"];

/// What other people specify and maintain comes in through one crate of ours.
pub(crate) const RESERVED: &[Reserved] = &[
    reserved("clap*", &["devbox-cli", "xtask"]),
    reserved("uniffi*", &["devbox-ffi"]),
    reserved("kube", &["catalog-kube"]),
    reserved("kube-*", &["catalog-kube"]),
    reserved("k8s-openapi", &["catalog-kube"]),
    reserved("domain", &["nameserver"]),
    reserved("hickory-*", &["nameserver"]),
    reserved("tungstenite", &["tunnel-bridge"]),
    reserved("tokio-tungstenite", &["tunnel-bridge"]),
    reserved("httparse", &["tunnel-bridge"]),
    reserved("netlink-*", &["netif"]),
    reserved("quinn*", &["tunnel-bridge"]),
    reserved("rustls*", TLS),
    reserved("tokio-rustls", TLS),
    reserved("native-tls", TLS),
    reserved("tokio-native-tls", TLS),
    reserved("openssl*", TLS),
    reserved(
        "anyhow",
        &[
            "devbox-cli",
            "xtask",
            "devbox-benches",
            "devbox-examples",
            "devbox-tests",
        ],
    ),
];

/// Crates that bring an event loop or an executor.
pub(crate) const RUNTIMES: &[&str] = &[
    "tokio",
    "mio",
    "async-std",
    "async-io",
    "async-executor",
    "smol",
    "futures-executor",
    "monoio",
    "glommio",
];

/// What the privileged helper may name in its manifest. Nothing else runs as root.
pub(crate) const HELPER_MAY_NAME: &[&str] = &[
    "cfg-if",
    "devbox-helper-client",
    "getrandom",
    "hostsfile",
    "ipnet",
    "libc",
    "netif",
    "nix",
    "raunch",
    "rustix",
    "serde",
    "serde_json",
    "siphasher",
    "subtle",
    "thiserror",
    "tld",
    "toml",
    "windows-service",
    "windows-sys",
];

/// What must not be anywhere in the helper's tree: runtimes, TLS, DNS, HTTP, WebSocket, QUIC, the session and all that it
/// is made of.
pub(crate) const HELPER_NEVER: &[&str] = &[
    "tokio",
    "mio",
    "async-std",
    "smol",
    "rustls",
    "ring",
    "aws-lc-rs",
    "native-tls",
    "openssl",
    "openssl-sys",
    "quinn",
    "domain",
    "hickory-proto",
    "hickory-resolver",
    "http",
    "httparse",
    "hyper",
    "h2",
    "reqwest",
    "url",
    "tungstenite",
    "tokio-tungstenite",
    "clap",
    "tracing-subscriber",
    "devbox-engine",
    "devbox-gateway",
    "devbox-provider",
    "devbox-session",
    "nameserver",
    "service-catalog",
    "tunnel-bridge",
    "tunnel-proto",
];

/// What must not be anywhere in the gateway's tree: it knows nothing of the developer's machine.
pub(crate) const GATEWAY_NEVER: &[&str] = &[
    "devbox-engine",
    "devbox-helper",
    "devbox-helper-client",
    "devbox-session",
    "hostsfile",
    "ipalloc",
    "nameserver",
    "netif",
    "process-scope",
];

/// What must not be anywhere in the session's tree: which carrier a link has, and its encryption, is for whoever composes a
/// session to choose.
pub(crate) const SESSION_NEVER: &[&str] = &[
    "tungstenite",
    "tokio-tungstenite",
    "rustls",
    "tokio-rustls",
    "ring",
    "aws-lc-rs",
    "native-tls",
    "openssl",
    "quinn",
];

/// The crates that know how to change the machine, and who may link them: the helper, which does it; the engine, the command
/// and the bindings, which render a private hosts file, plan and show.
pub(crate) const CHANGES_THE_MACHINE: &[Reserved] = &[
    reserved(
        "hostsfile",
        &["devbox-helper", "devbox-engine", "devbox-cli", "devbox-ffi"],
    ),
    // The engine hears from it when the network changes, and looks what is in a session's way.
    reserved("netif", &["devbox-helper", "devbox-engine", "devbox-cli"]),
    reserved("devbox-helper", &["devbox-cli"]),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_crate_of_the_design_has_one_row() {
        let mut rows: Vec<_> = LAWS.iter().map(|law| law.name).collect();
        rows.sort_unstable();
        assert_eq!(
            rows,
            [
                "catalog-file",
                "catalog-kube",
                "devbox-benches",
                "devbox-cli",
                "devbox-engine",
                "devbox-examples",
                "devbox-ffi",
                "devbox-gateway",
                "devbox-gateway-client",
                "devbox-helper",
                "devbox-helper-client",
                "devbox-provider",
                "devbox-session",
                "devbox-tests",
                "hostsfile",
                "ipalloc",
                "nameserver",
                "netif",
                "process-scope",
                "service-catalog",
                "tunnel-bridge",
                "tunnel-proto",
                "xtask",
            ]
        );
    }

    #[test]
    fn a_row_names_only_rows_that_come_before_it() {
        let mut below = BTreeSet::new();
        for law in LAWS {
            for link in law.may_link {
                assert!(below.contains(link), "{} above {link}", law.name);
            }
            below.insert(law.name);
        }
    }

    #[test]
    fn a_crate_without_a_runtime_links_none_with_one() {
        for law in LAWS.iter().filter(|law| !law.runtime) {
            for link in law.may_link {
                assert!(!of(link).unwrap().runtime, "{} links {link}", law.name);
            }
        }
    }

    #[test]
    fn a_reservation_is_for_crates_that_have_a_row() {
        for entry in RESERVED.iter().chain(CHANGES_THE_MACHINE) {
            for name in entry.to {
                assert!(of(name).is_some(), "{} to {name}", entry.name);
            }
        }
    }

    #[test]
    fn whoever_may_link_what_changes_the_machine_has_it_in_its_row() {
        for entry in CHANGES_THE_MACHINE {
            for law in LAWS.iter().filter(|law| law.kind != Kind::Workbench) {
                assert_eq!(
                    law.may_link.contains(&entry.name),
                    entry.to.contains(&law.name),
                    "{} and {}",
                    law.name,
                    entry.name
                );
            }
        }
    }
}
