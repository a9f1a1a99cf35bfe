//! One of the user's lines while it is being edited.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use crate::edit::{Edit, Options};
use crate::entry::Entry;
use crate::error::Error;
use crate::layout::BLOCK_STYLE;
use crate::line::{self, EntryLine, LineKind, LineRef};
use crate::name::{Comment, HostName, Zone};
use crate::scan;

/// The lines that a batch refers to, found in one pass.
pub(super) struct LineWorks {
    works: HashMap<usize, LineWork>,
}

pub(super) struct LineWork {
    pub(super) number: usize,
    /// Its range, including its line end.
    pub(super) range: Range<usize>,
    original: Vec<u8>,
    /// Its text without the line end; `None` once it is removed.
    text: Option<Vec<u8>>,
    /// Lines to add below it.
    below: Vec<String>,
}

impl LineWorks {
    pub(super) fn of(bytes: &[u8], edits: &[Edit]) -> Self {
        let numbers: BTreeSet<usize> = edits.iter().filter_map(named_line).map(LineRef::number).collect();
        let mut works = HashMap::new();
        let mut wanted = numbers.into_iter().peekable();
        if wanted.peek().is_some() {
            for (index, range) in scan::lines_of(bytes, scan::body_start(bytes)).enumerate() {
                if wanted.peek() == Some(&(index + 1)) {
                    wanted.next();
                    let original = scan::chomp(&bytes[range.clone()]).to_vec();
                    let work = LineWork {
                        number: index + 1,
                        range,
                        text: Some(original.clone()),
                        original,
                        below: Vec::new(),
                    };
                    works.insert(index + 1, work);
                } else if wanted.peek().is_none() {
                    break;
                }
            }
        }
        LineWorks { works }
    }

    pub(super) fn into_works(self) -> impl Iterator<Item = LineWork> {
        self.works.into_values()
    }

    /// The line, if it is still the one that the edit refers to.
    pub(super) fn named(&mut self, line: &LineRef) -> Result<&mut LineWork, Error> {
        self.works
            .get_mut(&line.number())
            .filter(|work| work.original == line.text)
            .ok_or(Error::LineChanged { line: line.number() })
    }
}

impl LineWork {
    pub(super) fn remove(&mut self) {
        self.text = None;
    }

    pub(super) fn replace(&mut self, entry: &Entry, options: &Options) {
        let names = entry.names.iter().map(HostName::as_str);
        let mut lines = options.layout.lines(entry, names, BLOCK_STYLE).into_iter();
        self.text = lines.next().map(String::into_bytes);
        self.below = lines.collect();
    }

    pub(super) fn add_names(&mut self, names: &[HostName], options: &Options) -> Result<(), Error> {
        let number = self.number;
        let entry = self.entry()?;
        let mut count = entry.names.len();
        let place = Entry {
            address: entry.address,
            zone: entry.zone.and_then(|z| Zone::new(z).ok()),
            names: Vec::new(),
            comment: std::str::from_utf8(entry.comment)
                .ok()
                .and_then(|c| Comment::new(c).ok()),
        };
        let missing: Vec<HostName> = names.iter().filter(|n| !entry.has(n.as_str())).cloned().collect();
        let Some(text) = &mut self.text else {
            return Err(Error::NotAnEntry { line: number });
        };
        let mut missing = missing.iter().peekable();
        let mut at = names_end(text);
        while let Some(name) = missing.peek() {
            let added = name.as_str().len() + 1;
            if count >= options.layout.max_names() || text.len() + added > MAX_TEXT {
                break;
            }
            text.splice(at..at, [b" ", name.as_str().as_bytes()].concat());
            at += added;
            count += 1;
            missing.next();
        }
        let below = options
            .layout
            .lines(&place, missing.map(HostName::as_str), BLOCK_STYLE);
        self.below.extend(below);
        Ok(())
    }

    pub(super) fn remove_names(&mut self, names: &[String]) -> Result<(), Error> {
        let left = self
            .entry()?
            .names
            .iter()
            .filter(|n| !names.iter().any(|r| r.eq_ignore_ascii_case(n)))
            .count();
        if left == 0 {
            self.text = None;
            return Ok(());
        }
        let Some(text) = &mut self.text else { return Ok(()) };
        let end = names_end(text);
        let mut kept = Vec::with_capacity(text.len());
        let mut at = 0;
        let mut words = 0;
        // A word is removed with the blanks in front of it; the first word is the address.
        while at < end {
            let start = at + text[at..end].iter().take_while(|b| scan::is_blank(**b)).count();
            let stop = start
                + text[start..end]
                    .iter()
                    .take_while(|b| !scan::is_blank(**b))
                    .count();
            let word = &text[start..stop];
            if words == 0 || !names.iter().any(|n| n.as_bytes().eq_ignore_ascii_case(word)) {
                kept.extend_from_slice(&text[at..stop]);
            }
            words += 1;
            at = stop;
        }
        kept.extend_from_slice(&text[end..]);
        *text = kept;
        Ok(())
    }

    /// The new text for the whole range.
    pub(super) fn render(&self, bytes: &[u8], eol: &str) -> Vec<u8> {
        let ending = &bytes[self.range.start + self.original.len()..self.range.end];
        let separator = if ending.is_empty() { eol.as_bytes() } else { ending };
        let lines = self
            .text
            .iter()
            .map(Vec::as_slice)
            .chain(self.below.iter().map(String::as_bytes));
        let mut text = lines.collect::<Vec<_>>().join(separator);
        if self.text.is_some() || !self.below.is_empty() {
            text.extend_from_slice(ending);
        }
        text
    }

    fn entry(&self) -> Result<EntryLine<'_>, Error> {
        let not = Error::NotAnEntry { line: self.number };
        let Some(text) = &self.text else { return Err(not) };
        match line::read(self.number, text) {
            LineKind::Entry(entry) => Ok(entry),
            _ => Err(not),
        }
    }
}

/// The end of the last name; blanks and the comment follow.
fn names_end(text: &[u8]) -> usize {
    let words = memchr::memchr(b'#', text).unwrap_or(text.len());
    scan::trim_end(&text[..words]).len()
}

fn named_line(edit: &Edit) -> Option<&LineRef> {
    match edit {
        Edit::AddNames { line, .. }
        | Edit::RemoveNames { line, .. }
        | Edit::ReplaceLine { line, .. }
        | Edit::RemoveLine(line) => Some(line),
        _ => None,
    }
}

/// 510 bytes, minus the longest line end.
const MAX_TEXT: usize = 508;
