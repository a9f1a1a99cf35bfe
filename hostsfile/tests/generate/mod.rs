//! Strategies for the property tests.
use std::net::IpAddr;

use hostsfile::{Block, Comment, Document, Edit, Entry, HostName, LineKind, LineRef, Marker, Tag, Which};
use proptest::prelude::*;

pub(crate) fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        prop::collection::vec(
            prop::sample::select(b"\n\r #.:01a\t\0BEGIND\xE9\xEF\xBB\xBF".to_vec()),
            0..200
        ),
    ]
}

/// Lines as they occur in hosts files, including unusual ones, with any line ends.
pub(crate) fn document() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        6 => prop::sample::select(LINES.to_vec()).prop_map(<[u8]>::to_vec),
        3 => prop::sample::select(MARKERS.to_vec()).prop_map(|t| t.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>().prop_filter("no line end", |b| *b != b'\n'), 0..30),
    ];
    let ending = prop::sample::select(vec!["\n", "\n", "\n", "\r\n", "\r\n", "\r\r\n"]);
    let lines = prop::collection::vec((line, ending), 0..14);
    (
        any::<bool>(),
        lines,
        any::<bool>(),
        prop::sample::select(vec!["", "", "", "\u{feff}"]),
    )
        .prop_map(|(uniform, lines, open_end, bom)| {
            let mut bytes = bom.as_bytes().to_vec();
            let count = lines.len();
            for (at, (line, ending)) in lines.into_iter().enumerate() {
                bytes.extend(line);
                if !(open_end && at + 1 == count) {
                    bytes.extend_from_slice(if uniform { b"\n" } else { ending.as_bytes() });
                }
            }
            // UTF-16 has its own test.
            if bytes.starts_with(b"\xFF\xFE") || bytes.starts_with(b"\xFE\xFF") {
                Vec::new()
            } else {
                bytes
            }
        })
}

pub(crate) fn names() -> impl Strategy<Value = Vec<HostName>> {
    let name = prop::sample::select(vec![
        "web",
        "web-api",
        "db.example",
        "orders.backend.svc",
        "localhost",
        "x1",
    ]);
    prop::collection::vec(name.prop_map(|n| HostName::new(n).unwrap()), 1..14)
}

pub(crate) fn entry() -> impl Strategy<Value = Entry> {
    let address = prop::sample::select(vec!["127.77.0.1", "127.77.0.2", "::1", "fd00::7", "10.0.0.1"]);
    let comment = prop::option::of(prop::sample::select(vec!["shop", "a # b"]));
    (address, names(), comment).prop_map(|(address, names, comment)| {
        let entry = Entry::new(address.parse::<IpAddr>().unwrap(), names).unwrap();
        entry.with_comment(comment.map(|c| Comment::new(c).unwrap()))
    })
}

pub(crate) fn entries() -> impl Strategy<Value = Vec<Entry>> {
    prop::collection::vec(entry(), 0..5)
}

fn any_tag() -> impl Strategy<Value = Tag> {
    prop::sample::select(vec!["a", "b", "c", "d"]).prop_map(|t| Tag::new(t).unwrap())
}

fn any_which() -> impl Strategy<Value = Which> {
    prop_oneof![
        names().prop_filter_map("no name", |names| names.into_iter().next().map(Which::Name)),
        entry().prop_map(|entry| Which::Address(entry.address)),
        Just(Which::Within("127.0.0.0/8".parse().unwrap())),
        Just(Which::Comment(Comment::new("ours").unwrap())),
    ]
}

pub(crate) fn block_edits() -> impl Strategy<Value = Vec<Edit>> {
    let block = (any_tag(), entries())
        .prop_map(|(tag, entries)| Block::new(tag).with_entries(entries))
        .boxed();
    let edit = prop_oneof![
        3 => block.clone().prop_map(Edit::SetBlock),
        2 => block.clone().prop_map(Edit::AddToBlock),
        1 => block.prop_map(Edit::PointInBlock),
        2 => any_tag().prop_map(Edit::RemoveBlock),
        1 => (any_tag(), names()).prop_map(|(tag, names)| Edit::RemoveFromBlock { tag, names }),
        1 => (any_tag(), any_which()).prop_map(|(tag, which)| Edit::RemoveEntries { tag, which }),
        1 => (any_tag(), any_which(), prop::option::of("[a-z]{1,4}")).prop_map(|(tag, which, comment)| {
            let comment = comment.map(|text| Comment::new(&text).unwrap());
            Edit::Comment { tag, which, comment }
        }),
        1 => any_tag().prop_map(Edit::EnableBlock),
        1 => any_tag().prop_map(Edit::DisableBlock),
        1 => any_tag().prop_map(Edit::RepairBlock),
    ];
    prop::collection::vec(edit, 0..6)
}

pub(crate) fn any_edits() -> impl Strategy<Value = Vec<Edit>> {
    let marker = prop::sample::select(vec!["managed", "ours"])
        .prop_map(|m| Marker::new(m).unwrap())
        .boxed();
    let line = (1_usize..12, prop::sample::select(LINES.to_vec()))
        .prop_map(|(n, text)| LineRef::new(n, text))
        .boxed();
    let edit = prop_oneof![
        2 => (marker.clone(), entries()).prop_map(|(marker, entries)| Edit::SetManaged { marker, entries }),
        1 => marker.prop_map(Edit::RemoveManaged),
        1 => entry().prop_map(Edit::AppendLine),
        1 => (line.clone(), names()).prop_map(|(line, names)| Edit::AddNames { line, names }),
        1 => (line.clone(), names()).prop_map(|(line, names)| Edit::RemoveNames { line, names: names.iter().map(ToString::to_string).collect() }),
        1 => (line.clone(), entry()).prop_map(|(line, entry)| Edit::ReplaceLine { line, entry }),
        1 => line.prop_map(Edit::RemoveLine),
    ];
    (block_edits(), prop::collection::vec(edit, 0..3)).prop_map(|(mut blocks, others)| {
        blocks.extend(others);
        blocks
    })
}

/// The lines that are neither in a complete block of these tags nor markers of them; of all tags if none is given.
pub(crate) fn lines_outside_blocks(doc: &Document, tags: &[&str]) -> Vec<Vec<u8>> {
    let ours = |tag: &str| tags.is_empty() || tags.contains(&tag);
    let inside: Vec<_> = doc
        .blocks()
        .iter()
        .filter(|b| ours(b.tag))
        .map(|b| b.lines.clone())
        .collect();
    doc.lines()
        .filter(|l| tags.is_empty() || !inside.iter().any(|r| r.contains(&l.number)))
        .filter(|l| tags.is_empty() || !matches!(l.kind, LineKind::Begin(t) | LineKind::End(t) if ours(t)))
        // A CR at the very end of a file becomes part of the line end when a line is added below it.
        .map(|l| l.text().trim_ascii_end().to_vec())
        .collect()
}

/// What patch(1) would produce; `None` if the diff does not apply.
pub(crate) fn patched(old: &[u8], diff: &[u8]) -> Option<Vec<u8>> {
    let old: Vec<&[u8]> = old.split_inclusive(|b| *b == b'\n').collect();
    let mut new = Vec::new();
    let mut at = 0;
    let mut lines = diff.split_inclusive(|b| *b == b'\n').peekable();
    for head in ["--- ", "+++ "] {
        if lines.peek().is_some() {
            lines.next()?.strip_prefix(head.as_bytes())?;
        }
    }
    while let Some(head) = lines.next() {
        let text = std::str::from_utf8(head).ok()?;
        let (first, count) = text.strip_prefix("@@ -")?.split(' ').next()?.split_once(',')?;
        let (first, count): (usize, usize) = (first.parse().ok()?, count.parse().ok()?);
        let start = if count == 0 { first } else { first - 1 };
        new.extend(old.get(at..start)?.concat());
        at = start;
        while let Some(line) = lines.next_if(|l| !l.starts_with(b"@@")) {
            let (sign, mut text) = (line[0], &line[1..]);
            if lines.next_if(|l| l.starts_with(b"\\")).is_some() {
                text = text.strip_suffix(b"\n")?;
            }
            if sign != b'+' {
                if old.get(at)? != &text {
                    return None;
                }
                at += 1;
            }
            if sign != b'-' {
                new.extend_from_slice(text);
            }
        }
        if at != start + count {
            return None;
        }
    }
    new.extend(old.get(at..)?.concat());
    Some(new)
}

const LINES: &[&[u8]] = &[
    b"127.0.0.1 localhost",
    b"::1 localhost ip6-localhost",
    b"10.0.0.1\tDB.example db # the database",
    b" \t10.0.0.1 web",
    b"",
    b"   ",
    b"# a comment",
    b"#",
    b"10.0.0.9 # only a comment",
    b"# 10.0.0.1 disabled.example",
    b"127.0.0.1    web    # managed",
    b"127.0.0.1 api web # ours \t",
    b"127.0.0.1 caf\xE9",
    b"fe80::1%lo0 scoped",
    b"127.1 short",
    b"10.0.0.1 nul\0nul",
    b"# Added by Docker Desktop",
    b"# End of section",
    b"see # BEGIN a",
    b"10.0.0.3 web web web-api",
    b"10.0.0.1 10.0.0.2 web",
    b"10.0.0.1 http://web db.example # odd",
    b"# 10.0.0.1 10.0.0.2 web",
];

const MARKERS: &[&str] = &[
    "# BEGIN a",
    "# END a",
    "# BEGIN a",
    "# END a",
    "# BEGIN b",
    "# END b",
    "# BEGIN c",
    "# END c",
    "# BEGIN a eol=0",
    "# BEGIN b owner=12.34.ab",
    "# BEGIN c eol=0 off=1",
    "# BEGIN foreign",
    "# END foreign",
    "# BEGIN ngrokd managed section",
    "# BEGIN a \t",
    "#BEGIN a",
    " # BEGIN a",
    "# END a x",
];
