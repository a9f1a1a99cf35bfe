//! Snapshots of the texts that users see: instructions, diffs, findings and error messages.
#![expect(clippy::unwrap_used, reason = "also outside the functions marked as tests")]

use std::fmt::Write as _;
use std::path::Path;

use hostsfile::{
    Block, Cidr, Comment, Document, Edit, Entry, HostName, Layout, LineEnding, LintOptions, Options, Owner,
    Plan, Resolver, Shell, Tag, Zone, manual_instructions, plan,
};

/// The same on every system.
fn options() -> Options {
    Options::new().layout(Layout::GROUPED).line_ending(LineEnding::Lf)
}

fn block(name: &str) -> Edit {
    Edit::SetBlock(
        Block::new(tag("devbox")).with_entries([
            Entry::parse("127.77.0.1", [name, "orders.backend"]).unwrap(),
            Entry::parse("127.77.0.2", ["web"])
                .unwrap()
                .with_comment(Comment::new("the shop's").unwrap()),
        ]),
    )
}

fn tag(name: &str) -> Tag {
    Tag::new(name).unwrap()
}

fn adding(before: &'static str) -> Plan<'static> {
    plan(before.as_bytes(), &[block("orders")], &options()).unwrap()
}

const WITH_BLOCK: &str =
    "127.0.0.1 localhost\n# BEGIN devbox\n127.77.0.9 old\n# END devbox\n10.0.0.1\tprinter 100%\n";

#[test]
fn snapshot_of_instructions_that_add_lines() {
    let (posix, windows) = (adding("127.0.0.1 localhost\n"), adding("127.0.0.1 localhost\r\n"));
    insta::assert_snapshot!(
        "add_posix",
        manual_instructions(&posix, Path::new("/etc/hosts"), Shell::Posix)
    );
    let path = Path::new(r"C:\Windows\System32\drivers\etc\hosts");
    insta::assert_snapshot!(
        "add_powershell",
        manual_instructions(&windows, path, Shell::PowerShell)
    );
}

#[test]
fn snapshot_of_instructions_that_change_lines() {
    let planned = adding(WITH_BLOCK);
    insta::assert_snapshot!(
        "change_posix",
        manual_instructions(&planned, Path::new("/etc/hosts"), Shell::Posix)
    );
    insta::assert_snapshot!(
        "change_powershell",
        manual_instructions(&planned, Path::new("hosts"), Shell::PowerShell)
    );
}

#[test]
fn snapshot_of_a_diff() {
    insta::assert_snapshot!("diff", adding(WITH_BLOCK).diff().with_label("/etc/hosts"));
    insta::assert_snapshot!(
        "diff_without_final_line_end",
        adding("127.0.0.1 localhost").diff()
    );
}

/// Lines that at least one resolver reads differently than one would expect.
fn unusual() -> Vec<u8> {
    let many: String = (0..40).fold(String::new(), |line, n| line + &format!(" n{n}"));
    let long = format!("10.0.0.7 {}\n", "a".repeat(1100));
    [
        b"127.0.0.1 localhost\n::1 localhost\n10.0.0.1 UPPER under_score -dash dot. a,b\n" as &[u8],
        b"\t10.0.0.2 indented\n10.0.0.3 name#comment\n10.1 short\n10.0.0.4\n10.0.0.5 10.0.0.6\n",
        b"nonsense\n10.0.0.8 nul\0byte\n10.0.0.9 caf\xE9\nfe80::1%eth0 scoped\n::ffff:10.0.0.1 mapped\n",
        b"0.0.0.0 blocked\n10.0.0.10 twice\n10.0.0.11 twice\n10.0.0.12 printer.local # a comment\n10.0.0.13 cr\r\n",
        long.as_bytes(),
        b"10.0.0.14",
        many.as_bytes(),
        b"\n10.0.0.15 last",
    ]
    .concat()
}

#[test]
fn snapshot_of_findings() {
    let document = Document::parse(unusual());
    let all = Resolver::ALL.map(|resolver| (resolver, LintOptions::new(), ""));
    let multi_off = (Resolver::Glibc, LintOptions::new().multi(false), "_multi_off");
    for (resolver, options, suffix) in all.into_iter().chain([multi_off]) {
        let mut text = String::new();
        for found in document.lint_with(resolver, &options) {
            let long = "a".repeat(1100);
            let line = found.to_string().replace(&long, "aaa…");
            writeln!(text, "{line} [{}]", found.kind()).unwrap();
        }
        insta::assert_snapshot!(format!("findings_{resolver}{suffix}"), text);
    }
    let utf16 = Document::parse(b"\xFF\xFEx\0".as_slice());
    let marked = Document::parse(b"\xEF\xBB\xBF127.0.0.1 localhost\n".as_slice());
    let first = |document: &Document| {
        let found = document.lint(Resolver::Glibc);
        found
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    };
    insta::assert_snapshot!(
        "findings_encodings",
        format!("{}\n{}\n", first(&utf16), first(&marked))
    );
}

#[test]
fn snapshot_of_error_messages() {
    let mut text = String::new();
    let mut told = |error: hostsfile::Error| writeln!(text, "{error}").unwrap();
    for name in [
        "",
        "a..b",
        "-a",
        "a_b",
        "a.1",
        "10.1",
        &"a".repeat(64),
        &"abc.".repeat(70),
    ] {
        told(HostName::new(name).unwrap_err());
    }
    for name in ["", "a b", "default"] {
        told(Tag::new(name).unwrap_err());
    }
    told(Owner::new("a b").unwrap_err());
    for comment in ["", "a\nb", &"x".repeat(121)] {
        told(Comment::new(comment).unwrap_err());
    }
    told(Zone::new("an interface").unwrap_err());
    told("10.0.0.0/33".parse::<Cidr>().unwrap_err());
    told("10.0.0/8".parse::<Cidr>().unwrap_err());
    told(Entry::parse("10.1", ["a"]).unwrap_err());
    told(Entry::parse("::ffff:10.0.0.1", ["a"]).unwrap_err());
    told(Entry::parse("10.0.0.1%lo", ["a"]).unwrap_err());
    told(Entry::parse("10.0.0.1", [] as [&str; 0]).unwrap_err());
    for damaged in [
        "# BEGIN devbox\n",
        "# END devbox\n",
        "# BEGIN devbox\n# BEGIN devbox\n# END devbox\n",
        "# BEGIN devbox\n# END devbox\n# BEGIN devbox\n# END devbox\n",
    ] {
        told(plan(damaged.as_bytes(), &[block("orders")], &options()).unwrap_err());
    }
    let line = |number: usize| {
        Document::parse("# a\n10.0.0.1 b\n")
            .line(number)
            .unwrap()
            .reference()
    };
    let refused = |before: &str, edits: &[Edit]| plan(before.as_bytes(), edits, &options()).unwrap_err();
    told(refused("", &[Edit::EnableBlock(tag("devbox"))]));
    told(refused("10.0.0.1 other\n", &[Edit::RemoveLine(line(2))]));
    let names = vec!["c".parse().unwrap()];
    told(refused(
        "# a\n10.0.0.1 b\n",
        &[Edit::AddNames { line: line(1), names }],
    ));
    told(plan(b"\xFF\xFEx\0", &[block("orders")], &options()).unwrap_err());
    insta::assert_snapshot!("errors", text);
}
