//! Proof that a line is from a block, on the line itself: `127.77.0.1 orders # devbox:3fa9-0c1e7b`.
//!
//! Markers can be lost, and lines moved and edited. A seal tells from one line alone which tag's block it was written for and
//! whether it is still what was written: the tag's first word, 16 bits of a hash of the tag, and 24 bits of a hash of all text
//! before. It guards against accidents, not against somebody who wants to deceive.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use crate::document::Inside;
use crate::edit::Edit;
use crate::name::Tag;
use crate::scan::{self, Markers, trim_end};

/// The seal of a block's lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seal {
    /// All but the check: `devbox:3fa9-`.
    mark: String,
}

impl Seal {
    pub(crate) fn of(tag: &Tag) -> Self {
        let tag = tag.as_str();
        let word = tag.split(['-', '.', '_']).next().unwrap_or_default();
        let id = fold(tag.as_bytes()) & 0xffff;
        Seal {
            mark: format!("{word}:{id:04x}-"),
        }
    }

    pub(crate) fn mark(&self) -> &str {
        &self.mark
    }

    /// At most.
    pub(crate) fn len(&self) -> usize {
        self.mark.len() + CHECK + AFTER
    }

    /// Adds the seal to a line that begins at `start` and so far ends with the comment sign.
    pub(crate) fn write(&self, into: &mut Vec<u8>, start: usize) {
        into.extend_from_slice(self.mark.as_bytes());
        let check = check(&into[start..]);
        into.extend_from_slice(&check);
    }
}

/// A seal as it was found on a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found<'a> {
    pub(crate) mark: &'a str,
    /// Whether the line is as it was written.
    pub(crate) intact: bool,
}

impl Found<'_> {
    pub(crate) fn is_of(&self, tag: &Tag) -> bool {
        Seal::of(tag).mark == self.mark
    }
}

/// Reads the seal of a line; trailing blanks and the line end are ignored.
pub(crate) fn read(line: &[u8]) -> Option<Found<'_>> {
    let line = without_after(trim_end(line));
    let (text, sum) = line.split_at_checked(line.len().checked_sub(CHECK)?)?;
    let before_id = text.strip_suffix(b"-")?;
    let (head, id) = before_id.split_at_checked(before_id.len().checked_sub(ID)?)?;
    let head = head.strip_suffix(b":")?;
    let word = head.len()
        - head
            .iter()
            .rev()
            .take_while(|b| b.is_ascii_alphanumeric())
            .count();
    if !is_hex(id) || !is_hex(sum) || word == head.len() || !head[..word].ends_with(b"# ") {
        return None;
    }
    Some(Found {
        mark: std::str::from_utf8(&text[word..]).ok()?,
        intact: check(text) == sum,
    })
}

fn without_after(line: &[u8]) -> &[u8] {
    match line.len().checked_sub(AFTER) {
        Some(at) if line[at] == b'+' && is_hex(&line[at + 1..]) => &line[..at],
        _ => line,
    }
}

fn is_hex(digits: &[u8]) -> bool {
    digits.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The ranges of the intact lines outside all complete blocks, by their marks.
#[derive(Debug, Default)]
pub(crate) struct Strays(HashMap<String, Vec<Range<usize>>>);

impl Strays {
    /// Only looked for if one of the edits is about them.
    pub(crate) fn of(bytes: &[u8], markers: &Markers<'_>, edits: &[Edit]) -> Self {
        let mut strays = Strays::default();
        let about = |edit: &Edit| matches!(edit, Edit::RepairBlock(_) | Edit::RemoveOrphans { .. });
        if edits.iter().any(about) {
            for (range, found) in outside_blocks(bytes, markers) {
                if found.intact {
                    strays.0.entry(found.mark.to_owned()).or_default().push(range);
                }
            }
        }
        strays
    }

    pub(crate) fn of_tag(&self, tag: &Tag) -> &[Range<usize>] {
        self.0.get(&Seal::of(tag).mark).map_or(&[], Vec::as_slice)
    }

    /// Those of blocks of which no marker is left, as starts and ends.
    pub(crate) fn orphans(&self, word: &str, markers: &Markers<'_>) -> Vec<(usize, usize)> {
        let tags = markers.tags().into_iter().filter_map(|tag| Tag::new(tag).ok());
        let known: HashSet<String> = tags.map(|tag| Seal::of(&tag).mark).collect();
        let lost = self
            .0
            .iter()
            .filter(|(mark, _)| mark.split(':').next() == Some(word) && !known.contains(*mark));
        lost.flat_map(|(_, ranges)| ranges)
            .map(|range| (range.start, range.end))
            .collect()
    }
}

/// What the seal of a block's first line ends with if the line end in front of the block belongs to it, as `eol=0` says on its
/// BEGIN: a hash of the line before, so that another line that came there since keeps its line end.
pub(crate) fn after(before: &[u8]) -> Vec<u8> {
    let last = before.rsplit(|b| *b == b'\n').next().unwrap_or_default();
    format!("+{:04x}", fold(last) & 0xffff).into_bytes()
}

/// The line end in front of a sealed line, if its seal says that it belongs to the line's block.
pub(crate) fn separator(bytes: &[u8], line: &Range<usize>) -> Option<Range<usize>> {
    let text = trim_end(&bytes[line.clone()]);
    let ending = scan::line_ending_of(&bytes[line.clone()]);
    let separator = scan::separator_before(bytes, line.start, ending)?;
    let owned = read(text).is_some() && text.ends_with(&after(&bytes[..separator.start]));
    owned.then_some(separator)
}

/// The sealed lines outside all complete blocks.
pub(crate) fn outside_blocks<'a>(bytes: &'a [u8], markers: &Markers<'_>) -> Vec<(Range<usize>, Found<'a>)> {
    let blocks = Inside::new(markers.spans().into_iter().map(|span| span.range));
    let mut blocks = blocks.walk();
    scan::lines_of(bytes, scan::body_start(bytes))
        .filter(|range| !blocks.holds(range.start))
        .filter_map(|range| read(&bytes[range.clone()]).map(|found| (range, found)))
        .collect()
}

fn check(text: &[u8]) -> [u8; CHECK] {
    let mut digits = [0; CHECK];
    let mut left = fold(text);
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(left & 15) as usize];
        left >>= 4;
    }
    digits
}

/// FNV-1a with its upper half, which changes more, folded into the lower one.
fn fold(text: &[u8]) -> u64 {
    let hash = text.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, b| {
        (hash ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)
    });
    hash ^ (hash >> 32)
}

/// Hexadecimal digits of the tag's hash.
const ID: usize = 4;
/// Hexadecimal digits of the check.
const CHECK: usize = 6;
/// A plus sign and the hexadecimal digits of the hash of the line before.
const AFTER: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(text: &str, tag: &str) -> Vec<u8> {
        let mut line = format!("{text} # ").into_bytes();
        Seal::of(&Tag::new(tag).unwrap()).write(&mut line, 0);
        line
    }

    #[test]
    fn a_seal_tells_its_tag_and_any_change_of_its_line() {
        let line = sealed("127.77.0.1 orders.backend", "devbox-dev-1a2b3c4d");
        let found = read(&line).unwrap();
        assert!(found.intact && found.is_of(&Tag::new("devbox-dev-1a2b3c4d").unwrap()));
        assert!(!found.is_of(&Tag::new("devbox-dev-1a2b3c4e").unwrap()));
        let blanks = [&line[..], b" \t\r\n"].concat();
        assert_eq!(read(&blanks), Some(found), "trailing blanks are ignored");
        for at in 0..line.len() {
            let mut edited = line.clone();
            edited[at] = if edited[at] == b'7' { b'8' } else { b'7' };
            assert!(read(&edited).is_none_or(|found| !found.intact), "byte {at}");
        }
    }

    #[test]
    fn other_comments_are_no_seals() {
        for line in [
            "",
            "# ",
            "127.0.0.1 a # devbox",
            "127.0.0.1 a # host:frontend",
            "127.0.0.1 a # devbox:3fa9-0c1e7",
            "127.0.0.1 a # devbox:3FA9-0c1e7b",
            "127.0.0.1 a # :3fa9-0c1e7b",
            "127.0.0.1 a devbox:3fa9-0c1e7b",
        ] {
            assert_eq!(read(line.as_bytes()), None, "{line}");
        }
    }
}
