//! What each crate may do: one row a crate. A new crate is a new row.

/// One crate's row.
#[derive(Clone, Copy)]
pub(crate) struct Law {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// Which of our crates it may link. Nobody is here who stands above.
    pub(crate) may_link: &'static [&'static str],
    /// Whether an async runtime may be in its tree.
    pub(crate) runtime: bool,
    /// Where it may ask which operating system this is, beside every `src/sys`; `src` is the whole crate.
    pub(crate) os_under: &'static [&'static str],
    /// Where `unsafe` may stand; empty: nowhere, and the crate forbids it.
    pub(crate) unsafe_under: &'static [&'static str],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Library,
    /// Speaks with a person: may print, read arguments and use `anyhow`.
    Program,
    /// Examples, tests and benches: may use every crate and print.
    Workbench,
}

const fn library(name: &'static str, may_link: &'static [&'static str]) -> Law {
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

const EVERY: &[&str] = &[
    "catalog-file",
    "catalog-kube",
    "devbox-gateway",
    "devbox-gateway-client",
    "devbox-provider",
    "devbox-helper",
    "devbox-session",
    "devbox-helper-client",
    "hostsfile",
    "ipalloc",
    "nameserver",
    "netif",
    "process-scope",
    "service-catalog",
    "tunnel-bridge",
    "tunnel-proto",
];

const fn workbench(name: &'static str) -> Law {
    Law {
        kind: Kind::Workbench,
        runtime: true,
        ..library(name, EVERY)
    }
}

/// The rows, lowest first.
pub(crate) const LAWS: &[Law] = &[
    Law {
        os_under: &["src/file"],
        unsafe_under: &["src/file", "src/sys"],
        ..library("hostsfile", &[])
    },
    library("ipalloc", &[]),
    Law {
        unsafe_under: &["src/sys"],
        ..library("netif", &[])
    },
    Law {
        os_under: &["src"],
        unsafe_under: &["src/sys"],
        ..library("process-scope", &[])
    },
    library("tunnel-proto", &[]),
    library("service-catalog", &[]),
    library("nameserver", &[]),
    library("devbox-helper-client", &[]),
    with_runtime(library("tunnel-bridge", &["tunnel-proto"])),
    with_runtime(library("devbox-provider", &["service-catalog", "tunnel-bridge"])),
    Law {
        os_under: &["src/peer"],
        unsafe_under: &["src/peer", "src/sys"],
        ..library("devbox-helper", &["devbox-helper-client", "hostsfile", "netif"])
    },
    with_runtime(library(
        "devbox-session",
        &[
            "devbox-helper-client",
            "devbox-provider",
            "ipalloc",
            "nameserver",
            "service-catalog",
            "tunnel-bridge",
        ],
    )),
    with_runtime(library(
        "catalog-kube",
        &["devbox-provider", "service-catalog", "tunnel-bridge"],
    )),
    with_runtime(library(
        "catalog-file",
        &["devbox-provider", "service-catalog", "tunnel-bridge"],
    )),
    with_runtime(library(
        "devbox-gateway-client",
        &["devbox-provider", "service-catalog", "tunnel-bridge"],
    )),
    with_runtime(library(
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
    Law {
        kind: Kind::Program,
        runtime: true,
        ..library("devbox-cli", EVERY)
    },
    Law {
        unsafe_under: &["src"],
        runtime: true,
        ..library(
            "devbox-ffi",
            &[
                "catalog-kube",
                "devbox-session",
                "devbox-helper-client",
                "hostsfile",
                "ipalloc",
                "service-catalog",
                "tunnel-bridge",
            ],
        )
    },
    workbench("devbox-benches"),
    workbench("devbox-examples"),
    workbench("devbox-tests"),
    Law {
        kind: Kind::Program,
        ..library("xtask", &[])
    },
];

/// The row of a crate.
pub(crate) fn of(name: &str) -> Option<&'static Law> {
    LAWS.iter().find(|law| law.name == name)
}

/// A library of somebody else's that only some of our crates may name in their manifests.
pub(crate) struct Reserved {
    /// Its name, or the beginning of its name and a `*`.
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

/// Each outside body of knowledge has one owner.
pub(crate) const RESERVED: &[Reserved] = &[
    reserved("clap*", &["devbox-cli", "xtask"]),
    reserved("uniffi*", &["devbox-ffi"]),
    reserved("kube", &["catalog-kube"]),
    reserved("kube-*", &["catalog-kube"]),
    reserved("k8s-openapi", &["catalog-kube"]),
    reserved("domain", &["nameserver"]),
    reserved("hickory-*", &["nameserver"]),
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

/// What brings an event loop or an executor.
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
    "devbox-helper-client",
    "hostsfile",
    "ipnet",
    "libc",
    "netif",
    "nix",
    "rustix",
    "serde",
    "serde_json",
    "thiserror",
    "windows-sys",
];

/// What must not be anywhere in the helper's tree: runtimes, TLS, DNS, HTTP, WebSocket, the session.
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
    "devbox-session",
    "devbox-gateway",
    "service-catalog",
    "tunnel-bridge",
    "tunnel-proto",
];

/// What must not be anywhere in the gateway's tree: it knows nothing of the developer's machine.
pub(crate) const GATEWAY_NEVER: &[&str] = &[
    "hostsfile",
    "netif",
    "devbox-helper",
    "devbox-session",
    "devbox-helper-client",
    "ipalloc",
    "process-scope",
];

/// What knows how to change the machine, and who may link it: the helper, which does it; the command line, which
/// plans and shows; the bindings, which do the same for other languages.
pub(crate) const CHANGES_THE_MACHINE: &[Reserved] = &[
    reserved("hostsfile", &["devbox-helper", "devbox-cli", "devbox-ffi"]),
    reserved("netif", &["devbox-helper", "devbox-cli", "devbox-ffi"]),
    reserved("devbox-helper", &["devbox-cli"]),
];
