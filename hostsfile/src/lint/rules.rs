//! The rules for each resolver. Every rule is backed by a source or a measurement, not just by general knowledge.

use std::collections::HashMap;
use std::net::IpAddr;

use super::{Diagnostic, Finding, LintOptions, Resolver, libc};
use crate::document::Document;
use crate::line::{self, EntryLine, Line, LineKind};
use crate::name::HostName;
use crate::scan;

pub(super) fn check(document: &Document, resolver: Resolver, options: &LintOptions) -> Vec<Diagnostic> {
    let bytes = document.render();
    let mut found = Findings {
        resolver,
        list: Vec::new(),
    };
    if bytes.starts_with(b"\xFF\xFE") || bytes.starts_with(b"\xFE\xFF") {
        found.add(None, Finding::Utf16);
        return found.list;
    }
    let last_line = if matches!(resolver, Resolver::Glibc | Resolver::Musl) {
        check_libc(&mut found, document, options)
    } else {
        check_lines(&mut found, document)
    };
    if resolver == Resolver::Windows && last_line > 80_000 {
        found.add(None, Finding::LargeFile { lines: last_line });
    }
    found.list.sort_by_key(|d| d.line);
    found.list
}

/// glibc and musl, whose answers are known exactly. Returns the number of lines.
fn check_libc(found: &mut Findings, document: &Document, options: &LintOptions) -> usize {
    let bom = document.render().starts_with(scan::BOM);
    let mut last_line = 0;
    for line in document.lines() {
        last_line = line.number;
        check_length(found, &line);
        if matches!(line.kind, LineKind::Entry(_) | LineKind::Opaque(_)) {
            libc::check_line(found, &line, bom && line.number == 1);
        }
    }
    libc::check_names(found, document, options);
    last_line
}

/// The others. Returns the number of lines.
fn check_lines(found: &mut Findings, document: &Document) -> usize {
    let bom = document.render().starts_with(scan::BOM);
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
        check_length(found, &line);
        match &line.kind {
            LineKind::Entry(entry) => {
                check_entry(found, &line, entry);
                if !(bom && line.number == 1) {
                    seen.take(entry);
                }
            }
            LineKind::Opaque(line::Oddity::Nul) => found.add(Some(line.number), Finding::Nul),
            LineKind::Opaque(oddity) => found.add(Some(line.number), Finding::NotRead { oddity: *oddity }),
            _ => {}
        }
    }
    check_end(found, document, last_line);
    seen.report(found);
    last_line
}

pub(super) struct Findings {
    pub(super) resolver: Resolver,
    list: Vec<Diagnostic>,
}

impl Findings {
    pub(super) fn add(&mut self, line: Option<usize>, finding: Finding) {
        self.list.push(Diagnostic {
            line,
            resolver: self.resolver,
            finding,
        });
    }
}

fn check_length(found: &mut Findings, line: &Line<'_>) {
    // A byte order mark is a part of the first line.
    let bytes = if line.number == 1 {
        line.span.end
    } else {
        line.bytes.len()
    };
    // musl: fgets into char[512]. FreeBSD: BUFSIZ. mDNSResponder: 1024, Libinfo 4096. systemd: LONG_LINE_MAX.
    let limit = match found.resolver {
        Resolver::Musl => libc::MUSL_LINE,
        Resolver::FreeBsd | Resolver::MacOs => 1023,
        Resolver::SystemdResolved if bytes > 1024 * 1024 => {
            return found.add(Some(line.number), Finding::FileRejected { bytes });
        }
        _ => return,
    };
    if bytes > limit {
        found.add(Some(line.number), Finding::LongLine { bytes, limit });
    }
}

fn check_entry(found: &mut Findings, line: &Line<'_>, entry: &EntryLine<'_>) {
    use Resolver::{FreeBsd, MacOs, SystemdResolved, Windows};
    let resolver = found.resolver;
    let number = Some(line.number);
    let first_name = entry.names.first().copied().unwrap_or_default();
    let last_name = entry.names.last().copied().unwrap_or_default();

    if resolver == FreeBsd && line.bytes.first().is_some_and(|b| scan::is_blank(*b)) {
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
            FreeBsd => found.add(number, Finding::ZoneIgnored),
            SystemdResolved => found.add(number, Finding::ZoneDropped),
            _ => {}
        }
    }
    if resolver == SystemdResolved && entry.address.is_unspecified() {
        found.add(
            number,
            Finding::NoAddress {
                name: first_name.to_owned(),
            },
        );
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
    use Resolver::{MacOs, SystemdResolved};
    let resolver = found.resolver;
    let text = || name.to_owned();
    let undotted = name.strip_suffix('.').unwrap_or(name);
    if resolver == MacOs && name.bytes().any(|b| b.is_ascii_uppercase()) {
        found.add(Some(line), Finding::UpperCase { name: text() });
    }
    if resolver == MacOs && name.contains(',') {
        found.add(Some(line), Finding::Comma { name: text() });
    } else if line::is_address(name) {
        found.add(Some(line), Finding::AddressAsName { name: text() });
    } else if resolver == SystemdResolved && HostName::new(undotted).is_err() {
        found.add(Some(line), Finding::NotLdh { name: text() });
    } else if HostName::with_underscore(undotted).is_err() {
        found.add(Some(line), Finding::OddName { name: text() });
    }
}

fn check_end(found: &mut Findings, document: &Document, last: usize) {
    if found.resolver != Resolver::MacOs || document.render().ends_with(b"\n") {
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
            if found.resolver == Resolver::MacOs && name.ends_with(".local") && v4 != v6 {
                found.add(Some(line), Finding::LocalPair { name: name.clone() });
            }
            // FreeBSD and Libinfo return the first line of the family.
            if !matches!(found.resolver, Resolver::FreeBsd | Resolver::MacOs) {
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
