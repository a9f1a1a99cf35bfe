//! Rules about what the sources contain.

use super::facts::{Facts, Source};
use super::law::{self, Kind, Law};
use super::text::{bracketed, next_is};
use super::{Place, Rule};

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "os",
        why: "what an operating system needs is built as data on every system; only the call that performs it is under sys/",
        look: operating_system,
    },
    Rule {
        name: "unsafe-root",
        why: "whether a crate contains unsafe code must be visible at the top of its root",
        look: unsafe_root,
    },
    Rule {
        name: "unsafe",
        why: "unsafe code belongs only where the operating system is called, so that it can be reviewed there",
        look: unsafe_code,
    },
    Rule {
        name: "print",
        why: "a library logs; only a program that talks to a person prints",
        look: printing,
    },
];

fn with_laws(facts: &Facts) -> impl Iterator<Item = (&Source, &'static Law)> {
    facts
        .sources
        .iter()
        .filter_map(|source| Some((source, law::of(&source.package)?)))
}

fn at(source: &Source, at: usize, what: String) -> Place {
    Place {
        file: source.file.clone(),
        line: source.text.line(at),
        what,
    }
}

/// Words in a condition that test for an operating system.
const SYSTEMS: &[&str] = &[
    "target_os",
    "target_family",
    "target_vendor",
    "target_env",
    "unix",
    "windows",
];

fn operating_system(facts: &Facts, broken: &mut dyn FnMut(Place)) {
    for (source, law) in with_laws(facts) {
        let whole = law.os_under.contains(&"src");
        // A test of one system's behaviour can only run on that system.
        if whole
            || source.is_workbench()
            || law.kind == Kind::Workbench
            || source.is_under(law.os_under)
            || in_sys(source)
        {
            continue;
        }
        let code = source.text.code();
        // The conditions of `cfg_if!` are `#[cfg]`s of their own.
        for name in ["cfg", "cfg_attr", "cfg_select"] {
            for word in source.text.words(name) {
                let after = word + name.len();
                let after = next_is(code, after, b'!').map_or(after, |bang| bang + 1);
                let open = next_is(code, after, b'(').or_else(|| next_is(code, after, b'{'));
                let Some(open) = open else { continue };
                let inside = bracketed(code, open);
                let condition = super::text::Text::new(&code[inside]);
                if let Some(system) = SYSTEMS
                    .iter()
                    .find(|system| condition.words(system).next().is_some())
                {
                    broken(at(
                        source,
                        word,
                        format!("`{name}` tests for an operating system ({system}) outside sys/"),
                    ));
                }
            }
        }
    }
}

/// A `sys` at any depth: `src/sys/linux.rs`, `src/listener/sys.rs`.
fn in_sys(source: &Source) -> bool {
    let path = source.inside.strip_suffix(".rs").unwrap_or(&source.inside);
    path.starts_with("src/") && path.split('/').any(|part| part == "sys")
}

fn unsafe_root(facts: &Facts, broken: &mut dyn FnMut(Place)) {
    for (package, law) in facts
        .packages
        .iter()
        .filter_map(|package| Some((package, law::of(&package.name)?)))
    {
        let level = if law.unsafe_under.is_empty() {
            "forbid"
        } else {
            "deny"
        };
        for root in &package.roots {
            let Some(source) = facts.sources.iter().find(|source| source.file == *root) else {
                continue;
            };
            // White space does not matter, and a stricter level is fine.
            let code: String = source.text.code().split_whitespace().collect();
            if !code.contains(&format!("#![{level}(unsafe_code)]"))
                && !code.contains("#![forbid(unsafe_code)]")
            {
                broken(at(
                    source,
                    0,
                    format!("the crate root lacks `#![{level}(unsafe_code)]`"),
                ));
            }
        }
    }
}

fn unsafe_code(facts: &Facts, broken: &mut dyn FnMut(Place)) {
    for (source, law) in with_laws(facts) {
        if source.is_under(law.unsafe_under) || law.unsafe_under.contains(&"src") {
            continue;
        }
        for word in source.text.words("unsafe") {
            let allowed = if law.unsafe_under.is_empty() {
                "nowhere".into()
            } else {
                law.unsafe_under.join(", ")
            };
            broken(at(
                source,
                word,
                format!("`unsafe`; {} allows it only under: {allowed}", law.name),
            ));
        }
    }
}

fn printing(facts: &Facts, broken: &mut dyn FnMut(Place)) {
    for (source, _) in with_laws(facts).filter(|(_, law)| law.kind == Kind::Library) {
        if source.is_workbench() {
            continue;
        }
        let code = source.text.code();
        for name in ["print", "println", "eprint", "eprintln", "dbg"] {
            for word in source.text.words(name) {
                if next_is(code, word + name.len(), b'!').is_some() && !source.text.is_in_test(word) {
                    broken(at(source, word, format!("`{name}!` in a library")));
                }
            }
        }
        // Under sys/ a standard stream is only a handle to pass on.
        for call in ["io::stdout", "io::stderr"]
            .into_iter()
            .filter(|_| !in_sys(source))
        {
            for word in source
                .text
                .words(call)
                .filter(|word| !source.text.is_in_test(*word))
            {
                broken(at(source, word, format!("`{call}` in a library")));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::Package;
    use super::super::{Breach, breaches};
    use super::*;

    fn of(package: &str, inside: &str, text: &str) -> Vec<Breach> {
        let source = Source::new(package, &format!("{package}/{inside}"), inside, text);
        breaches(&Facts {
            packages: Vec::new(),
            sources: vec![source],
        })
    }

    fn rules(package: &str, inside: &str, text: &str) -> Vec<&'static str> {
        of(package, inside, text)
            .iter()
            .map(|breach| breach.rule)
            .collect()
    }

    #[test]
    fn operating_systems_are_tested_for_only_where_they_are_called() {
        for text in [
            "#[cfg(unix)]\nfn f() {}",
            "#[cfg(any(test, target_os = \"linux\"))]\nfn f() {}",
            "#[cfg_attr(windows, path = \"x.rs\")]\nmod x;",
            "fn f() -> bool { cfg!(target_os = \"macos\") }",
            "#![cfg(not(windows))]",
            "cfg_if::cfg_if! { if #[cfg(unix)] { mod unix; } else { mod other; } }",
        ] {
            assert_eq!(rules("ipalloc", "src/pool.rs", text), ["os"], "{text}");
            assert_eq!(
                rules("ipalloc", "src/sys/linux.rs", text),
                [] as [&str; 0],
                "{text}"
            );
            assert_eq!(rules("ipalloc", "src/sys.rs", text), [] as [&str; 0], "{text}");
            assert_eq!(
                rules("process-scope", "src/spawn.rs", text),
                [] as [&str; 0],
                "{text}"
            );
            assert_eq!(
                rules("hostsfile", "src/file/replace.rs", text),
                [] as [&str; 0],
                "{text}"
            );
            assert_eq!(
                rules("ipalloc", "tests/store.rs", text),
                [] as [&str; 0],
                "{text}"
            );
        }
    }

    #[test]
    fn other_conditions_and_mere_mentions_are_allowed() {
        for text in [
            "#[cfg(test)]\nmod tests {}",
            "#[cfg(feature = \"windows\")]\nfn f() {}",
            "// #[cfg(unix)]\nfn unix() {}",
            "/// `#[cfg(unix)]`\nfn f() { let windows = 1; }",
            "use std::collections::BTreeMap as unix;",
        ] {
            assert_eq!(of("ipalloc", "src/pool.rs", text), [], "{text}");
        }
    }

    #[test]
    fn a_breach_names_its_line() {
        let found = of("ipalloc", "src/pool.rs", "fn a() {}\n\n#[cfg(unix)]\nfn f() {}");
        assert_eq!(
            (found[0].file.as_str(), found[0].line),
            ("ipalloc/src/pool.rs", 3)
        );
    }

    #[test]
    fn unsafe_code_is_only_where_it_is_allowed() {
        let text = "fn f() { unsafe { g() } }";
        assert_eq!(rules("ipalloc", "src/pool.rs", text), ["unsafe"]);
        assert_eq!(rules("ipalloc", "src/sys/linux.rs", text), ["unsafe"]);
        assert_eq!(rules("devbox-helper", "src/policy.rs", text), ["unsafe"]);
        assert_eq!(rules("devbox-helper", "src/peer/linux.rs", text), [] as [&str; 0]);
        assert_eq!(rules("hostsfile", "src/file/unix.rs", text), [] as [&str; 0]);
        assert_eq!(
            rules("ipalloc", "src/pool.rs", "// unsafe\nconst A: &str = \"unsafe\";"),
            [] as [&str; 0]
        );
    }

    #[test]
    fn a_crate_root_declares_that_there_is_no_unsafe_code() {
        let found = |name: &str, text: &str| {
            let file = format!("{name}/src/lib.rs");
            let package = Package {
                name: name.into(),
                manifest_text: "[lints]\nworkspace = true\n".into(),
                roots: vec![file.clone()],
                ..Package::default()
            };
            let sources = vec![Source::new(name, &file, "src/lib.rs", text)];
            breaches(&Facts {
                packages: vec![package],
                sources,
            })
        };
        assert_eq!(found("ipalloc", "//! A crate.\n#![forbid(unsafe_code)]\n"), []);
        assert_eq!(found("ipalloc", "//! A crate.\n")[0].rule, "unsafe-root");
        assert_eq!(
            found("ipalloc", "//! A crate.\n#![deny(unsafe_code)]\n")[0].rule,
            "unsafe-root"
        );
        assert_eq!(
            found("ipalloc", "//! #![forbid(unsafe_code)]\n")[0].rule,
            "unsafe-root",
            "a comment is not an attribute"
        );
        assert_eq!(found("hostsfile", "#![deny(unsafe_code)]\n"), []);
        assert_eq!(found("hostsfile", "")[0].rule, "unsafe-root");
    }

    #[test]
    fn libraries_do_not_print() {
        for text in [
            "fn f() { println!(\"x\") }",
            "fn f() { dbg!(1); }",
            "fn f() { std::io::stderr(); }",
        ] {
            assert_eq!(rules("ipalloc", "src/pool.rs", text), ["print"], "{text}");
            assert_eq!(
                rules("devbox-cli", "src/main.rs", text),
                [] as [&str; 0],
                "{text}"
            );
            assert_eq!(
                rules("ipalloc", "examples/lease.rs", text),
                [] as [&str; 0],
                "{text}"
            );
        }
        let text = "#[cfg(test)]\nmod tests { fn f() { println!(\"x\") } }";
        assert_eq!(of("ipalloc", "src/pool.rs", text), []);
    }
}
