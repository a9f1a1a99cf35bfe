//! Applies a batch of edits and assembles the changed parts.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;

use super::Splice;
use super::block::BlockWork;
use super::line::LineWorks;
use super::managed::{self, ManagedWork, NO_EOL};
use crate::document::Inside;
use crate::edit::{Edit, Options, UserNames};
use crate::entry::{Block, Entry};
use crate::error::Error;
use crate::file;
use crate::layout::BLOCK_STYLE;
use crate::line::{self, LineKind};
use crate::name::{HostName, Marker, Tag};
use crate::scan::{self, LineEnding, Markers, Span};
use crate::seal::{self, Strays};

/// The result of a batch of edits.
pub(super) struct Composed {
    pub(super) splices: Vec<Splice>,
    /// The blocks that the batch wrote and did not remove.
    pub(super) tags: Vec<Tag>,
    /// The markers that the batch wrote.
    pub(super) markers: Vec<Marker>,
    pub(super) left_out: HashSet<HostName>,
}

pub(super) fn compose(bytes: &[u8], edits: &[Edit], options: &Options) -> Result<Composed, Error> {
    let markers = Markers::of(bytes);
    let ending = markers
        .line_ending()
        .or(options.line_ending)
        .unwrap_or(file::PLATFORM_LINE_ENDING);
    let mut batch = Batch {
        bytes,
        options,
        ending,
        blocks: BTreeMap::new(),
        managed: managed::works(bytes, &markers, edits),
        lines: LineWorks::of(bytes, edits),
        loose: BTreeSet::new(),
        tail: Vec::new(),
        left_out: left_out(bytes, &markers, edits, options),
        strays: Strays::of(bytes, &markers, edits),
        markers,
    };
    for edit in edits {
        batch.carry_out(edit)?;
    }
    batch.finish()
}

struct Batch<'a, 'o> {
    bytes: &'a [u8],
    options: &'o Options,
    ending: LineEnding,
    markers: Markers<'a>,
    strays: Strays,
    /// Sealed lines that are removed without a block that they are removed with.
    loose: BTreeSet<(usize, usize)>,
    blocks: BTreeMap<Tag, BlockWork<'a>>,
    managed: BTreeMap<Marker, ManagedWork>,
    lines: LineWorks,
    /// What is added to the end of the file, in the order in which it was first requested.
    tail: Vec<Tail>,
    left_out: HashSet<HostName>,
}

enum Tail {
    Block(Tag),
    Managed(Marker),
    Line(Entry),
}

impl<'a> Batch<'a, '_> {
    fn carry_out(&mut self, edit: &Edit) -> Result<(), Error> {
        let bytes = self.bytes;
        match edit {
            Edit::SetBlock(block) => {
                block.entries.iter().try_for_each(Entry::check)?;
                self.with_block(&block.tag, |work, left_out| work.set(block, left_out))
            }
            Edit::AddToBlock(block) => {
                block.entries.iter().try_for_each(Entry::check)?;
                self.with_block(&block.tag, |work, left_out| work.add(bytes, block, left_out))
            }
            Edit::PointInBlock(block) => {
                block.entries.iter().try_for_each(Entry::check)?;
                self.with_block(&block.tag, |work, left_out| work.point(bytes, block, left_out))
            }
            Edit::RemoveFromBlock { tag, names } => {
                self.with_block(tag, |work, _| work.remove_names(bytes, names))
            }
            Edit::RemoveEntries { tag, which } => {
                self.with_block(tag, |work, _| work.remove_entries(bytes, which))
            }
            Edit::Comment { tag, which, comment } => {
                self.with_present(tag, |work| work.comment(bytes, which, comment.as_ref()))
            }
            Edit::RemoveBlock(tag) => self.with_block(tag, |work, _| work.remove()),
            Edit::EnableBlock(tag) => self.with_present(tag, |work| work.enable(bytes)),
            Edit::DisableBlock(tag) => self.with_present(tag, |work| work.disable(bytes)),
            Edit::RepairBlock(tag) => {
                let strays = self.strays.of_tag(tag);
                let is_whole = strays.is_empty() && self.markers.locate(tag.as_str()).is_ok();
                if !is_whole && !self.blocks.contains_key(tag) {
                    let work = BlockWork::repair(bytes, &self.markers, tag.clone(), strays);
                    self.blocks.insert(tag.clone(), work);
                }
                Ok(())
            }
            Edit::RemoveOrphans { word } => {
                self.loose.extend(self.strays.orphans(word, &self.markers));
                Ok(())
            }
            Edit::SetManaged { marker, entries } => {
                entries.iter().try_for_each(Entry::check)?;
                let wanted = managed::render(marker, entries, self.options);
                self.set_managed(marker, wanted);
                Ok(())
            }
            Edit::RemoveManaged(marker) => {
                self.set_managed(marker, Vec::new());
                Ok(())
            }
            Edit::AppendLine(entry) => {
                entry.check()?;
                self.tail.push(Tail::Line(entry.clone()));
                Ok(())
            }
            Edit::AddNames { line, names } => self.lines.named(line)?.add_names(names, self.options),
            Edit::RemoveNames { line, names } => self.lines.named(line)?.remove_names(names),
            Edit::ReplaceLine { line, entry } => {
                entry.check()?;
                self.lines.named(line)?.replace(entry, self.options);
                Ok(())
            }
            Edit::RemoveLine(line) => {
                self.lines.named(line)?.remove();
                Ok(())
            }
        }
    }

    fn set_managed(&mut self, marker: &Marker, wanted: Vec<String>) {
        if let Some(work) = self.managed.get_mut(marker) {
            work.wanted = wanted;
            self.tail.push(Tail::Managed(marker.clone()));
        }
    }

    fn with_block(
        &mut self,
        tag: &Tag,
        change: impl FnOnce(&mut BlockWork<'a>, &HashSet<HostName>),
    ) -> Result<(), Error> {
        let work = match self.blocks.entry(tag.clone()) {
            std::collections::btree_map::Entry::Occupied(there) => there.into_mut(),
            std::collections::btree_map::Entry::Vacant(new) => {
                let span = self.markers.locate_checked(tag)?;
                new.insert(BlockWork::new(tag.clone(), span))
            }
        };
        let was_there = work.exists();
        change(work, &self.left_out);
        if !was_there && work.exists() && work.span.is_none() {
            self.tail.push(Tail::Block(tag.clone()));
        }
        Ok(())
    }

    fn with_present(&mut self, tag: &Tag, change: impl FnOnce(&mut BlockWork<'a>)) -> Result<(), Error> {
        let mut there = false;
        self.with_block(tag, |work, _| {
            there = work.exists();
            if there {
                change(work);
            }
        })?;
        if there {
            Ok(())
        } else {
            Err(Error::NoSuchBlock { tag: tag.clone() })
        }
    }

    fn finish(self) -> Result<Composed, Error> {
        let mut splices = self.splices_in_place();
        let eol = self.ending.as_str();
        let tail = self.tail;
        for work in self.lines.into_works() {
            let text = work.render(self.bytes, eol);
            splices.push(Splice {
                range: work.range.clone(),
                text,
            });
        }
        splices.retain(|s| self.bytes[s.range.clone()] != *s.text);
        splices.sort_by_key(|s| (s.range.start, s.range.end));
        if let Some(pair) = splices
            .windows(2)
            .find(|pair| pair[0].range.end > pair[1].range.start)
        {
            return Err(Error::Overlap {
                line: scan::line_number(self.bytes, pair[1].range.start),
            });
        }
        let mut text = Vec::new();
        let last = last_line(self.bytes, &splices);
        let mut open_end = !last.is_empty();
        let mut written = HashSet::new();
        let mut written_markers = HashSet::new();
        for item in tail {
            let no_eol = open_end;
            let before = text.len();
            match item {
                Tail::Block(tag) => {
                    let Some(work) = self
                        .blocks
                        .get(&tag)
                        .filter(|w| w.exists() && written.insert(tag))
                    else {
                        continue;
                    };
                    start_line(&mut text, no_eol, eol);
                    let before = no_eol.then_some(&*last);
                    text.extend(work.render(self.bytes, self.ending, before, self.options));
                }
                Tail::Managed(marker) => {
                    let Some(work) = self.managed.get(&marker) else {
                        continue;
                    };
                    if !work.existing.is_empty() || work.wanted.is_empty() || !written_markers.insert(marker)
                    {
                        continue;
                    }
                    start_line(&mut text, no_eol, eol);
                    for (index, line) in work.wanted.iter().enumerate() {
                        text.extend_from_slice(line.as_bytes());
                        if no_eol && index == 0 {
                            text.push(NO_EOL);
                        }
                        text.extend_from_slice(eol.as_bytes());
                    }
                }
                Tail::Line(entry) => {
                    start_line(&mut text, no_eol, eol);
                    let mut seen = HashSet::new();
                    let names = entry
                        .names
                        .iter()
                        .map(HostName::as_str)
                        .filter(|n| seen.insert(*n));
                    self.options
                        .layout
                        .write(&mut text, &entry, names, BLOCK_STYLE, "", eol);
                }
            }
            open_end &= text.len() == before;
        }
        if !text.is_empty() {
            splices.push(Splice {
                range: self.bytes.len()..self.bytes.len(),
                text,
            });
        }
        Ok(Composed {
            splices,
            tags: self
                .blocks
                .into_iter()
                .filter(|(_, work)| work.exists())
                .map(|(tag, _)| tag)
                .collect(),
            markers: self
                .managed
                .into_iter()
                .filter(|(_, work)| !work.wanted.is_empty())
                .map(|(marker, _)| marker)
                .collect(),
            left_out: self.left_out,
        })
    }

    /// The changes to blocks and managed lines of the old bytes.
    fn splices_in_place(&self) -> Vec<Splice> {
        let mut elements = self.elements();
        let dropped = settle_line_ends(&mut elements, self.bytes.len());
        let mut splices: Vec<Splice> = dropped
            .into_iter()
            .map(|range| Splice {
                range,
                text: Vec::new(),
            })
            .collect();
        splices.extend(self.loose().map(|range| Splice {
            range,
            text: Vec::new(),
        }));
        for element in elements {
            match &element.what {
                What::Block(span, work) => splices.extend(self.block_splice(&element, span, *work)),
                // Its splice is there already.
                What::Loose => {}
                What::Managed(work, index) => {
                    if let Some(text) = self.managed_text(&element, work, *index) {
                        splices.push(Splice {
                            range: element.range.clone(),
                            text,
                        });
                    }
                }
            }
        }
        splices
            .into_iter()
            .map(|splice| self.without_line_end(splice))
            .collect()
    }

    /// The same splice, but it leaves a final line end alone that it would write again. That line end may belong to the element
    /// after it, and be removed with it.
    fn without_line_end(&self, mut splice: Splice) -> Splice {
        let kept = [LineEnding::CrLf, LineEnding::Lf].into_iter().find(|ending| {
            let ending = ending.as_str().as_bytes();
            self.bytes[splice.range.clone()].ends_with(ending) && splice.text.ends_with(ending)
        });
        if let Some(ending) = kept {
            splice.range.end -= ending.as_str().len();
            splice.text.truncate(splice.text.len() - ending.as_str().len());
        }
        splice
    }

    fn block_splice(
        &self,
        element: &Element<'_, 'a>,
        span: &Span<'a>,
        work: Option<&BlockWork<'a>>,
    ) -> Option<Splice> {
        let bytes = self.bytes;
        match work {
            Some(work) if !work.exists() => Some(Splice {
                range: span.range.clone(),
                text: work.foreign(bytes),
            }),
            Some(work) if work.is_rendered() => {
                let no_eol = (span.attributes.no_eol && !element.loses) || element.gains;
                let ending = span.line_ending(bytes);
                let before = no_eol.then(|| work.before(bytes));
                let mut text = work.render(bytes, ending, before, self.options);
                let foreign = work.foreign(bytes);
                if foreign.is_empty() && !bytes[span.range.clone()].ends_with(b"\n") {
                    text.truncate(text.len() - ending.as_str().len());
                }
                text.extend(foreign);
                Some(Splice {
                    range: span.range.clone(),
                    text,
                })
            }
            _ if element.gains => {
                let at = span.begin.start + scan::BEGIN.len() + span.tag.len();
                Some(Splice {
                    range: at..at,
                    text: b" eol=0".to_vec(),
                })
            }
            _ if element.loses => {
                let at = memchr::memmem::find(&bytes[span.begin.clone()], b"eol=0")? + span.begin.start;
                Some(Splice {
                    range: at - 1..at + b"eol=0".len(),
                    text: Vec::new(),
                })
            }
            _ => None,
        }
    }

    /// The new text of an existing managed line; `None` if it does not change.
    fn managed_text(&self, element: &Element<'_, 'a>, work: &ManagedWork, index: usize) -> Option<Vec<u8>> {
        let old = &self.bytes[element.range.clone()];
        let text = scan::chomp(old);
        let ending = &old[text.len()..];
        let Some(wanted) = work.wanted.get(index) else {
            return Some(Vec::new());
        };
        let last = index + 1 == work.existing.len();
        let more = if last { &work.wanted[index + 1..] } else { &[] };
        let flagged = (managed::owns_line_end(old) && !element.loses) || element.gains;
        if managed::same(text, wanted) && more.is_empty() && flagged == managed::owns_line_end(old) {
            return None;
        }
        let mut new = wanted.clone().into_bytes();
        if flagged {
            new.push(NO_EOL);
        }
        let separator = if ending.is_empty() {
            self.ending.as_str().as_bytes()
        } else {
            ending
        };
        for line in more {
            new.extend_from_slice(separator);
            new.extend_from_slice(line.as_bytes());
        }
        new.extend_from_slice(ending);
        Some(new)
    }

    /// The markers, duplicates and sealed lines that are removed by themselves, each once: blocks whose tags have the same mark
    /// have the same lines.
    fn loose(&self) -> impl Iterator<Item = Range<usize>> {
        let of_blocks = self.blocks.values().flat_map(|work| &work.extra);
        let mut ranges: BTreeSet<(usize, usize)> = of_blocks.map(|range| (range.start, range.end)).collect();
        ranges.extend(&self.loose);
        ranges.into_iter().map(|(start, end)| start..end)
    }

    /// Everything in the old bytes that is ours or could be next to something of ours, by position.
    fn elements<'w>(&'w self) -> Vec<Element<'w, 'a>> {
        let block = |span: Span<'a>, work: Option<&'w BlockWork<'a>>| Element {
            range: span.range.clone(),
            removed: span.foreign.is_empty() && work.is_some_and(|w| !w.exists()),
            separator: span.separator(self.bytes),
            what: What::Block(span, work),
            gains: false,
            loses: false,
        };
        let mut elements: Vec<Element<'w, 'a>> = Vec::new();
        for span in self.markers.spans() {
            let work = self.blocks.get(span.tag);
            elements.push(block(span, work));
        }
        for work in self
            .blocks
            .values()
            .filter(|w| self.markers.locate(w.tag.as_str()).is_err())
        {
            elements.extend(work.span.clone().map(|span| block(span, Some(work))));
        }
        for work in self.managed.values() {
            for (index, range) in work.existing.iter().enumerate() {
                let line = &self.bytes[range.clone()];
                let ending = if line.ends_with(b"\r\n") {
                    LineEnding::CrLf
                } else {
                    LineEnding::Lf
                };
                let own = managed::owns_line_end(line)
                    .then(|| scan::separator_before(self.bytes, range.start, ending));
                elements.push(Element {
                    range: range.clone(),
                    removed: index >= work.wanted.len(),
                    separator: own.flatten(),
                    what: What::Managed(work, index),
                    gains: false,
                    loses: false,
                });
            }
        }
        elements.extend(self.loose().map(|range| {
            Element {
                removed: true,
                separator: self
                    .markers
                    .separator_of_begin(range.start)
                    .or_else(|| seal::separator(self.bytes, &range)),
                range,
                what: What::Loose,
                gains: false,
                loses: false,
            }
        }));
        elements.sort_by_key(|e| (e.range.start, e.range.end));
        // What is inside a block shares that block's fate.
        let mut until = 0;
        elements.retain(|element| {
            let is_inside = matches!(element.what, What::Loose) && element.range.start < until;
            until = until.max(element.range.end);
            !is_inside
        });
        elements
    }
}

/// A block or managed line of the old bytes.
struct Element<'w, 'a> {
    range: Range<usize>,
    removed: bool,
    /// The line end in front of it, if that belongs to it.
    separator: Option<Range<usize>>,
    what: What<'w, 'a>,
    /// It takes over the line end in front of it from an element that is removed.
    gains: bool,
    /// The line end in front of it is removed with the line before.
    loses: bool,
}

enum What<'w, 'a> {
    Block(Span<'a>, Option<&'w BlockWork<'a>>),
    Managed(&'w ManagedWork, usize),
    /// A marker, a duplicate or a sealed line that a repair removes.
    Loose,
}

/// Decides what happens to line ends that belong to elements, and returns those that are removed.
///
/// If a removed element had brought the line end in front of it, that line end is removed too if nothing follows. If another
/// element follows directly, that element takes it over. If other text follows, it stays, since the text needs it.
fn settle_line_ends(elements: &mut [Element<'_, '_>], len: usize) -> Vec<Range<usize>> {
    let mut dropped = Vec::new();
    // The line end that is still undecided, and the end of the last element that was removed.
    let mut waiting: Option<Range<usize>> = None;
    let mut gone_until = None;
    for element in elements.iter_mut() {
        let follows = gone_until == Some(element.range.start);
        let inherited = waiting.take().filter(|_| follows);
        if element.removed {
            let own = element.separator.clone().filter(|_| !follows);
            waiting = inherited.or(own);
            gone_until = Some(element.range.end);
        } else {
            element.gains = inherited.is_some();
            element.loses = follows && inherited.is_none() && element.separator.is_some();
            gone_until = None;
        }
    }
    if gone_until == Some(len) {
        dropped.extend(waiting);
    }
    dropped
}

/// The names of the batch's blocks that are also on the user's own lines, if such names are to be left out.
fn left_out<'e>(
    bytes: &[u8],
    markers: &Markers<'_>,
    edits: &'e [Edit],
    options: &Options,
) -> HashSet<HostName> {
    let mut left_out = HashSet::new();
    if options.user_names == UserNames::Write {
        return left_out;
    }
    let block_of = |edit: &'e Edit| -> Option<&'e Block> {
        match edit {
            Edit::SetBlock(block) | Edit::AddToBlock(block) | Edit::PointInBlock(block) => Some(block),
            _ => None,
        }
    };
    let wanted: HashMap<&str, &HostName> = edits
        .iter()
        .filter_map(block_of)
        .flat_map(|block| &block.entries)
        .flat_map(|entry| &entry.names)
        .map(|name| (name.as_str(), name))
        .collect();
    if wanted.is_empty() {
        return left_out;
    }
    let repaired: Vec<&Tag> = edits
        .iter()
        .filter_map(|edit| match edit {
            Edit::RepairBlock(tag) => Some(tag),
            _ => None,
        })
        .collect();
    let goes = |line: &[u8]| {
        seal::read(line).is_some_and(|found| found.intact && repaired.iter().any(|tag| found.is_of(tag)))
    };
    let inside = Inside::new(markers.spans().into_iter().map(|s| s.range));
    let mut inside = inside.walk();
    for range in scan::lines_of(bytes, scan::body_start(bytes)) {
        if inside.holds(range.start) || goes(&bytes[range.clone()]) {
            continue;
        }
        if let LineKind::Entry(entry) = line::read(0, &bytes[range]) {
            let taken = entry
                .names
                .iter()
                .filter_map(|n| wanted.get(n.to_ascii_lowercase().as_str()));
            left_out.extend(taken.map(|name| (*name).clone()));
        }
    }
    left_out
}

/// The last line of the text that the splices produce, if it has no line end.
fn last_line(bytes: &[u8], splices: &[Splice]) -> Vec<u8> {
    let mut pieces = Vec::new();
    let mut end = bytes.len();
    for splice in splices.iter().rev() {
        pieces.extend([&bytes[splice.range.end..end], &splice.text]);
        end = splice.range.start;
    }
    pieces.push(&bytes[..end]);
    let mut line = Vec::new();
    for piece in pieces {
        match memchr::memrchr(b'\n', piece) {
            Some(at) => {
                line.splice(0..0, piece[at + 1..].iter().copied());
                return line;
            }
            None => drop(line.splice(0..0, piece.iter().copied())),
        }
    }
    line
}

fn start_line(text: &mut Vec<u8>, open_end: bool, eol: &str) {
    if open_end {
        text.extend_from_slice(eol.as_bytes());
    }
}
