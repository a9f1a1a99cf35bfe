//! One line of a hosts file, read the way that all resolvers agree on; what only some accept is opaque, with the reason.

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;

use crate::scan::{self, MarkerKind, is_blank};

/// A line of a [`Document`](crate::Document).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Line<'a> {
    /// Counted from 1.
    pub number: usize,
    /// Where it stands in the document, its line end included.
    pub span: Range<usize>,
    /// Its bytes, with the line end and on the first line without a byte order mark.
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

    /// The line as an edit names it: its number and its bytes, so that another line in its place is noticed.
    #[must_use]
    pub fn reference(&self) -> LineRef {
        LineRef {
            number: self.number,
            text: self.text().to_vec(),
        }
    }
}

/// Names a line of the user's for an edit, by its number and its bytes. Comes from [`Line::reference`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LineRef {
    pub(crate) number: usize,
    pub(crate) text: Vec<u8>,
}

impl LineRef {
    /// Names the line with this number, from 1, if it holds this text (without line end).
    #[must_use]
    pub fn new(number: usize, text: impl Into<Vec<u8>>) -> Self {
        LineRef {
            number,
            text: text.into(),
        }
    }

    /// The line's number, from 1.
    #[must_use]
    pub fn number(&self) -> usize {
        self.number
    }
}

/// What a line is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LineKind<'a> {
    /// Nothing but blanks.
    Blank,
    /// A comment; the text behind the `#`, blanks trimmed.
    Comment(&'a [u8]),
    /// An entry behind a comment sign, as in a disabled block: `# 10.0.0.1 name`.
    Disabled(EntryLine<'a>),
    /// An address with names.
    Entry(EntryLine<'a>),
    /// `# BEGIN <tag>`
    Begin(&'a str),
    /// `# END <tag>`
    End(&'a str),
    /// A line that no rule covers, kept as it is.
    Opaque(Oddity),
}

/// Why a line is opaque: no resolver, or not every resolver, takes it for an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Oddity {
    /// The first word is no address.
    NotAnAddress,
    /// A short, octal or hexadecimal address: musl and others read it, glibc does not.
    OddAddress,
    /// An address without a name.
    NoName,
    /// An address, or a word with a colon, stands where a name belongs.
    AddressAsName,
    /// There is a NUL byte.
    Nul,
    /// No name is UTF-8 text.
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
            Oddity::AddressAsName => "an address stands where a name belongs",
            Oddity::Nul => "the line holds a NUL byte",
            Oddity::NotUtf8 => "the names are not UTF-8 text",
        })
    }
}

/// An address with its names, as they stand in a line.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EntryLine<'a> {
    /// The line's number, from 1.
    pub line: usize,
    /// The address.
    pub address: IpAddr,
    /// The interface behind a `%`.
    pub zone: Option<&'a str>,
    /// The names in the case in which they were written; the first one is canonical. Compare without case. Those that
    /// are not UTF-8 are left out.
    pub names: Vec<&'a str>,
    /// What follows the `#`, blanks trimmed; empty if there is nothing.
    pub comment: &'a [u8],
}

impl EntryLine<'_> {
    /// Whether the line has this name, in any case.
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
        Ok(entry) => LineKind::Disabled(entry),
        Err(_) => LineKind::Comment(comment),
    }
}

/// Reads `address name... [# comment]`. The text has no blanks at its ends.
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
        if is_odd_address(word) {
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
        // An IPv6 address has a colon; an IPv4 address begins with a digit.
        if name.contains(':') || (name.as_bytes()[0].is_ascii_digit() && name.parse::<IpAddr>().is_ok()) {
            return Err(Oddity::AddressAsName);
        }
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

/// Whether inet_aton(3) would take the word for an address: up to four decimal, octal or hexadecimal numbers.
fn is_odd_address(word: &str) -> bool {
    word.split('.').count() <= 4
        && word
            .split('.')
            .all(|part| match part.strip_prefix("0x").or(part.strip_prefix("0X")) {
                Some(hex) => hex.bytes().all(|b| b.is_ascii_hexdigit()),
                None => !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()),
            })
}

fn trim(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|b| !is_blank(*b)).unwrap_or(text.len());
    scan::trim_end(&text[start..])
}
