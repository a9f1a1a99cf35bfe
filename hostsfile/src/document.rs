//! A hosts file as bytes, and the questions it can answer.

mod neighbours;
mod own_lines;
mod strays;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::ops::Range;
use std::sync::OnceLock;

use crate::cidr::Cidr;
use crate::edit::{Edit, Options};
use crate::error::{Damage, Error};
use crate::line::{self, EntryLine, Line, LineKind};
use crate::lint::{self, Diagnostic, LintOptions, Resolved, Resolver};
use crate::name::{Owner, Tag};
use crate::plan::{Plan, plan};
use crate::scan::{self, Markers, Span};

pub use neighbours::{Held, Neighbour, Setting};
pub use strays::Stray;

/// A hosts file in memory: its bytes, unchanged, and views of them.
///
/// Any bytes are a document; parsing never fails. What is not an entry is kept as it is.
/// ```
/// use hostsfile::Document;
/// let doc = Document::parse("127.0.0.1 localhost\n::1 localhost\n10.0.0.1\tDB.example db # the database\n");
/// assert_eq!(doc.lookup("db.EXAMPLE"), ["10.0.0.1".parse::<std::net::IpAddr>()?]);
/// assert_eq!(doc.lookup("localhost").len(), 2);
/// assert_eq!(doc.names_at("10.0.0.1".parse()?), ["DB.example", "db"]);
/// assert_eq!(doc.within(&"10.0.0.0/8".parse()?).len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Document {
    bytes: Vec<u8>,
    /// Built by the first lookup.
    by_name: OnceLock<NameIndex>,
}

/// For each name of each entry its hash, and the offset and number of its line; sorted. A lookup reads the lines again, so a
/// hash collision does no harm.
type NameIndex = Vec<(u64, usize, usize)>;

impl Document {
    /// Takes any bytes as a document.
    #[must_use]
    pub fn parse(bytes: impl Into<Vec<u8>>) -> Self {
        Document {
            bytes: bytes.into(),
            by_name: OnceLock::new(),
        }
    }

    /// The document's bytes, which are those that were parsed.
    #[must_use]
    pub fn render(&self) -> &[u8] {
        &self.bytes
    }

    /// The document's bytes, without copying.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Whether there are no bytes at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// All lines, in order, each parsed when it is reached.
    pub fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        let first = scan::body_start(&self.bytes);
        // A file that contains only a byte order mark has one empty line.
        let bom_only = (first > 0 && first == self.bytes.len()).then_some(first..first);
        bom_only
            .into_iter()
            .chain(scan::lines_of(&self.bytes, first))
            .enumerate()
            .map(|(index, span)| self.read_line(index + 1, span))
    }

    /// The line with this number, counted from 1.
    #[must_use]
    pub fn line(&self, number: usize) -> Option<Line<'_>> {
        let first = scan::body_start(&self.bytes);
        let span = scan::lines_of(&self.bytes, first).nth(number.checked_sub(1)?)?;
        Some(self.read_line(number, span))
    }

    /// How most lines end; `None` if no line has a line end.
    #[must_use]
    pub fn line_ending(&self) -> Option<scan::LineEnding> {
        Markers::of(&self.bytes).line_ending()
    }

    /// The entries that resolvers see, in order: the user's own and those in enabled blocks.
    pub fn entries(&self) -> impl Iterator<Item = EntryLine<'_>> {
        self.lines().filter_map(|line| match line.kind {
            LineKind::Entry(entry) => Some(entry),
            _ => None,
        })
    }

    /// The entries on lines outside all blocks.
    #[must_use]
    pub fn user_entries(&self) -> Vec<EntryLine<'_>> {
        self.user_lines().into_iter().map(|(_, entry)| entry).collect()
    }

    /// The addresses of a name, in file order and each once. Case and a trailing dot in the name are ignored.
    #[must_use]
    pub fn lookup(&self, name: &str) -> Vec<IpAddr> {
        let mut addresses = Vec::new();
        for entry in self.lines_with_name(name) {
            if !addresses.contains(&entry.address) {
                addresses.push(entry.address);
            }
        }
        addresses
    }

    /// The first IPv4 address of a name.
    #[must_use]
    pub fn lookup_v4(&self, name: &str) -> Option<std::net::Ipv4Addr> {
        self.lookup(name)
            .into_iter()
            .find_map(|a| if let IpAddr::V4(a) = a { Some(a) } else { None })
    }

    /// The first IPv6 address of a name.
    #[must_use]
    pub fn lookup_v6(&self, name: &str) -> Option<std::net::Ipv6Addr> {
        self.lookup(name)
            .into_iter()
            .find_map(|a| if let IpAddr::V6(a) = a { Some(a) } else { None })
    }

    /// The entries with a name, compared case-insensitively, in file order. The first call builds an index that the others use.
    #[must_use]
    pub fn lines_with_name(&self, name: &str) -> Vec<EntryLine<'_>> {
        let name = undotted(name);
        let index = self.by_name.get_or_init(|| self.index());
        let hash = hash(name);
        let from = index.partition_point(|(h, ..)| *h < hash);
        index[from..]
            .iter()
            .take_while(|(h, ..)| *h == hash)
            .filter_map(|&(_, start, number)| self.entry_at(start, number))
            .filter(|entry| entry.names.iter().any(|n| undotted(n).eq_ignore_ascii_case(name)))
            .collect()
    }

    /// The names of an address, in file order and each once, compared case-insensitively. The first is canonical.
    #[must_use]
    pub fn names_at(&self, address: IpAddr) -> Vec<&str> {
        distinct(self.entries().filter(|e| e.address == address))
    }

    /// The entries whose address is in a network.
    #[must_use]
    pub fn within(&self, network: &Cidr) -> Vec<EntryLine<'_>> {
        self.entries().filter(|e| network.contains(e.address)).collect()
    }

    /// The names that contain a text, compared case-insensitively, each with its address.
    #[must_use]
    pub fn names_containing(&self, part: &str) -> Vec<(&str, IpAddr)> {
        let part = part.to_ascii_lowercase();
        let mut found = Vec::new();
        for entry in self.entries() {
            found.extend(
                entry
                    .names
                    .iter()
                    .filter(|n| n.to_ascii_lowercase().contains(&part))
                    .map(|n| (*n, entry.address)),
            );
        }
        found
    }

    /// The names of the entries whose whole comment is this text; an empty text means the entries without a comment.
    #[must_use]
    pub fn names_with_comment(&self, comment: &str) -> Vec<&str> {
        let comment = comment.trim();
        distinct(self.entries().filter(|e| e.comment == comment.as_bytes()))
    }

    /// The complete blocks, in order.
    #[must_use]
    pub fn blocks(&self) -> Vec<BlockView<'_>> {
        Markers::of(&self.bytes)
            .spans()
            .into_iter()
            .map(|span| self.view(&span))
            .collect()
    }

    /// The complete block of a tag; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::DamagedBlock`] if the tag's markers do not form one complete block.
    pub fn block(&self, tag: &Tag) -> Result<Option<BlockView<'_>>, Error> {
        Ok(Markers::of(&self.bytes)
            .locate_checked(tag)?
            .map(|span| self.view(&span)))
    }

    /// The tags whose markers do not form exactly one complete block, with what is wrong and the lines of the markers.
    #[must_use]
    pub fn damage(&self) -> Vec<(Tag, Damage, Vec<usize>)> {
        let markers = Markers::of(&self.bytes);
        let mut found = Vec::new();
        for tag in markers.tags() {
            let Ok(tag) = Tag::new(tag) else { continue };
            if let Err(Error::DamagedBlock { tag, damage, lines }) = markers.locate_checked(&tag) {
                found.push((tag, damage, lines));
            }
        }
        found
    }

    /// The names that more than one line gives the same address, with those lines, counted from 1.
    #[must_use]
    pub fn duplicates(&self) -> Vec<(String, IpAddr, Vec<usize>)> {
        let mut places: HashMap<(String, IpAddr), Vec<usize>> = HashMap::new();
        for entry in self.entries() {
            for name in &entry.names {
                places
                    .entry((name.to_ascii_lowercase(), entry.address))
                    .or_default()
                    .push(entry.line);
            }
        }
        let mut found: Vec<_> = places
            .into_iter()
            .filter(|(_, lines)| lines.len() > 1)
            .map(|((name, address), lines)| (name, address, lines))
            .collect();
        found.sort_by(|a, b| a.2.cmp(&b.2).then_with(|| a.0.cmp(&b.0)));
        found
    }

    /// What a resolver will not see in this file, or will read differently than one would expect, with line numbers.
    #[must_use]
    pub fn lint(&self, resolver: Resolver) -> Vec<Diagnostic> {
        self.lint_with(resolver, &LintOptions::new())
    }

    /// [`lint`](Self::lint) for a resolver that is set up as the options say.
    #[must_use]
    pub fn lint_with(&self, resolver: Resolver, options: &LintOptions) -> Vec<Diagnostic> {
        lint::lint(self, resolver, options)
    }

    /// What glibc or musl answers from this file when a name is looked up; `None` for the other resolvers, whose answers are not
    /// known as exactly. Unlike [`lookup`](Self::lookup), which reads what all resolvers agree on, this has each one's own ways.
    ///
    /// ```
    /// use hostsfile::{Document, LintOptions, Resolver};
    /// let doc = Document::parse("::1 h\n127.0.1.1 h\n127.1 short\n");
    /// let v4 = |resolver, name| Some(doc.resolved_by(resolver, &LintOptions::new(), name)?.v4);
    /// assert_eq!(v4(Resolver::Glibc, "h"), Some(vec!["127.0.0.1".parse()?, "127.0.1.1".parse()?]));
    /// assert_eq!(v4(Resolver::Musl, "h"), Some(vec!["127.0.1.1".parse()?]));
    /// assert_eq!(v4(Resolver::Glibc, "short"), Some(vec![]));
    /// assert_eq!(v4(Resolver::Musl, "short"), Some(vec!["127.0.0.1".parse()?]));
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    #[must_use]
    pub fn resolved_by(
        &self,
        resolver: Resolver,
        options: &LintOptions,
        name: impl AsRef<[u8]>,
    ) -> Option<Resolved> {
        lint::resolved_by(self, resolver, options, name.as_ref())
    }

    /// Plans edits of this document; see [`plan`].
    ///
    /// # Errors
    /// Those of [`plan`].
    pub fn plan(&self, edits: &[Edit], options: &Options) -> Result<Plan<'_>, Error> {
        plan(&self.bytes, edits, options)
    }

    /// The document with the edits applied.
    ///
    /// # Errors
    /// Those of [`plan`].
    pub fn edited(&self, edits: &[Edit], options: &Options) -> Result<Document, Error> {
        Ok(Document::parse(self.plan(edits, options)?.new_bytes()))
    }

    /// The lines outside all blocks that have an entry.
    pub(crate) fn user_lines(&self) -> Vec<(Line<'_>, EntryLine<'_>)> {
        let blocks = Inside::new(Markers::of(&self.bytes).spans().into_iter().map(|s| s.range));
        let mut blocks = blocks.walk();
        self.lines()
            .filter_map(|line| match &line.kind {
                LineKind::Entry(entry) if !blocks.holds(line.span.start) => {
                    let entry = entry.clone();
                    Some((line, entry))
                }
                _ => None,
            })
            .collect()
    }

    fn read_line(&self, number: usize, span: Range<usize>) -> Line<'_> {
        let bytes = &self.bytes[span.clone()];
        Line {
            number,
            kind: line::read(number, bytes),
            span,
            bytes,
        }
    }

    fn entry_at(&self, start: usize, number: usize) -> Option<EntryLine<'_>> {
        let span = scan::lines_of(&self.bytes, start).next()?;
        match line::read(number, &self.bytes[span]) {
            LineKind::Entry(entry) => Some(entry),
            _ => None,
        }
    }

    fn index(&self) -> NameIndex {
        let mut index = NameIndex::new();
        for line in self.lines() {
            if let LineKind::Entry(entry) = line.kind {
                index.extend(
                    entry
                        .names
                        .iter()
                        .map(|name| (hash(undotted(name)), line.span.start, line.number)),
                );
            }
        }
        index.sort_unstable();
        // A line with the same name twice counts once.
        index.dedup();
        index
    }

    fn view<'s>(&'s self, span: &Span<'s>) -> BlockView<'s> {
        let first = scan::line_number(&self.bytes, span.range.start);
        let body_first = first + 1;
        let mut entries = Vec::new();
        let mut disabled = Vec::new();
        let mut number = body_first;
        let mut at = span.body.start;
        for range in span.own_lines(&self.bytes) {
            number += memchr::memchr_iter(b'\n', &self.bytes[at..range.start]).count();
            at = range.start;
            match line::read(number, &self.bytes[range]) {
                LineKind::Entry(entry) => entries.push(entry),
                LineKind::Disabled(entry) => disabled.push(entry),
                _ => {}
            }
        }
        let last =
            first + memchr::memchr_iter(b'\n', &self.bytes[span.range.start..span.range.end - 1]).count();
        BlockView {
            tag: span.tag,
            owner: span.owner(),
            lines: first..last + 1,
            enabled: !span.attributes.off && (!entries.is_empty() || disabled.is_empty()),
            entries,
            disabled,
        }
    }
}

impl PartialEq for Document {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Document {}

/// A complete block in a document.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BlockView<'a> {
    /// Its tag.
    pub tag: &'a str,
    /// Its owner, if its BEGIN names one.
    pub owner: Option<Owner>,
    /// The numbers of its lines, from BEGIN to END, counted from 1.
    pub lines: Range<usize>,
    /// False if all its entries are commented out.
    pub enabled: bool,
    /// Its entries that resolvers see.
    pub entries: Vec<EntryLine<'a>>,
    /// Its entries that are commented out.
    pub disabled: Vec<EntryLine<'a>>,
}

impl BlockView<'_> {
    /// The names of the block's entries, commented out or not, in order and each once.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        distinct(self.entries.iter().chain(&self.disabled).cloned())
    }
}

fn undotted(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

/// FNV-1a of the lower-case name.
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, b| {
        (hash ^ u64::from(b.to_ascii_lowercase())).wrapping_mul(0x0100_0000_01b3)
    })
}

fn distinct<'a>(entries: impl Iterator<Item = EntryLine<'a>>) -> Vec<&'a str> {
    let mut seen = HashSet::new();
    let mut names = Vec::new();
    for entry in entries {
        for name in entry.names {
            if seen.insert(name.to_ascii_lowercase()) {
                names.push(name);
            }
        }
    }
    names
}

/// Tells whether offsets are in any of a list of ranges; the offsets must come in ascending order.
pub(crate) struct Inside(Vec<Range<usize>>);

impl Inside {
    /// The ranges must be sorted by their starts; they may overlap.
    pub(crate) fn new(ranges: impl Iterator<Item = Range<usize>>) -> Self {
        let mut joined: Vec<Range<usize>> = Vec::new();
        for range in ranges {
            match joined.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => joined.push(range),
            }
        }
        Inside(joined)
    }

    pub(crate) fn walk(&self) -> InsideWalk<'_> {
        InsideWalk { ranges: &self.0 }
    }
}

pub(crate) struct InsideWalk<'r> {
    ranges: &'r [Range<usize>],
}

impl InsideWalk<'_> {
    pub(crate) fn holds(&mut self, offset: usize) -> bool {
        while self.ranges.first().is_some_and(|r| r.end <= offset) {
            self.ranges = &self.ranges[1..];
        }
        self.ranges.first().is_some_and(|r| r.start <= offset)
    }
}
