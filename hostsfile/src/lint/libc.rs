//! What glibc and musl read of a hosts file: a model of `nss_files` (2.36) and of `name_from_hosts` (1.2.3), and the findings that
//! follow from it. `tests/resolvers.rs` compares both with the real ones on generated files.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::rules::Findings;
use super::{Finding, LintOptions, Resolver};
use crate::document::Document;
use crate::line::{self, Line, LineKind, Oddity};
use crate::name::HostName;
use crate::scan::{self, is_blank};

/// What a resolver answers, in the order of the file. getaddrinfo(3) sorts it by RFC 6724 before a program gets it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resolved {
    /// To a lookup of IPv4 addresses.
    pub v4: Vec<Ipv4Addr>,
    /// To a lookup of IPv6 addresses.
    pub v6: Vec<Ipv6Addr>,
    /// To a lookup of both families at once, as most programs do. This is not always the sum of the others.
    pub any: Vec<IpAddr>,
}

/// The addresses that musl returns at most (MAXADDRS).
pub(super) const MUSL_ADDRESSES: usize = 48;
/// The bytes that musl reads at once: `fgets` into `char[512]`.
pub(super) const MUSL_LINE: usize = 511;
/// The longest name that musl looks up.
const MUSL_NAME: usize = 254;

/// See [`Document::resolved_by`].
pub(crate) fn resolved_by(
    document: &Document,
    resolver: Resolver,
    options: &LintOptions,
    name: &[u8],
) -> Option<Resolved> {
    if !matches!(resolver, Resolver::Glibc | Resolver::Musl) {
        return None;
    }
    let mut resolved = Resolved::default();
    if !is_looked_up(resolver, name) {
        return Some(resolved);
    }
    let same = |other: &Cow<'_, [u8]>| match resolver {
        Resolver::Glibc => other.eq_ignore_ascii_case(name),
        _ => **other == *name,
    };
    for record in records(document, resolver) {
        if record.names.iter().any(same) {
            resolved.v4.extend(v4(resolver, record.address));
            resolved.v6.extend(v6(record.address));
            resolved.any.push(record.address);
        }
    }
    let limit = match resolver {
        Resolver::Glibc if options.is_multi() => usize::MAX,
        Resolver::Glibc => 1,
        _ => MUSL_ADDRESSES,
    };
    resolved.v4.truncate(limit);
    resolved.v6.truncate(limit);
    resolved.any.truncate(limit);
    Some(resolved)
}

/// Whether a lookup of the name gets as far as the file.
fn is_looked_up(resolver: Resolver, name: &[u8]) -> bool {
    let is_refused = match resolver {
        // To getaddrinfo(3) of glibc it is no name at all.
        Resolver::Glibc => name == b"*",
        _ => name.len() > MUSL_NAME,
    };
    let is_address = std::str::from_utf8(name).is_ok_and(line::is_address);
    !(name.is_empty() || is_refused || is_address)
}

/// The address that a line gives to a lookup of IPv4 addresses.
pub(super) fn v4(resolver: Resolver, address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(Ipv6Addr::LOCALHOST) if resolver == Resolver::Glibc => Some(Ipv4Addr::LOCALHOST),
        IpAddr::V6(address) if resolver == Resolver::Glibc => address.to_ipv4_mapped(),
        IpAddr::V6(_) => None,
    }
}

pub(super) fn v6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(address),
    }
}

/// What is read as one line.
struct Record<'a> {
    /// The number of the line in the file, counted from 1.
    line: usize,
    address: IpAddr,
    names: Vec<Cow<'a, [u8]>>,
}

/// What the resolver reads, in order.
fn records(document: &Document, resolver: Resolver) -> impl Iterator<Item = Record<'_>> {
    let bytes = document.render();
    let longest = match resolver {
        Resolver::Musl => MUSL_LINE,
        _ => usize::MAX,
    };
    scan::lines_of(bytes, 0)
        .enumerate()
        .flat_map(move |(index, range)| bytes[range].chunks(longest).map(move |part| (index + 1, part)))
        .filter_map(move |(line, part)| record(resolver, line, part))
}

fn record(resolver: Resolver, line: usize, bytes: &[u8]) -> Option<Record<'_>> {
    // The bytes are a C string, so they end at a NUL.
    let text = &bytes[..memchr::memchr(0, bytes).unwrap_or(bytes.len())];
    let text = match resolver {
        Resolver::Musl => Cow::Borrowed(musl_text(text)?),
        _ => glibc_text(text)?,
    };
    match text {
        Cow::Borrowed(text) => {
            let mut words = words(text);
            let address = address(resolver, words.next()?)?;
            let names = words.map(Cow::Borrowed).collect();
            Some(Record { line, address, names })
        }
        Cow::Owned(text) => {
            let mut words = words(&text);
            let address = address(resolver, words.next()?)?;
            let names = words.map(|name| Cow::Owned(name.to_vec())).collect();
            Some(Record { line, address, names })
        }
    }
}

fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|b| is_space(*b)).filter(|word| !word.is_empty())
}

/// What glibc takes as the address and the names.
fn glibc_text(text: &[u8]) -> Option<Cow<'_, [u8]>> {
    let blanks = text.iter().position(|b| !is_space(*b))?;
    match memchr::memchr2(b'#', b'\n', &text[blanks..]) {
        Some(end) => Some(Cow::Borrowed(&text[blanks..blanks + end])),
        None if blanks == 0 => Some(Cow::Borrowed(text)),
        // It moves the text to the front without the NUL after it (`__nss_readline`), so the last bytes are there twice.
        None => Some(Cow::Owned(
            [&text[blanks..], &text[text.len() - blanks..]].concat(),
        )),
    }
}

/// What musl takes as the address and the names: the address is what comes before the first blank, and a name is what has blanks on
/// both sides.
fn musl_text(text: &[u8]) -> Option<&[u8]> {
    if text.first().is_none_or(|b| is_space(*b)) {
        return None;
    }
    // A `#` is replaced by a line end.
    let end = memchr::memchr(b'#', text).or_else(|| text.iter().rposition(|b| is_space(*b)));
    Some(&text[..end?])
}

/// isspace(3) in the C locale.
fn is_space(b: u8) -> bool {
    is_blank(b) || b == b'\n'
}

/// Reads the first word of a line: glibc with inet_pton(3), musl with inet_aton(3) or as an IPv6 address with a zone.
fn address(resolver: Resolver, word: &[u8]) -> Option<IpAddr> {
    let word = std::str::from_utf8(word).ok()?;
    if resolver == Resolver::Glibc {
        return word.parse().ok();
    }
    if let Some(address) = line::inet_aton(word) {
        return Some(address.into());
    }
    let (address, zone) = match word.split_once('%') {
        Some((address, zone)) => (address.parse().ok()?, zone),
        None => (word.parse().ok()?, "0"),
    };
    takes_zone(address, zone).then_some(address.into())
}

/// Whether musl reads an address with this zone: any number, or, where the address is local to a link, the name of an interface,
/// which is assumed to exist.
fn takes_zone(address: Ipv6Addr, zone: &str) -> bool {
    if zone.starts_with(|c: char| c.is_ascii_digit()) && zone.bytes().all(|b| b.is_ascii_digit()) {
        return zone.parse::<u32>().is_ok();
    }
    let scope = address.octets()[1] & 15;
    let link_local = address.is_unicast_link_local() || (address.is_multicast() && scope == 2);
    link_local && !zone.is_empty()
}

/// Checks one line that is neither empty nor a comment.
pub(super) fn check_line(found: &mut Findings, line: &Line<'_>, bom: bool) {
    let resolver = found.resolver;
    let number = Some(line.number);
    let mut add = |finding| found.add(number, finding);
    let text = line.text();
    let words_end = memchr::memchr(b'#', text).unwrap_or(text.len());
    let has_nul = memchr::memchr(0, &text[..words_end]).is_some();
    // Without what makes it unreadable: the blanks in front, a NUL, and the missing line end.
    let mut words = text[..words_end]
        .split(|b| is_space(*b) || *b == 0)
        .filter(|word| !word.is_empty());
    let word = words.next().unwrap_or_default();
    let Some(address) = address(resolver, word) else {
        return add(match line.kind {
            LineKind::Opaque(oddity @ (Oddity::OddAddress | Oddity::NotAnAddress)) => {
                Finding::NotRead { oddity }
            }
            _ => Finding::ZoneIgnored,
        });
    };
    if bom {
        return add(Finding::ByteOrderMark);
    }
    let names: Vec<&[u8]> = words.collect();
    let Some(last) = names.last() else {
        return add(Finding::NotRead {
            oddity: Oddity::NoName,
        });
    };
    if has_nul {
        return add(Finding::Nul);
    }
    if resolver == Resolver::Musl && text.first().is_some_and(|b| is_space(*b)) {
        return add(Finding::LeadingBlank);
    }
    if line.kind == LineKind::Opaque(Oddity::OddAddress) {
        add(Finding::ReadAsAddress { address });
    }
    match address {
        IpAddr::V6(v6) if resolver == Resolver::Glibc && v6.to_ipv4_mapped().is_some() => {
            add(Finding::MappedAddress);
        }
        _ => {}
    }
    // musl loses the last name; glibc adds to it as many bytes as there are blanks in front.
    let is_cut = resolver == Resolver::Musl || text.first().is_some_and(|b| is_space(*b));
    if is_cut && words_end == text.len() && line.bytes.last().is_some_and(|b| !is_space(*b)) {
        let name = String::from_utf8_lossy(last).into_owned();
        add(Finding::NoFinalNewline { name });
    }
    for name in names {
        check_name(found, line.number, &String::from_utf8_lossy(name));
    }
}

fn check_name(found: &mut Findings, line: usize, name: &str) {
    let text = || name.to_owned();
    let undotted = name.strip_suffix('.').unwrap_or(name);
    if found.resolver == Resolver::Musl && name.bytes().any(|b| b.is_ascii_uppercase()) {
        found.add(Some(line), Finding::UpperCase { name: text() });
    }
    if line::is_address(name) {
        return found.add(Some(line), Finding::AddressAsName { name: text() });
    }
    if undotted.len() < name.len() {
        found.add(Some(line), Finding::TrailingDot { name: text() });
    }
    if HostName::with_underscore(undotted).is_err() {
        found.add(Some(line), Finding::OddName { name: text() });
    }
}

/// Checks what can be told only from the whole file: the addresses of each name.
pub(super) fn check_names(found: &mut Findings, document: &Document, options: &LintOptions) {
    let resolver = found.resolver;
    let mut by_name: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut lists: Vec<(String, Vec<(IpAddr, usize)>)> = Vec::new();
    for record in records(document, resolver) {
        for (at, name) in record.names.into_iter().enumerate() {
            let mut name = name.into_owned();
            if resolver == Resolver::Glibc {
                name.make_ascii_lowercase();
            }
            let list = match by_name.get(&name) {
                Some(list) => *list,
                None => {
                    lists.push((String::from_utf8_lossy(&name).into_owned(), Vec::new()));
                    by_name.insert(name, lists.len() - 1);
                    lists.len() - 1
                }
            };
            let list = &mut lists[list].1;
            // A line with the same name twice answers once.
            let again = at > 0 && list.last() == Some(&(record.address, record.line));
            if !again {
                list.push((record.address, record.line));
            }
        }
    }
    for (name, list) in &lists {
        if !is_looked_up(resolver, name.as_bytes()) {
            continue;
        }
        match resolver {
            Resolver::Musl if list.len() > MUSL_ADDRESSES => found.add(
                Some(list[0].1),
                Finding::ManyAddresses {
                    name: name.clone(),
                    addresses: list.len(),
                    limit: MUSL_ADDRESSES,
                },
            ),
            Resolver::Glibc => {
                check_loopback(found, name, list, options);
                if !options.is_multi() {
                    check_first(found, name, list);
                }
            }
            _ => {}
        }
    }
}

/// glibc answers IPv4 lookups with 127.0.0.1 where the file says `::1`. That matters unless the file says the same.
fn check_loopback(found: &mut Findings, name: &str, list: &[(IpAddr, usize)], options: &LintOptions) {
    let Some((_, line)) = list.iter().find(|(a, _)| *a == Ipv6Addr::LOCALHOST) else {
        return;
    };
    let answers = |without: Option<Ipv6Addr>| {
        let list = list.iter().filter(|(a, _)| Some(*a) != without.map(IpAddr::V6));
        let list = list.filter_map(|(a, _)| v4(Resolver::Glibc, *a));
        let mut answers: Vec<Ipv4Addr> = Vec::new();
        for address in list.take(if options.is_multi() { usize::MAX } else { 1 }) {
            // Up to the 127.0.0.1 in question both are the same.
            if !(answers.contains(&Ipv4Addr::LOCALHOST) && address == Ipv4Addr::LOCALHOST) {
                answers.push(address);
            }
        }
        answers
    };
    if answers(None) != answers(Some(Ipv6Addr::LOCALHOST)) {
        let name = name.to_owned();
        found.add(Some(*line), Finding::LoopbackBoth { name });
    }
}

/// With `multi off`, the first line of the family answers, and the first line of all where both are asked for.
fn check_first(found: &mut Findings, name: &str, list: &[(IpAddr, usize)]) {
    let first_v4 = list
        .iter()
        .find_map(|(a, line)| Some((v4(Resolver::Glibc, *a)?.into(), *line)));
    let first_v6 = list.iter().find(|(a, _)| a.is_ipv6()).copied();
    for (address, line) in list.iter().skip(1) {
        let of_family = if address.is_ipv4() { first_v4 } else { first_v6 };
        let finding = match (of_family, list[0]) {
            (Some((first, at)), _) if first != *address => Finding::Shadowed {
                name: name.to_owned(),
                line: at,
                address: first,
            },
            (_, (first, at)) if first != *address => Finding::FirstLineOnly {
                name: name.to_owned(),
                line: at,
                address: first,
            },
            _ => continue,
        };
        found.add(Some(*line), finding);
    }
}
