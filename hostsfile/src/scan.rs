//! Finds line ends, marker lines and blocks in the bytes, without reading every line.

use std::collections::HashMap;
use std::ops::Range;

use crate::error::{Damage, Error};
use crate::name::{Owner, Tag, is_attribute_value, is_tag};

/// The UTF-8 byte order mark that some editors put at the start.
pub(crate) const BOM: &[u8] = b"\xEF\xBB\xBF";

/// How lines end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LineEnding {
    /// `\n`
    Lf,
    /// `\r\n`
    CrLf,
}

impl LineEnding {
    /// The bytes.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            LineEnding::Lf => "\n",
            LineEnding::CrLf => "\r\n",
        }
    }
}

/// Where the first line's text begins: after a byte order mark, if there is one.
pub(crate) fn body_start(bytes: &[u8]) -> usize {
    if bytes.starts_with(BOM) { BOM.len() } else { 0 }
}

/// The number, counted from 1, of the line that contains this offset.
pub(crate) fn line_number(bytes: &[u8], offset: usize) -> usize {
    memchr::memchr_iter(b'\n', &bytes[..offset.min(bytes.len())]).count() + 1
}

/// The text of a line without trailing blanks and line end.
pub(crate) fn trim_end(line: &[u8]) -> &[u8] {
    let end = line
        .iter()
        .rposition(|b| !is_blank(*b) && *b != b'\n')
        .map_or(0, |at| at + 1);
    &line[..end]
}

/// The text of a line without its line end. A CR by itself does not end a line.
pub(crate) fn chomp(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r\n")
        .or_else(|| line.strip_suffix(b"\n"))
        .unwrap_or(line)
}

/// What separates words: blank, tab, and the rarer characters of isspace(3), which both glibc and musl use.
pub(crate) fn is_blank(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\r' | 0x0b | 0x0c)
}

/// The ranges of the lines of a text, each with its line end.
pub(crate) fn lines_of(bytes: &[u8], from: usize) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut start = from;
    std::iter::from_fn(move || {
        if start >= bytes.len() {
            return None;
        }
        let end = memchr::memchr(b'\n', &bytes[start..]).map_or(bytes.len(), |at| start + at + 1);
        let line = start..end;
        start = end;
        Some(line)
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MarkerKind {
    Begin,
    End,
}

/// A complete line `# BEGIN <tag> [key=value ...]` or `# END <tag>`.
#[derive(Debug, Clone)]
pub(crate) struct MarkerLine<'a> {
    pub(crate) kind: MarkerKind,
    pub(crate) tag: &'a str,
    /// The range of the line, with its line end.
    pub(crate) range: Range<usize>,
    pub(crate) attributes: Attributes<'a>,
}

impl MarkerLine<'_> {
    pub(crate) fn owner(&self) -> Option<Owner> {
        self.attributes.owner()
    }
}

/// The attributes that may follow the tag of a BEGIN.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attributes<'a> {
    /// `eol=0`: the text before the block had no final line end, so the line end in front of the block belongs to the block.
    pub(crate) no_eol: bool,
    /// `off=1`: every line of the block was commented out, including those that were comments already.
    pub(crate) off: bool,
    pub(crate) owner: Option<&'a str>,
    /// Attributes that this version does not know, kept as they are.
    pub(crate) other: Vec<&'a str>,
}

impl Attributes<'_> {
    fn owner(&self) -> Option<Owner> {
        self.owner.and_then(|owner| Owner::new(owner).ok())
    }
}

/// Reads a line as a marker. `text` has no byte order mark; trailing blanks and CR are ignored, leading blanks are not.
pub(crate) fn marker(text: &[u8]) -> Option<(MarkerKind, &str, Attributes<'_>)> {
    let text = trim_end(text);
    let mut attributes = Attributes::default();
    if let Some(tag) = text.strip_prefix(END) {
        return is_tag(tag).then(|| {
            std::str::from_utf8(tag)
                .ok()
                .map(|tag| (MarkerKind::End, tag, attributes))
        })?;
    }
    let rest = std::str::from_utf8(text.strip_prefix(BEGIN)?).ok()?;
    let (tag, rest) = rest.split_once([' ', '\t']).unwrap_or((rest, ""));
    if !is_tag(tag.as_bytes()) {
        return None;
    }
    for word in rest.split([' ', '\t']).filter(|w| !w.is_empty()) {
        let (key, value) = word.split_once('=')?;
        if key.is_empty()
            || !key.bytes().all(|b| b.is_ascii_lowercase())
            || !is_attribute_value(value.as_bytes())
        {
            return None;
        }
        match (key, value) {
            ("eol", "0") => attributes.no_eol = true,
            ("off", "1") => attributes.off = true,
            ("owner", owner) => attributes.owner = Some(owner),
            _ => attributes.other.push(word),
        }
    }
    Some((MarkerKind::Begin, tag, attributes))
}

/// All marker lines of a text, in order. They are found by searching for their first words.
#[derive(Debug)]
pub(crate) struct Markers<'a> {
    bytes: &'a [u8],
    pub(crate) lines: Vec<MarkerLine<'a>>,
    by_tag: HashMap<&'a str, Vec<usize>>,
    /// How many lines end with CRLF.
    crlf: usize,
}

impl<'a> Markers<'a> {
    /// Finds them in one pass over the bytes, which stops only at `#` and CR.
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        let first = body_start(bytes);
        let mut lines = Vec::new();
        let mut by_tag: HashMap<&str, Vec<usize>> = HashMap::new();
        let mut crlf = 0;
        for start in memchr::memchr2_iter(b'#', b'\r', bytes) {
            if bytes[start] == b'\r' {
                crlf += usize::from(bytes.get(start + 1) == Some(&b'\n'));
                continue;
            }
            let text = &bytes[start..];
            let starts_line = start == first || (start > 0 && bytes[start - 1] == b'\n');
            if !starts_line || !(text.starts_with(BEGIN) || text.starts_with(END)) {
                continue;
            }
            let end = memchr::memchr(b'\n', text).map_or(bytes.len(), |at| start + at + 1);
            if let Some((kind, tag, attributes)) = marker(&bytes[start..end]) {
                by_tag.entry(tag).or_default().push(lines.len());
                lines.push(MarkerLine {
                    kind,
                    tag,
                    range: start..end,
                    attributes,
                });
            }
        }
        Markers {
            bytes,
            lines,
            by_tag,
            crlf,
        }
    }

    /// How most lines end; `None` if no line has a line end.
    pub(crate) fn line_ending(&self) -> Option<LineEnding> {
        if self.crlf == 0 {
            return memchr::memchr(b'\n', self.bytes).map(|_| LineEnding::Lf);
        }
        let lines = memchr::memchr_iter(b'\n', self.bytes).count();
        Some(if self.crlf * 2 > lines {
            LineEnding::CrLf
        } else {
            LineEnding::Lf
        })
    }

    /// The tags, in the order of their first markers.
    pub(crate) fn tags(&self) -> Vec<&'a str> {
        let mut tags: Vec<(usize, &str)> = self.by_tag.iter().map(|(tag, at)| (at[0], *tag)).collect();
        tags.sort_unstable();
        tags.into_iter().map(|(_, tag)| tag).collect()
    }

    /// The indices of a tag's markers.
    pub(crate) fn of_tag(&self, tag: &str) -> &[usize] {
        self.by_tag.get(tag).map_or(&[], Vec::as_slice)
    }

    /// The only complete block of a tag, or what is wrong with it.
    pub(crate) fn locate(&self, tag: &str) -> Result<Option<Span<'a>>, Damage> {
        let at = self.of_tag(tag);
        let kinds: Vec<MarkerKind> = at.iter().map(|&i| self.lines[i].kind).collect();
        match kinds.as_slice() {
            [] => Ok(None),
            [MarkerKind::Begin, MarkerKind::End] => Ok(Some(self.span(at[0], at[1]))),
            [MarkerKind::End, ..] => Err(Damage::BeginMissing),
            [MarkerKind::Begin] => Err(Damage::EndMissing),
            [MarkerKind::Begin, MarkerKind::Begin, ..] => Err(Damage::Nested),
            [MarkerKind::Begin, MarkerKind::End, rest @ ..] => Err(
                if rest.len().is_multiple_of(2) && rest.first() == Some(&MarkerKind::Begin) {
                    Damage::Doubled
                } else if rest.first() == Some(&MarkerKind::End) {
                    Damage::BeginMissing
                } else {
                    Damage::EndMissing
                },
            ),
        }
    }

    /// Like `locate`, with the error that callers see.
    pub(crate) fn locate_checked(&self, tag: &Tag) -> Result<Option<Span<'a>>, Error> {
        self.locate(tag.as_str()).map_err(|damage| Error::DamagedBlock {
            tag: tag.clone(),
            damage,
            lines: self
                .of_tag(tag.as_str())
                .iter()
                .map(|&i| line_number(self.bytes, self.lines[i].range.start))
                .collect(),
        })
    }

    /// All complete blocks, in the order in which they begin.
    pub(crate) fn spans(&self) -> Vec<Span<'a>> {
        let mut spans: Vec<_> = self
            .by_tag
            .keys()
            .filter_map(|tag| self.locate(tag).ok().flatten())
            .collect();
        spans.sort_unstable_by_key(|s| s.range.start);
        spans
    }

    /// The line end in front of a BEGIN that begins at an offset, if `eol=0` says that it belongs to the block.
    pub(crate) fn separator_of_begin(&self, at: usize) -> Option<Range<usize>> {
        let found = self.lines.binary_search_by_key(&at, |line| line.range.start);
        let line = &self.lines[found.ok()?];
        let ending = line_ending_of(&self.bytes[line.range.clone()]);
        let owns = line.kind == MarkerKind::Begin && line.attributes.no_eol;
        separator_before(self.bytes, at, ending).filter(|_| owns)
    }

    /// The BEGINs of a tag.
    pub(crate) fn begins(&self, tag: &str) -> impl Iterator<Item = &MarkerLine<'a>> {
        let lines = self.of_tag(tag).iter().map(|&at| &self.lines[at]);
        lines.filter(|line| line.kind == MarkerKind::Begin)
    }

    /// The block between two markers, with the parts of it that belong to others: marker lines of other tags, and if such a tag's
    /// block is closed anywhere, all lines from its BEGIN to its END or to the end of this block.
    pub(crate) fn span(&self, begin: usize, end: usize) -> Span<'a> {
        let body = self.lines[begin].range.end..self.lines[end].range.start;
        let mut foreign = Vec::new();
        let mut at = begin + 1;
        while at < end {
            let line = &self.lines[at];
            let of_tag = self.of_tag(line.tag);
            let closing = match line.kind {
                MarkerKind::End => None,
                MarkerKind::Begin => {
                    let here = of_tag.partition_point(|&i| i <= at);
                    of_tag
                        .get(here)
                        .copied()
                        .filter(|&i| self.lines[i].kind == MarkerKind::End)
                }
            };
            match closing {
                Some(closing) if closing < end => {
                    foreign.push(line.range.start..self.lines[closing].range.end);
                    at = closing + 1;
                }
                Some(_) => {
                    foreign.push(line.range.start..body.end);
                    at = end;
                }
                None => {
                    foreign.push(line.range.clone());
                    at += 1;
                }
            }
        }
        Span {
            tag: self.lines[begin].tag,
            range: self.lines[begin].range.start..self.lines[end].range.end,
            begin: self.lines[begin].range.clone(),
            body,
            attributes: self.lines[begin].attributes.clone(),
            foreign,
        }
    }
}

/// A complete block.
#[derive(Debug, Clone)]
pub(crate) struct Span<'a> {
    pub(crate) tag: &'a str,
    /// From the first byte of BEGIN to the end of END's line end.
    pub(crate) range: Range<usize>,
    pub(crate) begin: Range<usize>,
    pub(crate) body: Range<usize>,
    pub(crate) attributes: Attributes<'a>,
    /// The parts of the body that are other blocks or their marker lines.
    pub(crate) foreign: Vec<Range<usize>>,
}

impl<'a> Span<'a> {
    pub(crate) fn owner(&self) -> Option<Owner> {
        self.attributes.owner()
    }

    /// The block's own lines.
    pub(crate) fn own_lines(&self, bytes: &'a [u8]) -> Vec<Range<usize>> {
        let mut foreign = self.foreign.iter().peekable();
        lines_of(&bytes[..self.body.end], self.body.start)
            .filter(|line| {
                while foreign.peek().is_some_and(|f| f.end <= line.start) {
                    foreign.next();
                }
                foreign.peek().is_none_or(|f| line.start < f.start)
            })
            .collect()
    }

    /// How the block's own lines end, judged by its BEGIN.
    pub(crate) fn line_ending(&self, bytes: &[u8]) -> LineEnding {
        line_ending_of(&bytes[self.begin.clone()])
    }

    /// The line end in front of the block, if `eol=0` says that it belongs to the block and it is still there.
    pub(crate) fn separator(&self, bytes: &[u8]) -> Option<Range<usize>> {
        if !self.attributes.no_eol {
            return None;
        }
        separator_before(bytes, self.range.start, self.line_ending(bytes))
    }
}

pub(crate) fn line_ending_of(line: &[u8]) -> LineEnding {
    if line.ends_with(b"\r\n") {
        LineEnding::CrLf
    } else {
        LineEnding::Lf
    }
}

/// The line end directly before an offset.
pub(crate) fn separator_before(bytes: &[u8], at: usize, ending: LineEnding) -> Option<Range<usize>> {
    bytes[..at]
        .ends_with(ending.as_str().as_bytes())
        .then(|| at - ending.as_str().len()..at)
}

pub(crate) const BEGIN: &[u8] = b"# BEGIN ";
pub(crate) const END: &[u8] = b"# END ";
