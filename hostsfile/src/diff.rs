//! A unified diff: of a plan, made from its known changes rather than by comparing texts, and of two files.

use std::fmt;
use std::ops::Range;

use imara_diff::{Algorithm, InternedInput, sources};

use crate::plan::Splice;
use crate::scan;

/// A unified diff of a plan; empty if nothing changes.
///
/// `Display` shows it as text, with U+FFFD for bytes that are not UTF-8. [`as_bytes`](Self::as_bytes) is exact, and patch(1)
/// accepts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diff {
    bytes: Vec<u8>,
    hunks: Range<usize>,
}

impl Diff {
    /// The diff's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hunks.is_empty()
    }

    /// The same diff with a file name other than `hosts`.
    #[must_use]
    pub fn with_label(&self, label: &str) -> Diff {
        Diff::with_hunks(label, &self.bytes[self.hunks.clone()])
    }

    /// The difference between two texts, by whole lines (histogram diff).
    ///
    /// ```
    /// use hostsfile::Diff;
    /// let diff = Diff::between(b"10.0.0.1 a\n10.0.0.2 b\n", b"10.0.0.1 a\n10.0.0.3 b\n");
    /// assert_eq!(
    ///     diff.to_string(),
    ///     "--- hosts\n+++ hosts\n@@ -1,2 +1,2 @@\n 10.0.0.1 a\n-10.0.0.2 b\n+10.0.0.3 b\n"
    /// );
    /// ```
    #[must_use]
    pub fn between(old: &[u8], new: &[u8]) -> Diff {
        Diff::of(old, &changes_between(old, new))
    }

    pub(crate) fn of(old: &[u8], splices: &[Splice]) -> Diff {
        let changes = changed_lines(old, splices);
        let mut hunks = Vec::new();
        let mut at = 0;
        let mut lines = LineCounter {
            bytes: old,
            offset: 0,
            number: 1,
        };
        let mut shift: isize = 0;
        while at < changes.len() {
            let mut last = at;
            let from = context_before(
                old,
                changes[at].old.start,
                at.checked_sub(1).map_or(0, |i| changes[i].old.end),
            );
            let mut to = context_after(old, changes[at].old.end);
            while let Some(next) = changes.get(last + 1)
                && context_before(old, next.old.start, 0) <= to
            {
                last += 1;
                to = context_after(old, next.old.end);
            }
            let hunk = &changes[at..=last];
            let first_line = lines.number_at(from);
            shift = write_hunk(&mut hunks, old, from..to, first_line, hunk, shift);
            at = last + 1;
        }
        Diff::with_hunks("hosts", &hunks)
    }

    fn with_hunks(label: &str, hunks: &[u8]) -> Diff {
        let mut bytes = Vec::new();
        if !hunks.is_empty() {
            bytes.extend_from_slice(format!("--- {label}\n+++ {label}\n").as_bytes());
        }
        let start = bytes.len();
        bytes.extend_from_slice(hunks);
        Diff {
            hunks: start..bytes.len(),
            bytes,
        }
    }
}

/// The changes that lead from one text to the other.
fn changes_between(old: &[u8], new: &[u8]) -> Vec<Splice> {
    let input = InternedInput::new(sources::byte_lines(old), sources::byte_lines(new));
    let mut diff = imara_diff::Diff::compute(Algorithm::Histogram, &input);
    diff.postprocess_lines(&input);
    let (mut old_lines, mut new_lines) = (LineStarts::of(old), LineStarts::of(new));
    diff.hunks()
        .map(|hunk| {
            let text = new_lines.bytes_of(&hunk.after);
            Splice {
                range: old_lines.bytes_of(&hunk.before),
                text: new[text].to_vec(),
            }
        })
        .collect()
}

/// Where lines start, for ascending line numbers, in one pass.
struct LineStarts<'a> {
    bytes: &'a [u8],
    line: u32,
    offset: usize,
}

impl LineStarts<'_> {
    fn of(bytes: &[u8]) -> LineStarts<'_> {
        LineStarts {
            bytes,
            line: 0,
            offset: 0,
        }
    }

    fn bytes_of(&mut self, lines: &Range<u32>) -> Range<usize> {
        self.start_of(lines.start)..self.start_of(lines.end)
    }

    /// The start of a line, counted from 0.
    fn start_of(&mut self, line: u32) -> usize {
        while self.line < line {
            let rest = &self.bytes[self.offset..];
            self.offset += memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
            self.line += 1;
        }
        self.offset
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.bytes))
    }
}

/// Whole lines of the old bytes, and what replaces them.
pub(crate) struct Change {
    pub(crate) old: Range<usize>,
    pub(crate) new: Vec<u8>,
}

/// The splices, widened to whole lines, merged if they share a line, and without the lines that are equal on both sides.
pub(crate) fn changed_lines(old: &[u8], splices: &[Splice]) -> Vec<Change> {
    let mut groups: Vec<(Range<usize>, Range<usize>)> = Vec::new();
    for (index, splice) in splices.iter().enumerate() {
        let start = memchr::memrchr(b'\n', &old[..splice.range.start]).map_or(0, |at| at + 1);
        let old_ends_line = splice.range.end == 0 || old[splice.range.end - 1] == b'\n';
        let new_ends_line = splice
            .text
            .last()
            .map_or(start == splice.range.start, |last| *last == b'\n');
        let end = if old_ends_line && new_ends_line {
            splice.range.end
        } else {
            memchr::memchr(b'\n', &old[splice.range.end..]).map_or(old.len(), |at| splice.range.end + at + 1)
        };
        match groups.last_mut() {
            Some((lines, members)) if start < lines.end => {
                lines.end = lines.end.max(end);
                members.end = index + 1;
            }
            _ => groups.push((start..end, index..index + 1)),
        }
    }
    let mut changes: Vec<Change> = Vec::new();
    for (lines, members) in groups {
        let mut new = Vec::new();
        let mut at = lines.start;
        for splice in &splices[members] {
            new.extend_from_slice(&old[at..splice.range.start]);
            new.extend_from_slice(&splice.text);
            at = splice.range.end;
        }
        new.extend_from_slice(&old[at..lines.end]);
        changes.push(Change { old: lines, new });
    }
    changes.iter_mut().for_each(|change| change.trim(old));
    changes.retain(|c| !c.old.is_empty() || !c.new.is_empty());
    changes
}

impl Change {
    fn trim(&mut self, old: &[u8]) {
        let (a, b) = (&old[self.old.clone()], self.new.as_slice());
        let same = scan::lines_of(a, 0)
            .zip(scan::lines_of(b, 0))
            .take_while(|(x, y)| a[x.clone()] == b[y.clone()]);
        let head = same.last().map_or(0, |(x, _)| x.end);
        let (a, b) = (&a[head..], &b[head..]);
        let mut tail = 0;
        loop {
            let (x, y) = (last_line(&a[..a.len() - tail]), last_line(&b[..b.len() - tail]));
            if x.is_empty() || x != y {
                break;
            }
            tail += x.len();
        }
        self.new = b[..b.len() - tail].to_vec();
        self.old = self.old.start + head..self.old.end - tail;
    }
}

fn last_line(bytes: &[u8]) -> &[u8] {
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    &bytes[memchr::memrchr(b'\n', body).map_or(0, |at| at + 1)..]
}

fn context_before(old: &[u8], at: usize, not_before: usize) -> usize {
    (0..CONTEXT)
        .fold(at, |at, _| at - last_line(&old[..at]).len())
        .max(not_before)
}

fn context_after(old: &[u8], at: usize) -> usize {
    scan::lines_of(old, at)
        .take(CONTEXT)
        .last()
        .map_or(at, |line| line.end)
}

fn write_hunk(
    into: &mut Vec<u8>,
    old: &[u8],
    range: Range<usize>,
    first: usize,
    changes: &[Change],
    shift: isize,
) -> isize {
    let mut body = Vec::new();
    let (mut old_lines, mut new_lines) = (0_usize, 0_usize);
    let mut at = range.start;
    for change in changes {
        let same = write_lines(&mut body, b' ', &old[at..change.old.start]);
        old_lines += same + write_lines(&mut body, b'-', &old[change.old.clone()]);
        new_lines += same + write_lines(&mut body, b'+', &change.new);
        at = change.old.end;
    }
    let same = write_lines(&mut body, b' ', &old[at..range.end]);
    old_lines += same;
    new_lines += same;
    // The position of an empty side is the line before it.
    let old_first = if old_lines == 0 { first - 1 } else { first };
    let new_first = first.saturating_add_signed(shift) - usize::from(new_lines == 0);
    into.extend_from_slice(format!("@@ -{old_first},{old_lines} +{new_first},{new_lines} @@\n").as_bytes());
    into.extend_from_slice(&body);
    shift
        .saturating_add_unsigned(new_lines)
        .saturating_sub_unsigned(old_lines)
}

fn write_lines(into: &mut Vec<u8>, sign: u8, text: &[u8]) -> usize {
    let mut count = 0;
    for line in scan::lines_of(text, 0) {
        into.push(sign);
        into.extend_from_slice(&text[line.clone()]);
        if !text[line].ends_with(b"\n") {
            into.extend_from_slice(b"\n\\ No newline at end of file\n");
        }
        count += 1;
    }
    count
}

/// Line numbers for ascending offsets, in one pass.
struct LineCounter<'a> {
    bytes: &'a [u8],
    offset: usize,
    number: usize,
}

impl LineCounter<'_> {
    fn number_at(&mut self, offset: usize) -> usize {
        self.number += memchr::memchr_iter(b'\n', &self.bytes[self.offset..offset]).count();
        self.offset = offset;
        self.number
    }
}

const CONTEXT: usize = 3;
