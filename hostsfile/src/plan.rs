//! Computes new bytes from old bytes and edits, without touching any file.

mod block;
mod compose;
mod line;
mod managed;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::io::{self, Write};
use std::net::IpAddr;
use std::ops::Range;
use std::sync::OnceLock;

use crate::diff::Diff;
use crate::document::{Document, Inside};
use crate::edit::{Edit, Options};
use crate::error::Error;
use crate::line::{self as lines, LineKind};
use crate::lint::{Diagnostic, Finding, Resolver};
use crate::name::{HostName, Marker, Tag};
use crate::scan::{self, Markers};

/// Plans edits of a file's bytes. This is a pure function: it reads and writes no file.
///
/// The edits are applied in order, in one pass over the file. If one of them cannot be applied, there is no plan.
/// ```
/// use hostsfile::{Block, Edit, Entry, Options, Tag, plan};
/// let before = b"127.0.0.1 localhost\n";
/// let block = Block::new(Tag::new("devbox")?).with_entries([Entry::new("127.77.0.1".parse()?, ["orders"])?]);
///
/// let add = plan(before, &[Edit::SetBlock(block)], &Options::new())?;
/// assert!(add.changed());
/// assert_eq!(add.new_bytes(), b"127.0.0.1 localhost\n# BEGIN devbox\n127.77.0.1 orders\n# END devbox\n");
/// println!("{}", add.diff());
///
/// let after = add.new_bytes();
/// let remove = plan(&after, &[Edit::RemoveBlock(Tag::new("devbox")?)], &Options::new())?;
/// assert_eq!(remove.new_bytes(), before);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Error::DamagedBlock`] and [`Error::NoSuchBlock`] for the blocks that the edits refer to; [`Error::LineChanged`],
/// [`Error::NotAnEntry`] and [`Error::Overlap`] for their lines; [`Error::Utf16`]; and the errors of an invalid entry.
pub fn plan<'a>(bytes: &'a [u8], edits: &[Edit], options: &Options) -> Result<Plan<'a>, Error> {
    plan_bytes(Cow::Borrowed(bytes), edits, options)
}

pub(crate) fn plan_bytes<'a>(
    bytes: Cow<'a, [u8]>,
    edits: &[Edit],
    options: &Options,
) -> Result<Plan<'a>, Error> {
    if edits.is_empty() {
        return Ok(Plan::new(bytes, Vec::new()));
    }
    if bytes.starts_with(b"\xFF\xFE") || bytes.starts_with(b"\xFE\xFF") {
        return Err(Error::Utf16);
    }
    let composed = compose::compose(&bytes, edits, options)?;
    let mut plan = Plan::new(bytes, composed.splices);
    plan.tags = composed.tags;
    plan.markers = composed.markers;
    plan.left_out = composed.left_out;
    Ok(plan)
}

/// The result of planning edits: the new bytes of a file, and what there is to report about them.
///
/// It keeps the old bytes and the changed parts; nothing is copied before it is needed.
#[derive(Debug, Clone)]
pub struct Plan<'a> {
    original: Cow<'a, [u8]>,
    /// Sorted by range, without overlap; insertions at the same place keep their order.
    splices: Vec<Splice>,
    tags: Vec<Tag>,
    markers: Vec<Marker>,
    left_out: HashSet<HostName>,
    conflicts: OnceLock<Vec<Conflict>>,
    /// Apart from the conflicts, which cost a tenth of it.
    diagnostics: OnceLock<Vec<Diagnostic>>,
}

impl<'a> Plan<'a> {
    fn new(original: Cow<'a, [u8]>, splices: Vec<Splice>) -> Self {
        Plan {
            original,
            splices,
            tags: Vec::new(),
            markers: Vec::new(),
            left_out: HashSet::new(),
            conflicts: OnceLock::new(),
            diagnostics: OnceLock::new(),
        }
    }

    /// A plan that replaces all bytes.
    pub(crate) fn replace_all(original: Cow<'a, [u8]>, new: Vec<u8>) -> Self {
        let splices = if *original == *new {
            Vec::new()
        } else {
            vec![Splice {
                range: 0..original.len(),
                text: new,
            }]
        };
        Plan::new(original, splices)
    }

    /// Whether the new bytes differ from the old ones.
    #[must_use]
    pub fn changed(&self) -> bool {
        !self.splices.is_empty()
    }

    /// The bytes that the plan was made from.
    #[must_use]
    pub fn old_bytes(&self) -> &[u8] {
        &self.original
    }

    /// The bytes that the file will have.
    #[must_use]
    pub fn new_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.new_len());
        for piece in self.pieces() {
            bytes.extend_from_slice(piece);
        }
        bytes
    }

    /// The length of the new bytes.
    #[must_use]
    pub fn new_len(&self) -> usize {
        self.pieces().map(<[u8]>::len).sum()
    }

    /// Writes the new bytes.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_to(&self, mut to: impl Write) -> io::Result<()> {
        self.pieces().try_for_each(|piece| to.write_all(piece))
    }

    /// The change as a unified diff with three lines of context, for people and for patch(1).
    #[must_use]
    pub fn diff(&self) -> Diff {
        Diff::of(&self.original, &self.splices)
    }

    pub(crate) fn diff_changes(&self) -> Vec<crate::diff::Change> {
        crate::diff::changed_lines(&self.original, &self.splices)
    }

    /// The names of the edited blocks and managed lines that are also on one of the user's lines, with the first such line.
    /// Computed by the first call.
    #[must_use]
    pub fn conflicts(&self) -> &[Conflict] {
        self.conflicts
            .get_or_init(|| self.find_conflicts(&Document::parse(self.new_bytes())))
    }

    /// Diagnostics for the planned file: the conflicts, and what this system's resolver will not see in it
    /// ([`Document::lint`]). Computed by the first call.
    #[must_use]
    pub fn diagnostics(&self) -> &[Diagnostic] {
        self.diagnostics.get_or_init(|| self.find_diagnostics())
    }

    /// The same plan, owning the old bytes.
    #[must_use]
    pub fn into_owned(self) -> Plan<'static> {
        Plan {
            original: Cow::Owned(self.original.into_owned()),
            splices: self.splices,
            tags: self.tags,
            markers: self.markers,
            left_out: self.left_out,
            conflicts: self.conflicts,
            diagnostics: self.diagnostics,
        }
    }

    /// The new bytes, as pieces of the old ones and of the changes.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.splices.iter().map(|s| s.range.end));
        let ends = self
            .splices
            .iter()
            .map(|s| s.range.start)
            .chain(std::iter::once(self.original.len()));
        let texts = self
            .splices
            .iter()
            .map(|s| s.text.as_slice())
            .chain(std::iter::once(&[][..]));
        starts
            .zip(ends)
            .zip(texts)
            .flat_map(|((start, end), text)| [&self.original[start..end], text])
            .filter(|p| !p.is_empty())
    }

    /// The same plan, borrowing the old bytes.
    pub(crate) fn borrowed(&self) -> Plan<'_> {
        let mut plan = Plan::new(Cow::Borrowed(&*self.original), self.splices.clone());
        plan.tags.clone_from(&self.tags);
        plan.markers.clone_from(&self.markers);
        plan.left_out.clone_from(&self.left_out);
        plan
    }

    /// The new bytes from an offset that is not after the first change.
    pub(crate) fn new_tail(&self, from: usize) -> Vec<u8> {
        let mut tail = Vec::with_capacity(self.new_len() - from);
        let mut skip = from;
        for piece in self.pieces() {
            let here = skip.min(piece.len());
            skip -= here;
            tail.extend_from_slice(&piece[here..]);
        }
        tail
    }

    /// The offset of the first byte that may differ, according to the splices.
    pub(crate) fn first_change(&self) -> usize {
        self.splices.first().map_or(self.original.len(), |s| {
            let same = self.original[s.range.clone()]
                .iter()
                .zip(&s.text)
                .take_while(|(a, b)| a == b)
                .count();
            s.range.start + same
        })
    }

    fn find_diagnostics(&self) -> Vec<Diagnostic> {
        let new = Document::parse(self.new_bytes());
        let conflicts = self.conflicts.get_or_init(|| self.find_conflicts(&new));
        let resolver = Resolver::platform();
        let mut diagnostics: Vec<Diagnostic> = conflicts
            .iter()
            .map(|c| Diagnostic {
                line: Some(c.line),
                resolver,
                finding: Finding::Shadowed {
                    name: c.name.to_string(),
                    line: c.line,
                    address: c.address,
                },
            })
            .collect();
        diagnostics.extend(
            new.lint(resolver)
                .into_iter()
                .filter(|d| !matches!(d.finding, Finding::Shadowed { .. })),
        );
        diagnostics
    }

    fn find_conflicts(&self, new: &Document) -> Vec<Conflict> {
        let markers = Markers::of(new.render());
        let mut names = self.names_of_ours(new, &markers);
        let all = Inside::new(markers.spans().into_iter().map(|span| span.range));
        let mut all = all.walk();
        let mut conflicts = Vec::new();
        for (number, span) in lines_with_any(new.render(), &names) {
            if names.is_empty() {
                break;
            }
            let LineKind::Entry(entry) = lines::read(number, &new.render()[span.clone()]) else {
                continue;
            };
            if all.holds(span.start) || self.is_managed(entry.comment) {
                continue;
            }
            for name in &entry.names {
                // Report each name once, with the first line that has it.
                if let Some((name, left_out)) = names.remove_entry(&*lower_case(name))
                    && let Ok(name) = HostName::with_underscore(&name)
                {
                    conflicts.push(Conflict {
                        name,
                        line: entry.line,
                        address: entry.address,
                        left_out,
                    });
                }
            }
        }
        conflicts
    }

    /// The names of the edited blocks and managed lines, in lower case, and whether each was left out.
    fn names_of_ours(&self, new: &Document, markers: &Markers<'_>) -> HashMap<String, bool> {
        let mut names: HashMap<String, bool> = self.left_out.iter().map(|n| (n.to_string(), true)).collect();
        let mut take = |found: &[&str]| {
            for name in found {
                names.entry(lower_case(name).into_owned()).or_default();
            }
        };
        let ours: HashSet<&str> = self.tags.iter().map(Tag::as_str).collect();
        for span in markers.spans().iter().filter(|span| ours.contains(span.tag)) {
            for line in scan::lines_of(&new.render()[..span.range.end], span.range.start) {
                if let LineKind::Entry(entry) = lines::read(0, &new.render()[line]) {
                    take(&entry.names);
                }
            }
        }
        if !self.markers.is_empty() {
            let managed = new.user_lines().into_iter().map(|(_, entry)| entry);
            managed
                .filter(|entry| self.is_managed(entry.comment))
                .for_each(|entry| take(&entry.names));
        }
        names
    }

    fn is_managed(&self, comment: &[u8]) -> bool {
        !comment.is_empty() && self.markers.iter().any(|m| m.as_str().as_bytes() == comment)
    }
}

fn lower_case(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

/// A name of an edited block or managed line that is also on one of the user's own lines.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Conflict {
    /// The name.
    pub name: HostName,
    /// The first of the user's lines that has it, counted from 1 in the planned file.
    pub line: usize,
    /// That line's address.
    pub address: IpAddr,
    /// Whether the name was left out of the block ([`UserNames::LeaveOut`](crate::UserNames::LeaveOut)).
    pub left_out: bool,
}

/// Bytes that replace a range of the old ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Splice {
    pub(crate) range: Range<usize>,
    pub(crate) text: Vec<u8>,
}

/// The lines, with their numbers, that may have one of these names: a few names are looked for before anything is parsed.
fn lines_with_any(bytes: &[u8], names: &HashMap<String, bool>) -> Vec<(usize, Range<usize>)> {
    let start = scan::body_start(bytes);
    let all = scan::lines_of(bytes, start).enumerate();
    if names.len() > SOUGHT_ONE_BY_ONE {
        return all.map(|(index, span)| (index + 1, span)).collect();
    }
    let mut places: Vec<usize> = names
        .keys()
        .flat_map(|name| places_of(&bytes[start..], name))
        .collect();
    places.sort_unstable();
    let mut found: Vec<(usize, Range<usize>)> = Vec::new();
    let (mut number, mut counted) = (1, start);
    for place in places.into_iter().map(|place| start + place) {
        if found.last().is_some_and(|(_, span)| place < span.end) {
            continue;
        }
        let from = memchr::memrchr(b'\n', &bytes[counted..place]).map_or(counted, |at| counted + at + 1);
        let to = memchr::memchr(b'\n', &bytes[place..]).map_or(bytes.len(), |at| place + at + 1);
        number += memchr::memchr_iter(b'\n', &bytes[counted..from]).count();
        counted = from;
        found.push((number, from..to));
    }
    found
}

/// Where a text is, in whichever case.
fn places_of<'b>(bytes: &'b [u8], text: &'b str) -> impl Iterator<Item = usize> + 'b {
    let text = text.as_bytes();
    let first = text.first().copied().unwrap_or(b'\n');
    memchr::memchr2_iter(first.to_ascii_lowercase(), first.to_ascii_uppercase(), bytes).filter(move |at| {
        bytes[*at..]
            .get(..text.len())
            .is_some_and(|found| found.eq_ignore_ascii_case(text))
    })
}

/// More names than these are looked up in a table, line by line.
const SOUGHT_ONE_BY_ONE: usize = 8;
