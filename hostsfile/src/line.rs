//! One line of a hosts file, read the way all resolvers agree on. What only some of them accept is opaque, with the reason.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use crate::scan::{self, MarkerKind, is_blank};

/// A line of a [`Document`](crate::Document).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Line<'a> {
    /// Counted from 1.
    pub number: usize,
    /// Its bytes' range in the document, including its line end.
    pub span: Range<usize>,
    /// Its bytes, including the line end, but without a byte order mark on the first line.
    pub bytes: &'a [u8],
    /// What it is.
    pub kind: LineKind<'a>,
}

impl Line<'_> {
    /// The line's bytes without its line end.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        scan::chomp(self.bytes)
    }

    /// A reference to the line for an edit: its number and its bytes, so that a different line in its place is noticed.
    #[must_use]
    pub fn reference(&self) -> LineRef {
        LineRef {
            number: self.number,
            text: self.text().to_vec(),
        }
    }
}

/// Refers to one of the user's lines in an edit, by its number and its bytes. Made by [`Line::reference`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LineRef {
    pub(crate) number: usize,
    pub(crate) text: Vec<u8>,
}

impl LineRef {
    /// Refers to the line with this number, counted from 1, if it has this text (without the line end).
    #[must_use]
    pub fn new(number: usize, text: impl Into<Vec<u8>>) -> Self {
        LineRef {
            number,
            text: text.into(),
        }
    }

    /// The line's number, counted from 1.
    #[must_use]
    pub fn number(&self) -> usize {
        self.number
    }
}

/// What a line is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LineKind<'a> {
    /// Only blanks.
    Blank,
    /// A comment: the text after the `#`, with blanks trimmed.
    Comment(&'a [u8]),
    /// An entry that is commented out, as in a disabled block: `# 10.0.0.1 name`.
    Disabled(EntryLine<'a>),
    /// An address with its names.
    Entry(EntryLine<'a>),
    /// `# BEGIN <tag>`
    Begin(&'a str),
    /// `# END <tag>`
    End(&'a str),
    /// Any other line, kept as it is.
    Opaque(Oddity),
}

/// Why a line is opaque: no resolver, or not every resolver, reads it as an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Oddity {
    /// The first word is not an address.
    NotAnAddress,
    /// The address is in a short, octal or hexadecimal form, which musl and others read and glibc does not.
    OddAddress,
    /// The address has no name.
    NoName,
    /// The line contains a NUL byte.
    Nul,
    /// None of the names is UTF-8 text.
    NotUtf8,
}

impl fmt::Display for Oddity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Oddity::NotAnAddress => "the line does not begin with an address",
            Oddity::OddAddress => {
                "the address is in a short, octal or hexadecimal form, which resolvers read differently"
            }
            Oddity::NoName => "the address has no name",
            Oddity::Nul => "the line contains a NUL byte",
            Oddity::NotUtf8 => "the names are not UTF-8 text",
        })
    }
}

/// An address with its names, as a line has them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EntryLine<'a> {
    /// The line's number, counted from 1.
    pub line: usize,
    /// The address.
    pub address: IpAddr,
    /// The interface after the `%`.
    pub zone: Option<&'a str>,
    /// The names as they are written; the first is canonical. Compare them case-insensitively. Names that are not UTF-8 are left
    /// out.
    pub names: Vec<&'a str>,
    /// The text after the `#`, with blanks trimmed; empty if there is none.
    pub comment: &'a [u8],
}

impl EntryLine<'_> {
    /// Whether the line has this name, compared case-insensitively.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.names.iter().any(|n| n.eq_ignore_ascii_case(name))
    }
}

/// Reads the bytes of one line.
pub(crate) fn read(number: usize, bytes: &[u8]) -> LineKind<'_> {
    let text = scan::trim_end(bytes);
    let Some(first) = text.iter().position(|b| !is_blank(*b)) else {
        return LineKind::Blank;
    };
    if text[first] != b'#' {
        return match entry(number, &text[first..]) {
            Ok(entry) => LineKind::Entry(entry),
            Err(oddity) => LineKind::Opaque(oddity),
        };
    }
    match scan::marker(text) {
        Some((MarkerKind::Begin, tag, _)) => return LineKind::Begin(tag),
        Some((MarkerKind::End, tag, _)) => return LineKind::End(tag),
        None => {}
    }
    let comment = trim(&text[first + 1..]);
    match entry(number, comment) {
        // `# 10.0.0.1 10.0.0.2` and `# 10.0.0.1 http://example` are prose rather than entries.
        Ok(entry)
            if !entry
                .names
                .iter()
                .any(|name| is_address(name) || name.contains(':')) =>
        {
            LineKind::Disabled(entry)
        }
        _ => LineKind::Comment(comment),
    }
}

/// Reads `address name... [# comment]`. The text has no blanks at either end.
pub(crate) fn entry(number: usize, text: &[u8]) -> Result<EntryLine<'_>, Oddity> {
    let (words, comment) = match memchr::memchr(b'#', text) {
        Some(at) => (&text[..at], trim(&text[at + 1..])),
        None => (text, &text[text.len()..]),
    };
    let mut words_left = words.split(|b| is_blank(*b)).filter(|w| !w.is_empty());
    let word = words_left
        .next()
        .and_then(|w| std::str::from_utf8(w).ok())
        .ok_or(Oddity::NotAnAddress)?;
    let (address, zone) = match word.split_once('%') {
        Some((address, zone)) => (address, Some(zone)),
        None => (word, None),
    };
    let address: IpAddr = address.parse().map_err(|_| {
        if inet_aton(word).is_some() {
            Oddity::OddAddress
        } else {
            Oddity::NotAnAddress
        }
    })?;
    if zone.is_some_and(|z| z.is_empty() || address.is_ipv4()) {
        return Err(Oddity::NotAnAddress);
    }
    if memchr::memchr(0, text).is_some() {
        return Err(Oddity::Nul);
    }
    let mut names = Vec::new();
    let mut some = false;
    for word in words_left {
        some = true;
        let Ok(name) = std::str::from_utf8(word) else {
            continue;
        };
        names.push(name);
    }
    match (some, names.is_empty()) {
        (false, _) => Err(Oddity::NoName),
        (true, true) => Err(Oddity::NotUtf8),
        (true, false) => Ok(EntryLine {
            line: number,
            address,
            zone,
            names,
            comment,
        }),
    }
}

/// Whether programs take the word as an address, as getaddrinfo(3) does, and so never look it up as a name.
pub(crate) fn is_address(word: &str) -> bool {
    let v6 = word.split_once('%').map_or(word, |(address, _)| address);
    inet_aton(word).is_some() || v6.parse::<Ipv6Addr>().is_ok()
}

/// Reads an address as inet_aton(3) does: up to four decimal, octal or hexadecimal numbers, the last of which fills what is left.
pub(crate) fn inet_aton(word: &str) -> Option<Ipv4Addr> {
    let mut parts = [0_u32; 4];
    let mut count = 0;
    for part in word.split('.') {
        *parts.get_mut(count)? = number(part)?;
        count += 1;
    }
    let (last, head) = parts[..count].split_last()?;
    let mut address = 0_u32;
    for (shift, part) in [24, 16, 8].into_iter().zip(head) {
        address |= u32::from(u8::try_from(*part).ok()?) << shift;
    }
    let room = u32::MAX >> (8 * head.len());
    (*last <= room).then(|| Ipv4Addr::from_bits(address | *last))
}

/// A number as strtoul(3) reads it with base 0, but without a sign.
fn number(part: &str) -> Option<u32> {
    if !part.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    if let Some(hex) = part.strip_prefix("0x").or(part.strip_prefix("0X")) {
        return u32::from_str_radix(hex, 16).ok();
    }
    let radix = if part.starts_with('0') { 8 } else { 10 };
    u32::from_str_radix(part, radix).ok()
}

fn trim(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|b| !is_blank(*b)).unwrap_or(text.len());
    scan::trim_end(&text[start..])
}
