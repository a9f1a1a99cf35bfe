//! Rules about which crate links which.

use super::facts::{Facts, Package};
use super::law::{
    self, CHANGES_THE_MACHINE, GATEWAY_NEVER, HELPER_MAY_NAME, HELPER_NEVER, Kind, Law, RESERVED, RUNTIMES,
    Reserved, SESSION_NEVER,
};
use super::{Place, Rule};

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "known",
        why: "the rules can only be checked for a crate that has a row in xtask/src/arch/law.rs",
        look: known,
    },
    Rule {
        name: "upward",
        why: "a lower layer must be usable by itself, and must build when the layers above it do not",
        look: upward,
    },
    Rule {
        name: "runtime",
        why: "these crates are also used by themselves, in programs with another runtime or none",
        look: runtime,
    },
    Rule {
        name: "helper",
        why: "the helper runs as root: it must stay small enough to be read in an hour",
        look: helper,
    },
    Rule {
        name: "machine",
        why: "only the helper changes the machine, so only the helper can leave something behind",
        look: machine,
    },
    Rule {
        name: "gateway",
        why: "the far side knows nothing of the developer's machine",
        look: gateway,
    },
    Rule {
        name: "session",
        why: "a session works with any provider over any carrier, so it enables no WebSocket, QUIC or TLS",
        look: session,
    },
    Rule {
        name: "owner",
        why: "one crate of ours owns each outside library: arguments, bindings, Kubernetes, DNS, WebSocket, QUIC, TLS, untyped errors",
        look: owner,
    },
    Rule {
        name: "lints",
        why: "the workspace's lints apply to every crate",
        look: lints,
    },
];

fn at(package: &Package, dependency: &str, what: String) -> Place {
    Place {
        file: package.manifest.clone(),
        line: package.line_of(dependency),
        what,
    }
}

fn with_laws(facts: &Facts) -> impl Iterator<Item = (&Package, &'static Law)> {
    facts
        .packages
        .iter()
        .filter_map(|package| Some((package, law::of(&package.name)?)))
}

fn named<'a>(facts: &'a Facts, name: &'a str) -> impl Iterator<Item = &'a Package> {
    facts.packages.iter().filter(move |package| package.name == name)
}

fn known(facts: &Facts, broken: &mut dyn FnMut(Place)) {
    for package in facts
        .packages
        .iter()
        .filter(|package| law::of(&package.name).is_none())
    {
        broken(at(package, "name", format!("{} has no row", package.name)));
    }
}

fn upward(facts: &Facts, broken: &mut dyn FnMut(Place)) {
    for (package, law) in with_laws(facts) {
        for dependency in &package.dependencies {
            let ours =
                law::of(dependency).is_some() || facts.packages.iter().any(|other| other.name == *dependency);
            if ours && !law.may_link.contains(&dependency.as_str()) {
                broken(at(
                    package,
                    dependency,
                    format!("{} links {dependency}, which is not below it", law.name),
                ));
            }
        }
    }
}

fn runtime(facts: &Facts, broken: &mut dyn FnMut(Place)) {
    for (package, law) in with_laws(facts).filter(|(_, law)| !law.runtime && law.kind == Kind::Library) {
        never_in_tree(package, RUNTIMES, law.name, broken);
    }
}

fn helper(facts: &Facts, broken: &mut dyn FnMut(Place)) {
    for package in named(facts, "devbox-helper") {
        for dependency in package
            .dependencies
            .iter()
            .filter(|name| !HELPER_MAY_NAME.contains(&name.as_str()))
        {
            broken(at(
                package,
                dependency,
                format!("the helper names {dependency}, which is not on its list"),
            ));
        }
        never_in_tree(package, HELPER_NEVER, "the helper", broken);
    }
}

fn gateway(facts: &Facts, broken: &mut dyn FnMut(Place)) {
    for package in named(facts, "devbox-gateway") {
        never_in_tree(package, GATEWAY_NEVER, "the gateway", broken);
    }
}

fn session(facts: &Facts, broken: &mut dyn FnMut(Place)) {
    for package in named(facts, "devbox-session") {
        never_in_tree(package, SESSION_NEVER, "the session", broken);
    }
}

fn never_in_tree(package: &Package, never: &[&str], who: &str, broken: &mut dyn FnMut(Place)) {
    for name in never {
        if let Some(path) = package.tree.get(*name) {
            // The direct dependency through which it comes in.
            let first = path.get(1).map_or(*name, String::as_str);
            broken(at(
                package,
                first,
                format!("{who} has {name} in its tree: {}", path.join(" > ")),
            ));
        }
    }
}

fn machine(facts: &Facts, broken: &mut dyn FnMut(Place)) {
    reserved(facts, CHANGES_THE_MACHINE, broken);
}

fn owner(facts: &Facts, broken: &mut dyn FnMut(Place)) {
    reserved(facts, RESERVED, broken);
}

fn reserved(facts: &Facts, table: &[Reserved], broken: &mut dyn FnMut(Place)) {
    for package in &facts.packages {
        let name = package.name.as_str();
        let ours = table.iter().any(|entry| entry.matches(name));
        let workbench = law::of(name).is_some_and(|law| law.kind == Kind::Workbench && ours_only(table));
        for dependency in &package.dependencies {
            let entry = table
                .iter()
                .find(|entry| entry.matches(dependency) && !entry.to.contains(&name));
            if let Some(entry) = entry
                && !workbench
                && !(ours && dependency == name)
            {
                let owners = entry.to.join(", ");
                broken(at(
                    package,
                    dependency,
                    format!("{name} links {dependency}, which only {owners} may"),
                ));
            }
        }
    }
}

/// Whether a table lists our own crates, which examples, tests and benches may all use.
fn ours_only(table: &[Reserved]) -> bool {
    table.iter().all(|entry| law::of(entry.name).is_some())
}

fn lints(facts: &Facts, broken: &mut dyn FnMut(Place)) {
    for package in &facts.packages {
        let mut lines = package.manifest_text.lines().map(str::trim);
        let taken = lines.any(|line| line == "[lints]") && lines.next() == Some("workspace = true");
        if !taken {
            broken(at(
                package,
                "name",
                format!("{} does not inherit the workspace's lints", package.name),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Breach, breaches};
    use super::*;

    /// A package whose tree consists of its direct dependencies.
    fn package(name: &str, dependencies: &[&str]) -> Package {
        let named: String = dependencies
            .iter()
            .map(|dependency| format!("{dependency}.workspace = true\n"))
            .collect();
        let entry = |dependency: &&str| {
            (
                dependency.to_string(),
                vec![name.to_owned(), dependency.to_string()],
            )
        };
        Package {
            name: name.to_owned(),
            manifest: format!("{name}/Cargo.toml"),
            manifest_text: format!(
                "[package]\nname = \"{name}\"\n[lints]\nworkspace = true\n[dependencies]\n{named}"
            ),
            dependencies: dependencies.iter().map(ToString::to_string).collect(),
            tree: dependencies.iter().map(entry).collect(),
            roots: Vec::new(),
        }
    }

    fn of(packages: Vec<Package>) -> Vec<Breach> {
        breaches(&Facts {
            packages,
            sources: Vec::new(),
        })
    }

    fn rules(packages: Vec<Package>) -> Vec<&'static str> {
        of(packages).iter().map(|breach| breach.rule).collect()
    }

    #[test]
    fn a_workspace_that_keeps_the_rules_has_no_breach() {
        let found = of(vec![
            package("hostsfile", &["thiserror"]),
            package("devbox-helper-client", &["serde", "serde_json"]),
            package(
                "devbox-helper",
                &["devbox-helper-client", "hostsfile", "ipnet", "rustix"],
            ),
            package("tunnel-bridge", &["tunnel-proto", "tokio"]),
            package("devbox-provider", &["service-catalog", "tunnel-bridge"]),
            package(
                "devbox-session",
                &["devbox-provider", "devbox-helper-client", "tokio"],
            ),
            package(
                "devbox-engine",
                &[
                    "devbox-session",
                    "devbox-gateway-client",
                    "catalog-file",
                    "hostsfile",
                ],
            ),
            package("devbox-gateway", &["catalog-file", "devbox-gateway-client"]),
            package(
                "devbox-cli",
                &["clap", "anyhow", "devbox-helper", "hostsfile", "devbox-engine"],
            ),
            package("devbox-ffi", &["uniffi", "devbox-engine", "hostsfile"]),
            package("devbox-tests", &["anyhow", "hostsfile", "devbox-helper"]),
        ]);
        assert_eq!(found, []);
    }

    #[test]
    fn a_breach_names_file_line_rule_and_reason() {
        let found = of(vec![package("ipalloc", &["serde", "tokio"])]);
        assert_eq!(found.len(), 1);
        let told = found[0].to_string();
        assert!(
            told.starts_with("ipalloc/Cargo.toml:7: [runtime] ipalloc has tokio in its tree"),
            "{told}"
        );
        assert!(
            told.contains("why: these crates are also used by themselves"),
            "{told}"
        );
    }

    #[test]
    fn a_runtime_deep_in_the_tree_is_found_with_the_path_to_it() {
        let mut hostsfile = package("hostsfile", &["innocent"]);
        let path = ["hostsfile", "innocent", "mio"].map(str::to_owned).to_vec();
        hostsfile.tree.insert("mio".into(), path);
        let found = of(vec![hostsfile]);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].what.contains("hostsfile > innocent > mio"),
            "{}",
            found[0].what
        );
        assert_eq!(
            found[0].line, 6,
            "the line of the dependency through which it comes in"
        );
    }

    #[test]
    fn nobody_depends_upward() {
        assert_eq!(
            rules(vec![package("ipalloc", &["hostsfile"])]),
            ["machine", "upward"]
        );
        assert_eq!(
            rules(vec![package("tunnel-bridge", &["service-catalog"])]),
            ["upward"]
        );
        assert_eq!(rules(vec![package("xtask", &["ipalloc"])]), ["upward"]);
    }

    #[test]
    fn the_helper_stays_small() {
        assert_eq!(rules(vec![package("devbox-helper", &["tracing"])]), ["helper"]);
        assert!(rules(vec![package("devbox-helper", &["tokio"])]).contains(&"helper"));
        let mut quiet = package("devbox-helper", &["ipnet"]);
        quiet.tree.insert(
            "rustls".into(),
            vec!["devbox-helper".into(), "ipnet".into(), "rustls".into()],
        );
        assert_eq!(rules(vec![quiet]), ["helper"]);
    }

    #[test]
    fn only_the_helper_changes_the_machine() {
        assert_eq!(
            rules(vec![package("devbox-session", &["hostsfile"])]),
            ["machine", "upward"]
        );
        for who in ["devbox-ffi", "devbox-engine"] {
            assert_eq!(
                rules(vec![package(who, &["devbox-helper"])]),
                ["machine", "upward"],
                "{who}"
            );
        }
        // The engine hears from it when the network changes.
        assert!(rules(vec![package("devbox-engine", &["netif"])]).is_empty());
        for who in ["devbox-ffi", "devbox-session"] {
            assert_eq!(
                rules(vec![package(who, &["netif"])]),
                ["machine", "upward"],
                "{who}"
            );
        }
    }

    #[test]
    fn the_gateway_does_not_know_the_developers_machine() {
        let mut gateway = package("devbox-gateway", &["service-catalog"]);
        gateway.tree.insert(
            "hostsfile".into(),
            vec!["devbox-gateway".into(), "x".into(), "hostsfile".into()],
        );
        assert_eq!(rules(vec![gateway]), ["gateway"]);
        assert_eq!(
            rules(vec![package("devbox-gateway", &["devbox-engine"])]),
            ["gateway", "upward"]
        );
    }

    #[test]
    fn the_session_enables_no_carrier_and_no_tls() {
        for deep in ["tokio-tungstenite", "rustls", "ring", "quinn"] {
            let mut session = package("devbox-session", &["tunnel-bridge", "tokio"]);
            let path = ["devbox-session", "tunnel-bridge", deep]
                .map(str::to_owned)
                .to_vec();
            session.tree.insert(deep.into(), path);
            let found = of(vec![session]);
            assert_eq!(found.len(), 1, "{deep}");
            assert_eq!(found[0].rule, "session");
            assert!(
                found[0]
                    .what
                    .contains(&format!("devbox-session > tunnel-bridge > {deep}")),
                "{}",
                found[0].what
            );
        }
    }

    #[test]
    fn an_outside_library_has_one_owner() {
        for (who, what) in [
            ("devbox-gateway", "clap"),
            ("devbox-session", "clap_complete"),
            ("devbox-gateway", "kube"),
            ("devbox-gateway", "kube-runtime"),
            ("devbox-cli", "uniffi"),
            ("devbox-session", "hickory-proto"),
            ("devbox-gateway-client", "tokio-tungstenite"),
            ("devbox-gateway", "tungstenite"),
            ("devbox-gateway", "httparse"),
            ("catalog-file", "quinn"),
            ("catalog-file", "quinn-proto"),
            ("devbox-gateway-client", "rustls"),
            ("devbox-cli", "rustls-pki-types"),
            ("devbox-engine", "tokio-rustls"),
            ("devbox-provider", "native-tls"),
            ("tunnel-bridge", "anyhow"),
            ("devbox-tests", "clap"),
        ] {
            assert_eq!(rules(vec![package(who, &[what])]), ["owner"], "{who} {what}");
        }
    }

    #[test]
    fn an_owner_names_what_it_owns() {
        for (who, what) in [
            ("devbox-cli", "clap"),
            ("devbox-ffi", "uniffi"),
            ("catalog-kube", "kube"),
            ("nameserver", "hickory-proto"),
            ("nameserver", "rustls"),
            ("tunnel-bridge", "tokio-tungstenite"),
            ("tunnel-bridge", "httparse"),
            ("tunnel-bridge", "quinn"),
            ("tunnel-bridge", "rustls-platform-verifier"),
            // Only `domain` itself is reserved, not every name that begins with it.
            ("devbox-cli", "domain-list"),
        ] {
            assert_eq!(of(vec![package(who, &[what])]), [], "{who} {what}");
        }
    }

    #[test]
    fn no_kind_of_far_side_links_another() {
        for one in ["devbox-gateway-client", "catalog-file", "catalog-kube"] {
            assert_eq!(
                of(vec![package(
                    one,
                    &["devbox-provider", "service-catalog", "tunnel-bridge", "tokio"]
                )]),
                []
            );
            for other in [
                "devbox-gateway-client",
                "catalog-file",
                "catalog-kube",
                "tunnel-proto",
                "devbox-session",
            ] {
                // The upper rungs into a cluster are gateways.
                if (one, other) == ("catalog-kube", "devbox-gateway-client") {
                    assert_eq!(of(vec![package(one, &[other])]), []);
                } else if one != other {
                    assert_eq!(rules(vec![package(one, &[other])]), ["upward"], "{one} {other}");
                }
                assert_eq!(
                    rules(vec![package("devbox-provider", &[other])]),
                    ["upward"],
                    "{other}"
                );
            }
            assert_eq!(
                rules(vec![package("devbox-session", &[one])]),
                ["upward"],
                "{one}"
            );
        }
    }

    #[test]
    fn a_crate_without_a_row_or_without_the_lints_is_reported() {
        assert_eq!(rules(vec![package("brand-new", &[])]), ["known"]);
        let mut lax = package("ipalloc", &[]);
        lax.manifest_text = "[package]\nname = \"ipalloc\"\n".into();
        assert_eq!(rules(vec![lax]), ["lints"]);
    }
}
