//! The rules for each resolver. Every rule is backed by a source or a measurement, not just by general knowledge.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Diagnostic, Finding, Resolver};
use crate::document::Document;
use crate::line::{EntryLine, Line, LineKind, Oddity};
use crate::name::HostName;
use crate::scan;

pub(super) fn check(document: &Document, resolver: Resolver) -> Vec<Diagnostic> {
    let bytes = document.render();
    let mut found = Findings {
        resolver,
        list: Vec::new(),
    };
    if bytes.starts_with(b"\xFF\xFE") || bytes.starts_with(b"\xFE\xFF") {
        found.add(None, Finding::Utf16);
        return found.list;
    }
    let bom = bytes.starts_with(scan::BOM);
    // Reports disagree about Windows. systemd-resolved reads the mark as part of an invalid address.
    if bom
        && document
            .lines()
            .next()
            .is_some_and(|l| matches!(l.kind, LineKind::Entry(_)))
    {
        found.add(Some(1), Finding::ByteOrderMark);
    }
    let mut seen = Seen::default();
    let mut last_line = 0;
    for line in document.lines() {
        last_line = line.number;
        check_length(&mut found, &line);
        match &line.kind {
            LineKind::Entry(entry) => {
                check_entry(&mut found, &line, entry);
                if !(bom && line.number == 1) {
                    seen.take(entry);
                }
            }
            LineKind::Opaque(Oddity::Nul) => found.add(Some(line.number), Finding::Nul),
            LineKind::Opaque(Oddity::OddAddress) => check_odd_address(&mut found, &line),
            LineKind::Opaque(oddity) => found.add(Some(line.number), Finding::NotRead { oddity: *oddity }),
            _ => {}
        }
    }
    check_end(&mut found, document, last_line);
    seen.report(&mut found);
    if resolver == Resolver::Windows && last_line > 80_000 {
        found.add(None, Finding::LargeFile { lines: last_line });
    }
    found.list.sort_by_key(|d| d.line);
    found.list
}

struct Findings {
    resolver: Resolver,
    list: Vec<Diagnostic>,
}

impl Findings {
    fn add(&mut self, line: Option<usize>, finding: Finding) {
        self.list.push(Diagnostic {
            line,
            resolver: self.resolver,
            finding,
        });
    }
}

fn check_length(found: &mut Findings, line: &Line<'_>) {
    // musl: fgets into char[512]. FreeBSD: BUFSIZ. mDNSResponder: 1024, Libinfo 4096. systemd: LONG_LINE_MAX.
    let limit = match found.resolver {
        Resolver::Musl => 511,
        Resolver::FreeBsd | Resolver::MacOs => 1023,
        Resolver::SystemdResolved if line.bytes.len() > 1024 * 1024 => {
            return found.add(
                Some(line.number),
                Finding::FileRejected {
                    bytes: line.bytes.len(),
                },
            );
        }
        _ => return,
    };
    if line.bytes.len() > limit {
        found.add(
            Some(line.number),
            Finding::LongLine {
                bytes: line.bytes.len(),
                limit,
            },
        );
    }
}

fn check_entry(found: &mut Findings, line: &Line<'_>, entry: &EntryLine<'_>) {
    use Resolver::{FreeBsd, Glibc, MacOs, Musl, SystemdResolved, Windows};
    let resolver = found.resolver;
    let number = Some(line.number);
    let first_name = entry.names.first().copied().unwrap_or_default();
    let last_name = entry.names.last().copied().unwrap_or_default();

    if matches!(resolver, Musl | FreeBsd) && line.bytes.first().is_some_and(|b| scan::is_blank(*b)) {
        found.add(number, Finding::LeadingBlank);
    }
    if matches!(resolver, MacOs | FreeBsd) && line.bytes.ends_with(b"\r\n") && !line.bytes.contains(&b'#') {
        found.add(
            number,
            Finding::CarriageReturn {
                name: last_name.to_owned(),
            },
        );
    }
    let limit = match resolver {
        Windows => 9,
        FreeBsd => 35,
        _ => usize::MAX,
    };
    if entry.names.len() > limit {
        found.add(
            number,
            Finding::ManyNames {
                names: entry.names.len(),
                limit,
            },
        );
    }
    if resolver == MacOs && entry.names.len() > 10 {
        found.add(
            number,
            Finding::SlowLine {
                names: entry.names.len(),
            },
        );
    }
    if entry.zone.is_some() {
        match resolver {
            Glibc | FreeBsd => found.add(number, Finding::ZoneIgnored),
            SystemdResolved => found.add(number, Finding::ZoneDropped),
            Musl | MacOs | Windows => {}
        }
    }
    match (resolver, entry.address) {
        (Glibc, IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => found.add(number, Finding::MappedAddress),
        (SystemdResolved, address) if address.is_unspecified() => {
            found.add(
                number,
                Finding::NoAddress {
                    name: first_name.to_owned(),
                },
            );
        }
        _ => {}
    }
    if resolver == Windows && !line.text().is_ascii() {
        found.add(number, Finding::NotAscii);
    }
    if resolver == MacOs
        && let Some(at) = line.text().iter().position(|b| *b == b'#')
    {
        if at > 0 && !scan::is_blank(line.text()[at - 1]) {
            found.add(
                number,
                Finding::HashInName {
                    name: last_name.to_owned(),
                },
            );
        } else {
            // This is Libinfo's file module; mDNSResponder strips the comment.
            found.add(number, Finding::CommentRead);
        }
    }
    for name in &entry.names {
        check_name(found, line.number, name);
    }
}

fn check_name(found: &mut Findings, line: usize, name: &str) {
    use Resolver::{Glibc, MacOs, Musl, SystemdResolved};
    let resolver = found.resolver;
    let text = || name.to_owned();
    let undotted = name.strip_suffix('.').unwrap_or(name);
    if matches!(resolver, Musl | MacOs) && name.bytes().any(|b| b.is_ascii_uppercase()) {
        found.add(Some(line), Finding::UpperCase { name: text() });
    }
    if matches!(resolver, Glibc | Musl) && undotted.len() < name.len() {
        found.add(Some(line), Finding::TrailingDot { name: text() });
    }
    if resolver == MacOs && name.contains(',') {
        found.add(Some(line), Finding::Comma { name: text() });
    } else if resolver == SystemdResolved && HostName::new(undotted).is_err() {
        found.add(Some(line), Finding::NotLdh { name: text() });
    } else if HostName::with_underscore(undotted).is_err() {
        found.add(Some(line), Finding::OddName { name: text() });
    }
}

/// musl passes the first word to inet_aton(3); the others skip the line.
fn check_odd_address(found: &mut Findings, line: &Line<'_>) {
    let word = line
        .text()
        .split(|b| scan::is_blank(*b))
        .find(|w| !w.is_empty())
        .unwrap_or_default();
    let read = std::str::from_utf8(word).ok().and_then(inet_aton);
    match (found.resolver, read) {
        (Resolver::Musl, Some(address)) => found.add(
            Some(line.number),
            Finding::ReadAsAddress {
                address: address.into(),
            },
        ),
        _ => found.add(
            Some(line.number),
            Finding::NotRead {
                oddity: Oddity::OddAddress,
            },
        ),
    }
}

fn inet_aton(word: &str) -> Option<Ipv4Addr> {
    let parts = word
        .split('.')
        .map(|part| match part.strip_prefix("0x").or(part.strip_prefix("0X")) {
            Some(hex) => u32::from_str_radix(hex, 16).ok(),
            None if part.len() > 1 && part.starts_with('0') => u32::from_str_radix(part, 8).ok(),
            None => part.parse().ok(),
        });
    let parts: Vec<u32> = parts.collect::<Option<_>>()?;
    let (last, head) = parts.split_last()?;
    let mut address = 0_u32;
    for (index, part) in head.iter().enumerate() {
        address |= u32::from(u8::try_from(*part).ok()?) << (24 - 8 * index);
    }
    let bits = 32 - 8 * u32::try_from(head.len()).ok()?;
    if bits < 32 && *last >> bits != 0 {
        return None;
    }
    Some(Ipv4Addr::from_bits(address | last))
}

fn check_end(found: &mut Findings, document: &Document, last: usize) {
    if !matches!(found.resolver, Resolver::Musl | Resolver::MacOs) || document.render().ends_with(b"\n") {
        return;
    }
    let Some(line) = document.line(last) else { return };
    if let (LineKind::Entry(entry), false) = (&line.kind, line.bytes.contains(&b'#'))
        && let Some(name) = entry.names.last()
    {
        found.add(
            Some(last),
            Finding::NoFinalNewline {
                name: (*name).to_owned(),
            },
        );
    }
}

/// What can be told only from the whole file: the addresses of each name.
#[derive(Default)]
struct Seen {
    by_name: HashMap<String, Vec<(IpAddr, usize)>>,
    order: Vec<String>,
}

impl Seen {
    fn take(&mut self, entry: &EntryLine<'_>) {
        for name in &entry.names {
            let name = name.to_ascii_lowercase();
            let addresses = self.by_name.entry(name.clone()).or_insert_with(|| {
                self.order.push(name);
                Vec::new()
            });
            addresses.push((entry.address, entry.line));
        }
    }

    fn report(self, found: &mut Findings) {
        for name in &self.order {
            let addresses = &self.by_name[name];
            let v4 = addresses.iter().any(|(a, _)| a.is_ipv4());
            let v6 = addresses.iter().any(|(a, _)| a.is_ipv6());
            let line = addresses[0].1;
            match found.resolver {
                Resolver::Glibc if !v4 => {
                    if let Some((_, line)) = addresses.iter().find(|(a, _)| *a == Ipv6Addr::LOCALHOST) {
                        found.add(Some(*line), Finding::LoopbackBoth { name: name.clone() });
                    }
                }
                Resolver::MacOs if name.ends_with(".local") && v4 != v6 => {
                    found.add(Some(line), Finding::LocalPair { name: name.clone() });
                }
                Resolver::Musl if addresses.len() > 48 => {
                    let finding = Finding::ManyAddresses {
                        name: name.clone(),
                        addresses: addresses.len(),
                        limit: 48,
                    };
                    found.add(Some(line), finding);
                }
                _ => {}
            }
            // glibc with `multi off` (its default), FreeBSD and Libinfo return the first line of the family.
            if !matches!(
                found.resolver,
                Resolver::Glibc | Resolver::FreeBsd | Resolver::MacOs
            ) {
                continue;
            }
            for (at, (address, line)) in addresses.iter().enumerate() {
                let earlier = addresses[..at]
                    .iter()
                    .find(|(a, _)| a.is_ipv4() == address.is_ipv4());
                if let Some((first, first_line)) = earlier
                    && first != address
                {
                    let finding = Finding::Shadowed {
                        name: name.clone(),
                        line: *first_line,
                        address: *first,
                    };
                    found.add(Some(*line), finding);
                }
            }
        }
    }
}
