//! The two laws, and plans of arbitrary edits, over arbitrary bytes.
#![expect(clippy::unwrap_used, reason = "also outside the functions marked as tests")]

mod generate;

use generate::{any_bytes, any_edits, document, entries};
use hostsfile::{Block, Document, Edit, Error, LineEnding, Marker, Options, Tag, plan};
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
        let Ok(planned) = plan(&bytes, &edits, &options) else { return Ok(()) };
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
    fn user_lines_stay_in_order_whatever_happens_to_blocks(bytes in document(), edits in generate::block_edits()) {
        let Ok(planned) = plan(&bytes, &edits, &Options::new()) else { return Ok(()) };
        // A repair makes a block of what it finds between markers, so those lines then belong to the block.
        let repairs: Vec<Edit> = edits.iter().filter(|e| matches!(e, Edit::RepairBlock(_))).cloned().collect();
        let before = Document::parse(bytes.as_slice()).edited(&repairs, &Options::new()).unwrap();
        let after = Document::parse(planned.new_bytes());
        let mut left = generate::lines_outside_blocks(&after, &[]).into_iter();
        for line in generate::lines_outside_blocks(&before, &["a", "b", "c", "d"]) {
            prop_assert!(left.any(|l| l == line), "{:?} is gone", String::from_utf8_lossy(&line));
        }
    }
}

fn has_foreign(doc: &Document, lines: &std::ops::Range<usize>) -> bool {
    use hostsfile::LineKind;
    doc.lines()
        .filter(|l| lines.start < l.number && l.number + 1 < lines.end)
        .any(|l| matches!(l.kind, LineKind::Begin(_) | LineKind::End(_)))
}
