//! What glibc 2.36 and musl 1.2 did with unusual lines when they were run, as findings of the lint.

use hostsfile::{Document, Edit, Options, Resolver};

use super::support::*;

pub(crate) const CASES: &[(&str, Check)] = &[
    ("H200", |c| {
        assert_eq!(
            add(&Document::parse(""), "10.0.0.1", &["BETA"]).render(),
            b"10.0.0.1 beta\n"
        );
        assert!(found(
            &Document::parse("10.0.0.1 BETA\n"),
            Resolver::Musl,
            "upper-case",
            1
        ));
        assert!(!found(
            &Document::parse("10.0.0.1 BETA\n"),
            Resolver::Glibc,
            "upper-case",
            1
        ));
        assert_eq!(c.doc().lookup("BETA"), [ip("10.0.0.1")]);
    }),
    ("H201", |c| {
        assert!(found(&c.doc(), Resolver::Musl, "leading-blank", 1));
        assert!(!found(&c.doc(), Resolver::Glibc, "leading-blank", 1));
    }),
    ("H203", |c| {
        for resolver in [Resolver::Glibc, Resolver::Musl] {
            assert!(found(&c.doc(), resolver, "byte-order-mark", 1));
            assert_eq!(c.doc().lint(resolver).len(), 1);
        }
    }),
    ("H204", |c| {
        assert!(c.doc().lint(Resolver::Glibc).is_empty() && c.doc().lint(Resolver::Musl).is_empty());
        let doc = add_with(
            &Document::parse(""),
            "10.0.0.1",
            &["hash"],
            "c",
            hostsfile::OnConflict::Refuse,
            9,
        )
        .unwrap();
        assert_eq!(text(&doc), "10.0.0.1 hash # c\n");
    }),
    // The caller's order of entries is kept, so the preferred family comes first.
    ("H207", |_| {
        let set = Edit::SetBlock(block("b", &[("::1", &["dual"]), ("127.0.0.1", &["dual"])]));
        let doc = edited(&Document::parse(""), &[set]);
        assert_eq!(doc.lookup("dual"), [ip("::1"), ip("127.0.0.1")]);
    }),
    ("H208", |c| {
        let read: Vec<String> = c
            .doc()
            .lint(Resolver::Musl)
            .iter()
            .map(ToString::to_string)
            .collect();
        for (line, address) in ["127.0.0.1", "8.0.0.1", "127.0.0.1"].iter().enumerate() {
            assert!(
                read[line].contains(&format!("read as {address}")),
                "{}",
                read[line]
            );
        }
        for line in 1..=3 {
            assert!(found(&c.doc(), Resolver::Glibc, "not-read", line));
        }
    }),
    ("H209", |_| {
        let ninety: Vec<String> = (0..90).map(|n| format!("m{n:04}")).collect();
        let ninety: Vec<&str> = ninety.iter().map(String::as_str).collect();
        let long = Document::parse(format!("10.0.0.1 {}\n", ninety.join(" ")));
        assert!(found(&long, Resolver::Musl, "long-line", 1));
        assert!(long.lint(Resolver::Glibc).is_empty());
        // No line that is written is that long, whatever the names.
        let names: Vec<String> = (0..40)
            .map(|n| format!("{}.n{n}", ["y".repeat(60), "z".repeat(60)].join(".")))
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let set = Edit::SetBlock(block("b", &[("10.0.0.1", &names)]));
        let doc = Document::parse("").edited(&[set], &Options::new()).unwrap();
        assert!(doc.lines().all(|l| l.bytes.len() <= 510));
        assert_eq!(doc.names_at(ip("10.0.0.1")).len(), 40);
    }),
    ("H210", |_| {
        let doc = Document::parse(format!("#{}10.6.6.6 smuggled\n", "x".repeat(510)));
        assert!(found(&doc, Resolver::Musl, "long-line", 1));
        assert!(doc.lint(Resolver::Glibc).is_empty());
        assert!(hostsfile::Comment::new(&"x".repeat(511)).is_err());
    }),
    ("H211", |_| {
        let doc = Document::parse((0..200).map(|n| format!("10.0.0.{n} many\n")).collect::<String>());
        assert!(found(&doc, Resolver::Musl, "many-addresses", 1));
        assert_eq!(doc.lookup("many").len(), 200);
    }),
];

fn found(doc: &Document, resolver: Resolver, kind: &str, line: usize) -> bool {
    doc.lint(resolver)
        .iter()
        .any(|d| d.kind() == kind && d.line == Some(line))
}
