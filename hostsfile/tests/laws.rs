//! The two laws, and plans of arbitrary edits, over arbitrary bytes.
#![expect(clippy::unwrap_used, reason = "also outside the functions marked as tests")]

mod generate;

use std::collections::BTreeSet;

use generate::{any_bytes, any_edits, document, entries};
use hostsfile::{
    Block, Diff, Document, Edit, Error, LineEnding, LineKind, LineRef, Marker, Options, Tag, plan,
};
use proptest::prelude::*;

fn tag(name: &str) -> Tag {
    Tag::new(name).unwrap()
}

fn apply(bytes: &[u8], edit: Edit) -> Result<Vec<u8>, Error> {
    Ok(plan(bytes, &[edit], &Options::new())?.new_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(2000), ..ProptestConfig::default() })]

    #[test]
    fn parse_then_render_gives_the_same_bytes(bytes in any_bytes()) {
        let doc = Document::parse(bytes.clone());
        prop_assert_eq!(doc.render(), &bytes[..]);
        let bom = if bytes.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
        let joined: Vec<u8> = doc.lines().flat_map(|l| l.bytes.to_vec()).collect();
        prop_assert_eq!(joined, &bytes[bom..]);
    }

    #[test]
    fn remove_after_add_gives_the_same_bytes(bytes in prop_oneof![document(), any_bytes()], entries in entries()) {
        // `ours` is in none of the generated documents.
        let block = Block::new(tag("ours")).with_entries(entries);
        match apply(&bytes, Edit::SetBlock(block.clone())) {
            Ok(added) => {
                let again = plan(&added, &[Edit::SetBlock(block)], &Options::new()).unwrap();
                prop_assert!(!again.changed());
                let removed = apply(&added, Edit::RemoveBlock(tag("ours"))).unwrap();
                prop_assert_eq!(removed, bytes);
            }
            Err(Error::Utf16) => prop_assert!(bytes.starts_with(b"\xFF\xFE") || bytes.starts_with(b"\xFE\xFF")),
            Err(e) => return Err(TestCaseError::fail(e.to_string())),
        }
    }

    #[test]
    fn blocks_can_be_removed_in_any_order(bytes in document(), a in entries(), b in entries(), swap: bool) {
        let add = |bytes: &[u8], name: &str, entries: &Vec<_>| apply(bytes, Edit::SetBlock(Block::new(tag(name)).with_entries(entries.clone()))).unwrap();
        let both = add(&add(&bytes, "ours1", &a), "ours2", &b);
        let order = if swap { ["ours1", "ours2"] } else { ["ours2", "ours1"] };
        let one = apply(&both, Edit::RemoveBlock(tag(order[0]))).unwrap();
        prop_assert_eq!(&apply(&one, Edit::RemoveBlock(tag(order[1]))).unwrap(), &bytes);
        let batch = [Edit::RemoveBlock(tag(order[0])), Edit::RemoveBlock(tag(order[1]))];
        prop_assert_eq!(plan(&both, &batch, &Options::new()).unwrap().new_bytes(), bytes);
    }

    #[test]
    fn managed_lines_go_without_a_trace(bytes in document(), entries in entries()) {
        let marker = Marker::new("ours managed").unwrap();
        let added = apply(&bytes, Edit::SetManaged { marker: marker.clone(), entries: entries.clone() }).unwrap();
        let again = plan(&added, &[Edit::SetManaged { marker: marker.clone(), entries }], &Options::new()).unwrap();
        prop_assert!(!again.changed());
        prop_assert_eq!(apply(&added, Edit::RemoveManaged(marker)).unwrap(), bytes);
    }

    #[test]
    fn disable_then_enable_gives_the_same_bytes(bytes in document(), name in prop::sample::select(vec!["a", "b", "c"])) {
        let doc = Document::parse(bytes.clone());
        let Ok(Some(block)) = doc.block(&tag(name)) else { return Ok(()) };
        if block.disabled.is_empty() && block.enabled {
            let off = apply(&bytes, Edit::DisableBlock(tag(name))).unwrap();
            let off_doc = Document::parse(off.clone());
            prop_assert!(off_doc.block(&tag(name)).unwrap().unwrap().entries.is_empty());
            let on = apply(&off, Edit::EnableBlock(tag(name))).unwrap();
            if !block.entries.is_empty() && doc.line_ending() == Some(LineEnding::Lf) && !bytes.contains(&b'\r') && !has_foreign(&doc, &block.lines) {
                prop_assert_eq!(String::from_utf8_lossy(&on), String::from_utf8_lossy(&bytes));
            }
        }
    }

    #[test]
    fn any_plan_is_consistent(bytes in document(), edits in any_edits(), crlf: bool) {
        let options = Options::new().line_ending(if crlf { LineEnding::CrLf } else { LineEnding::Lf });
        let planned = match plan(&bytes, &edits, &options) {
            Ok(planned) => planned,
            Err(error) => {
                prop_assert!(is_justified(&error, &bytes, &edits), "{error} for {edits:?}");
                return Ok(());
            }
        };
        let new = planned.new_bytes();
        prop_assert_eq!(planned.changed(), new != bytes);
        prop_assert_eq!(planned.new_len(), new.len());
        prop_assert_eq!(planned.diff().is_empty(), !planned.changed());
        prop_assert_eq!(generate::patched(&bytes, planned.diff().as_bytes()), Some(new.clone()));
        let mut written = Vec::new();
        planned.write_to(&mut written).unwrap();
        prop_assert_eq!(&written, &new);
        let _checked_not_to_panic = (planned.diagnostics(), planned.conflicts());
    }

    #[test]
    fn the_difference_of_two_files_leads_from_one_to_the_other(
        old in prop_oneof![document(), any_bytes()],
        new in prop_oneof![document(), any_bytes()],
        edits in any_edits(),
    ) {
        let near = plan(&old, &edits, &Options::new()).map_or(new.clone(), |planned| planned.new_bytes());
        for new in [new, near] {
            let diff = Diff::between(&old, &new);
            prop_assert_eq!(diff.is_empty(), old == new);
            prop_assert_eq!(generate::patched(&old, diff.as_bytes()), Some(new));
        }
    }

    #[test]
    fn user_lines_stay_in_order_whatever_happens_to_blocks(bytes in document(), edits in generate::block_edits()) {
        let planned = match plan(&bytes, &edits, &Options::new()) {
            Ok(planned) => planned,
            Err(error) => {
                prop_assert!(is_justified(&error, &bytes, &edits), "{error} for {edits:?}");
                return Ok(());
            }
        };
        // A repair makes a block of what it finds between markers, so those lines then belong to the block.
        let repairs: Vec<Edit> = edits.iter().filter(|e| matches!(e, Edit::RepairBlock(_))).cloned().collect();
        let before = Document::parse(bytes.as_slice()).edited(&repairs, &Options::new()).unwrap();
        let after = Document::parse(planned.new_bytes());
        let mut left = generate::lines_outside_blocks(&after, &[]).into_iter();
        // An empty line before a block with `eol=0` is nothing but the line end that belongs to the block.
        for line in generate::lines_outside_blocks(&before, &["a", "b", "c", "d"]).into_iter().filter(|l| !l.is_empty()) {
            prop_assert!(left.any(|l| l == line), "{:?} is gone", String::from_utf8_lossy(&line));
        }
    }
}

/// Whether the bytes or the edits are what an error of planning says they are.
fn is_justified(error: &Error, bytes: &[u8], edits: &[Edit]) -> bool {
    let doc = Document::parse(bytes);
    let text = |number: usize| doc.line(number).map(|line| line.text().to_vec());
    match error {
        Error::Utf16 => bytes.starts_with(b"\xFF\xFE") || bytes.starts_with(b"\xFE\xFF"),
        Error::DamagedBlock { tag, damage, lines } => {
            doc.damage().contains(&(tag.clone(), *damage, lines.clone()))
                && edits.iter().any(|edit| block_of(edit) == Some(tag))
        }
        // Either there is none, or another edit of the batch removes it first.
        Error::NoSuchBlock { tag } => {
            let wanted = |edit: &Edit| match edit {
                Edit::EnableBlock(t) | Edit::DisableBlock(t) | Edit::Comment { tag: t, .. } => t == tag,
                _ => false,
            };
            let first = edits.iter().position(wanted);
            first.is_some()
                && (doc.block(tag).is_ok_and(|block| block.is_none())
                    || edits
                        .iter()
                        .any(|edit| !wanted(edit) && block_of(edit) == Some(tag)))
        }
        Error::LineChanged { line } => edits.iter().filter_map(line_of).any(|reference| {
            reference.number() == *line
                && text(*line).is_none_or(|text| LineRef::new(*line, text) != *reference)
        }),
        // Either it has none, or another edit of the batch removes the line first.
        Error::NotAnEntry { line } => {
            let edited = edits
                .iter()
                .filter_map(line_of)
                .filter(|reference| reference.number() == *line)
                .count();
            edited > 1
                || edited == 1 && !matches!(doc.line(*line).map(|line| line.kind), Some(LineKind::Entry(_)))
        }
        // Either an edit refers to the line, or it is between the markers of two edited blocks.
        Error::Overlap { line } => {
            let around = |tag: &Tag| {
                let markers: Vec<usize> = doc
                    .lines()
                    .filter(|l| matches!(l.kind, LineKind::Begin(t) | LineKind::End(t) if t == tag.as_str()))
                    .map(|l| l.number)
                    .collect();
                markers.first() <= Some(line) && Some(line) <= markers.last()
            };
            let tags: BTreeSet<&Tag> = edits
                .iter()
                .filter_map(block_of)
                .filter(|tag| around(tag))
                .collect();
            tags.len() > 1
                || edits
                    .iter()
                    .filter_map(line_of)
                    .any(|reference| reference.number() == *line)
        }
        _ => false,
    }
}

/// The block that an edit changes.
fn block_of(edit: &Edit) -> Option<&Tag> {
    match edit {
        Edit::SetBlock(block) | Edit::AddToBlock(block) | Edit::PointInBlock(block) => Some(&block.tag),
        Edit::RemoveBlock(tag)
        | Edit::EnableBlock(tag)
        | Edit::DisableBlock(tag)
        | Edit::RepairBlock(tag)
        | Edit::RemoveEntries { tag, .. }
        | Edit::Comment { tag, .. }
        | Edit::RemoveFromBlock { tag, .. } => Some(tag),
        _ => None,
    }
}

/// The line that an edit refers to.
fn line_of(edit: &Edit) -> Option<&LineRef> {
    match edit {
        Edit::AddNames { line, .. }
        | Edit::RemoveNames { line, .. }
        | Edit::ReplaceLine { line, .. }
        | Edit::RemoveLine(line) => Some(line),
        _ => None,
    }
}

fn has_foreign(doc: &Document, lines: &std::ops::Range<usize>) -> bool {
    doc.lines()
        .filter(|l| lines.start < l.number && l.number + 1 < lines.end)
        .any(|l| matches!(l.kind, LineKind::Begin(_) | LineKind::End(_)))
}

#[test]
fn a_line_may_change_while_the_one_after_it_goes_with_the_line_end_between_them() {
    let marker = || Marker::new("ours").unwrap();
    let entry = || hostsfile::Entry::parse("127.77.0.1", ["web"]).unwrap();
    let set = Edit::SetManaged {
        marker: marker(),
        entries: vec![entry()],
    };
    let two_managed = b"127.77.0.1 old # ours\n127.77.0.2 old # ours\t\n";
    assert_eq!(apply(two_managed, set).unwrap(), b"127.77.0.1    web    # ours");

    let block_then_managed = b"# BEGIN a\n127.77.0.1 old\n# END a\n127.77.0.2 old # ours\t\n";
    let edits = [
        Edit::SetBlock(Block::new(tag("a")).with_entries([entry()])),
        Edit::RemoveManaged(marker()),
    ];
    let planned = plan(block_then_managed, &edits, &Options::new()).unwrap();
    assert_eq!(planned.new_bytes(), b"# BEGIN a\n127.77.0.1 web\n# END a");
}
