//! Blocks whose markers were lost: what is proved to be theirs goes, and every other byte stays.
#![expect(clippy::unwrap_used, reason = "also outside the functions marked as tests")]

#[expect(dead_code, reason = "shared with the other property tests")]
mod generate;

use generate::{document, entries};
use hostsfile::{Block, Document, Edit, Entry, HostsFile, Options, Owner, Tag, plan};
use proptest::prelude::*;

fn tag(name: &str) -> Tag {
    Tag::new(name).unwrap()
}

fn block(name: &str, entries: Vec<Entry>) -> Edit {
    Edit::SetBlock(Block::new(tag(name)).with_entries(entries).sealed())
}

fn apply(bytes: &[u8], edits: &[Edit]) -> Vec<u8> {
    plan(bytes, edits, &Options::new()).unwrap().new_bytes()
}

fn removing(name: &str) -> [Edit; 2] {
    [Edit::RepairBlock(tag(name)), Edit::RemoveBlock(tag(name))]
}

/// The lines of a block as it was appended, its markers among them.
fn lines(text: &[u8]) -> Vec<Vec<u8>> {
    text.split_inclusive(|b| *b == b'\n')
        .map(<[u8]>::to_vec)
        .collect()
}

/// What happens to one line of a block.
#[derive(Debug, Clone)]
enum Fate {
    Kept,
    /// Changed by the user.
    Edited,
    /// A line of the user's is put in front of it.
    Below(&'static [u8]),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => Just(Fate::Kept),
        1 => Just(Fate::Edited),
        1 => prop::sample::select(vec![&b"10.0.0.7 mine"[..], b"", b"# mine", b"127.77.0.1 orders", b"10.0.0.7 mine # devbox:web"])
            .prop_map(Fate::Below),
    ]
}

/// Removes markers from a block, edits lines and adds others; returns the damaged text, and those of its lines that are not the
/// block's.
fn damage(text: &[u8], no_begin: bool, no_end: bool, fates: &[Fate]) -> (Vec<u8>, Vec<u8>) {
    let lines = lines(text);
    let (mut damaged, mut foreign) = (Vec::new(), Vec::new());
    for (at, line) in lines.iter().enumerate() {
        let ending: &[u8] = if line.ends_with(b"\r\n") { b"\r\n" } else { b"\n" };
        let is_begin = at == 0;
        let is_end = at + 1 == lines.len();
        let fate = fates.get(at).unwrap_or(&Fate::Kept);
        if let Fate::Below(text) = fate
            && !is_begin
        {
            for side in [&mut damaged, &mut foreign] {
                side.extend_from_slice(text);
                side.extend_from_slice(ending);
            }
        }
        if is_begin && no_begin || is_end && no_end {
            continue;
        }
        match fate {
            Fate::Edited if !is_begin && !is_end => {
                for side in [&mut damaged, &mut foreign] {
                    side.push(b'9');
                    side.extend_from_slice(line);
                }
            }
            _ => damaged.extend_from_slice(line),
        }
    }
    (damaged, foreign)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(2000), ..ProptestConfig::default() })]

    #[test]
    fn what_is_proved_goes_and_the_rest_stays(
        before in document(),
        entries in entries(),
        (no_begin, no_end) in prop::sample::select(vec![(true, false), (false, true), (true, true)]),
        fates in prop::collection::vec(fate(), 0..8),
        another in entries(),
    ) {
        let with = apply(&before, &[block("ours-dev-1", entries)]);
        let added = with[before.len()..].to_vec();
        // A file without a final line end got one, which belongs to the block.
        let eol: &[u8] = if added.starts_with(b"\r\n") { b"\r\n" } else if added.starts_with(b"\n") { b"\n" } else { b"" };
        let (damaged, foreign) = damage(&added[eol.len()..], no_begin, no_end, &fates);
        let mut file = [&before[..], eol, &damaged].concat();
        // A block of another session may follow.
        let theirs = apply(&file, &[block("ours-dev-2", another)]);
        // Where it follows directly, it takes over the line end.
        let theirs = if foreign.is_empty() && !eol.is_empty() { Vec::new() } else { theirs[file.len()..].to_vec() };
        file.extend_from_slice(&theirs);

        let repaired = apply(&file, &removing("ours-dev-1"));
        let kept = [&foreign[..], &theirs].concat();
        // Other text needs the line end.
        let eol = if kept.is_empty() { b"" } else { eol };
        let expected = [&before[..], eol, &kept].concat();
        prop_assert_eq!(String::from_utf8_lossy(&repaired), String::from_utf8_lossy(&expected));
        prop_assert!(Document::parse(repaired.clone()).strays().iter().all(|stray| !stray.intact));
        prop_assert_eq!(apply(&repaired, &removing("ours-dev-1")), repaired, "once is enough");
    }

    #[test]
    fn a_damaged_block_is_written_whole_again(
        before in document(),
        entries in entries(),
        no_begin: bool,
        no_end: bool,
    ) {
        let set = [Edit::RepairBlock(tag("ours-dev-1")), block("ours-dev-1", entries)];
        let with = apply(&before, &set);
        prop_assert_eq!(&apply(&with, &set), &with);
        let lines: Vec<Vec<u8>> = lines(&with);
        let gone = |line: &[u8]| no_begin && line.starts_with(b"# BEGIN ours-dev-1") || no_end && line.starts_with(b"# END ours-dev-1");
        let damaged: Vec<u8> = lines.into_iter().filter(|line| !gone(line)).flatten().collect();
        let again = apply(&damaged, &set);
        prop_assert_eq!(String::from_utf8_lossy(&again), String::from_utf8_lossy(&with));
        prop_assert!(Document::parse(again.clone()).strays().is_empty());
        prop_assert_eq!(apply(&again, &set), again);
    }

    #[test]
    fn a_seal_changes_nothing_for_those_who_read_the_file(before in document(), entries in entries()) {
        let sealed = apply(&before, &[block("ours-dev-1", entries.clone())]);
        let plain = apply(&before, &[Edit::SetBlock(Block::new(tag("ours-dev-1")).with_entries(entries))]);
        let read = |bytes: &[u8]| -> Vec<(std::net::IpAddr, String)> {
            let document = Document::parse(bytes);
            let entries = document.entries().flat_map(|entry| {
                let address = entry.address;
                entry.names.into_iter().map(move |name| (address, name.to_owned()))
            });
            entries.collect()
        };
        prop_assert_eq!(read(&sealed), read(&plain));
        prop_assert!(sealed.split(|b| *b == b'\n').all(|line| line.len() <= 510) || before.split(|b| *b == b'\n').any(|line| line.len() > 510));
        prop_assert_eq!(apply(&sealed, &[Edit::RemoveBlock(tag("ours-dev-1"))]), before);
    }
}

fn orders() -> Vec<Entry> {
    vec![
        Entry::parse("127.77.0.1", ["orders"]).unwrap(),
        Entry::parse("127.77.0.2", ["web"]).unwrap(),
    ]
}

#[test]
fn lines_of_others_are_not_touched_by_a_repair() {
    let first = apply(b"127.0.0.1 localhost\n", &[block("devbox-a", orders())]);
    let both = String::from_utf8(apply(&first, &[block("devbox-b", orders())])).unwrap();
    // Both lose the markers between them.
    let damaged = both.replace("# END devbox-a\n# BEGIN devbox-b\n", "");
    let repaired = apply(damaged.as_bytes(), &[Edit::RepairBlock(tag("devbox-a"))]);
    let left = both.split_once("# BEGIN devbox-b\n").unwrap().1;
    assert_eq!(
        String::from_utf8(repaired).unwrap(),
        format!("127.0.0.1 localhost\n{left}")
    );
}

#[test]
fn a_sweep_takes_what_is_proved_and_leaves_damaged_blocks_of_which_nothing_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hosts");
    let owned = |name: &str, sealed: bool| {
        let block = Block::new(tag(name))
            .with_owner(Owner::new("1.2.dead").unwrap())
            .with_entries(orders());
        Edit::SetBlock(if sealed { block.sealed() } else { block })
    };
    let text = apply(b"127.0.0.1 localhost\n", &[owned("devbox-a", true)]);
    let without_end = String::from_utf8(text)
        .unwrap()
        .replace("# END devbox-a\n", "10.0.0.1 mine\n");
    std::fs::write(&path, &without_end).unwrap();
    let swept = HostsFile::open(&path).unwrap().sweep(|_| false).unwrap();
    assert_eq!(swept.removed.len(), 1);
    assert_eq!(
        std::fs::read_to_string(&path).unwrap(),
        "127.0.0.1 localhost\n10.0.0.1 mine\n"
    );

    let text = apply(b"127.0.0.1 localhost\n", &[owned("devbox-a", false)]);
    let without_end = String::from_utf8(text).unwrap().replace("# END devbox-a\n", "");
    std::fs::write(&path, &without_end).unwrap();
    let swept = HostsFile::open(&path).unwrap().sweep(|_| false).unwrap();
    assert!(swept.removed.is_empty());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), without_end);
}

#[test]
fn lines_that_two_tags_may_have_written_are_removed_once() {
    let mut marks = std::collections::HashMap::new();
    let (first, second) = (0..)
        .map(|number| format!("devbox-{number}"))
        .find_map(|name| {
            let earlier = marks.insert(tag(&name).mark(), name.clone())?;
            Some((earlier, name))
        })
        .unwrap();
    let before = b"127.0.0.1 localhost\n";
    let entry = Entry::parse("127.77.0.1", ["orders"]).unwrap();
    let text = apply(before, &[block(&first, vec![entry])]);
    let text = String::from_utf8(text).unwrap();
    let without_markers: String = text
        .split_inclusive('\n')
        .filter(|line| !line.starts_with("# "))
        .collect();
    assert_ne!(without_markers.as_bytes(), before);
    let edits = [removing(&first), removing(&second)].concat();
    assert_eq!(apply(without_markers.as_bytes(), &edits), before);
}

#[test]
fn a_line_that_loses_a_name_keeps_a_good_seal() {
    let entry = |names: &[&str]| Entry::parse("127.77.0.1", names.iter().copied()).unwrap();
    for before in ["127.0.0.1 localhost\n", "127.0.0.1 localhost"] {
        let whole = apply(
            before.as_bytes(),
            &[block("devbox-a", vec![entry(&["orders", "web"])])],
        );
        let taken = Edit::RemoveFromBlock {
            tag: tag("devbox-a"),
            names: vec!["orders".parse().unwrap()],
        };
        let less = apply(&whole, &[taken]);
        // As its owner would write it.
        let wanted = [block("devbox-a", vec![entry(&["web"])])];
        assert_eq!(less, apply(before.as_bytes(), &wanted));
        assert_eq!(less, apply(&less, &wanted));
    }
}
