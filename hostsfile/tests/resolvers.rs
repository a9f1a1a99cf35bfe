//! What glibc and musl read of generated files, compared with [`Document::resolved_by`], and that with the lint's findings.
#![expect(clippy::unwrap_used, reason = "also outside the functions marked as tests")]

#[path = "resolvers/generate.rs"]
mod generate;
#[cfg(target_os = "linux")]
#[path = "resolvers/real.rs"]
mod real;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fastrand::Rng;
use hostsfile::{Diagnostic, Document, Finding, LintOptions, Resolved, Resolver};

use generate::{file, words};

/// The resolvers whose answers are known, with their settings.
const SETUPS: [(Resolver, bool); 3] = [
    (Resolver::Glibc, true),
    (Resolver::Glibc, false),
    (Resolver::Musl, true),
];

fn seed() -> u64 {
    let seed = std::env::var("HOSTSFILE_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    seed.unwrap_or_else(|| fastrand::u64(..))
}

#[test]
fn findings_agree_with_the_answers() {
    let seed = seed();
    let mut rng = Rng::with_seed(seed);
    for _ in 0..400 {
        let bytes = file(&mut rng);
        for (resolver, multi) in SETUPS {
            let problems = Laws::new(&bytes, resolver, multi).broken();
            assert!(
                problems.is_empty(),
                "seed {seed}, {resolver}, multi {multi}: {:?}\n{}",
                String::from_utf8_lossy(&bytes),
                problems.join("\n")
            );
        }
    }
}

/// The kinds of the findings with their lines, and the answers for IPv4.
fn said(
    text: &str,
    resolver: Resolver,
    multi: bool,
    name: &str,
) -> (Vec<(usize, &'static str)>, Vec<String>) {
    let options = LintOptions::new().multi(multi);
    let document = Document::parse(text);
    let found = document.lint_with(resolver, &options);
    let answers = document.resolved_by(resolver, &options, name).unwrap();
    (
        found.iter().map(|d| (d.line.unwrap_or(0), d.kind())).collect(),
        answers.v4.iter().map(ToString::to_string).collect(),
    )
}

#[test]
fn a_line_with_an_address_for_a_name_is_read() {
    for (resolver, multi) in SETUPS {
        let (found, answers) = said("10.0.0.1 10.0.0.2 foo\n", resolver, multi, "foo");
        assert_eq!(found, [(1, "address-as-name")]);
        assert_eq!(answers, ["10.0.0.1"]);
        let (found, answers) = said("10.0.0.1 http://foo bar\n", resolver, multi, "bar");
        assert_eq!(found, [(1, "odd-name")]);
        assert_eq!(answers, ["10.0.0.1"]);
    }
}

#[test]
fn the_loopback_address_comes_first_where_glibc_makes_it_up() {
    let both = "::1 h\n127.0.1.1 h\n";
    let (found, answers) = said(both, Resolver::Glibc, true, "h");
    assert_eq!(found, [(1, "loopback-both")]);
    assert_eq!(answers, ["127.0.0.1", "127.0.1.1"]);
    let (found, answers) = said(both, Resolver::Glibc, false, "h");
    assert_eq!(found, [(1, "loopback-both"), (2, "shadowed")]);
    assert_eq!(answers, ["127.0.0.1"]);
    assert_eq!(
        said(both, Resolver::Musl, true, "h"),
        (vec![], vec!["127.0.1.1".to_owned()])
    );
    // It makes no difference here.
    let (found, _) = said("127.0.0.1 h\n::1 h\n", Resolver::Glibc, true, "h");
    assert_eq!(found, []);
}

#[test]
fn multi_decides_whether_all_lines_answer() {
    let lines = "10.0.0.1 h\n::2 h\n10.0.0.2 h\n";
    let (found, answers) = said(lines, Resolver::Glibc, true, "h");
    assert_eq!(found, []);
    assert_eq!(answers, ["10.0.0.1", "10.0.0.2"]);
    let (found, answers) = said(lines, Resolver::Glibc, false, "h");
    assert_eq!(found, [(2, "first-line-only"), (3, "shadowed")]);
    assert_eq!(answers, ["10.0.0.1"]);
}

#[test]
fn what_no_resolver_reads_is_not_a_short_form() {
    for address in ["10.0.0.256", "10.256.1", "08.1", "0x", "1.2.3.4.5", "4294967296"] {
        let document = Document::parse(format!("{address} h\n"));
        for resolver in Resolver::ALL {
            let found = document.lint(resolver);
            let oddity = hostsfile::Oddity::NotAnAddress;
            assert_eq!(found[0].finding, Finding::NotRead { oddity }, "{address}");
        }
    }
    let (found, answers) = said("0x7F.1 h\n", Resolver::Musl, true, "h");
    assert_eq!(found, [(1, "read-as-address")]);
    assert_eq!(answers, ["127.0.0.1"]);
}

#[test]
fn glibc_adds_to_an_indented_last_line_without_an_end() {
    let (found, answers) = said("  10.0.0.1 host", Resolver::Glibc, true, "host");
    assert_eq!(found, [(1, "no-final-newline")]);
    assert_eq!(answers, Vec::<String>::new());
    assert_eq!(
        said("  10.0.0.1 host", Resolver::Glibc, true, "hostst").1,
        ["10.0.0.1"]
    );
    let (found, answers) = said("10.0.0.1 host", Resolver::Glibc, true, "host");
    assert_eq!((found.len(), answers.len()), (0, 1));
}

/// What the findings about a file promise.
struct Laws<'a> {
    bytes: &'a [u8],
    document: Document,
    resolver: Resolver,
    options: LintOptions,
    found: Vec<Diagnostic>,
}

impl<'a> Laws<'a> {
    fn new(bytes: &'a [u8], resolver: Resolver, multi: bool) -> Self {
        let document = Document::parse(bytes);
        let options = LintOptions::new().multi(multi);
        Laws {
            found: document.lint_with(resolver, &options),
            bytes,
            document,
            resolver,
            options,
        }
    }

    fn broken(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for line in self.document.lines() {
            let kinds: HashSet<&str> = self.on(line.number).map(Diagnostic::kind).collect();
            let unread = ["not-read", "byte-order-mark", "leading-blank", "zone-ignored"];
            let vague = kinds.contains("long-line") || kinds.contains("nul");
            if vague {
                continue;
            }
            if let Some(kind) = unread.iter().find(|kind| kinds.contains(**kind)) {
                self.is_not_read(&line, kind, &mut problems);
                continue;
            }
            let text = line.text();
            let text = text.split(|b| *b == b'#').next().unwrap();
            let mut words = text
                .split(|b| b.is_ascii_whitespace() || *b == 0x0b)
                .filter(|word| !word.is_empty());
            let Some(address) = words.next() else { continue };
            let as_read = self.on(line.number).find_map(|d| match d.finding {
                Finding::ReadAsAddress { address } => Some(address),
                _ => None,
            });
            let address = std::str::from_utf8(address).unwrap();
            let address = address.split('%').next().unwrap();
            let Some(address) = as_read.or_else(|| address.parse().ok()) else {
                problems.push(format!("line {}: nothing is said about {address}", line.number));
                continue;
            };
            for name in words {
                self.is_answered(line.number, address, name, &mut problems);
            }
        }
        self.loopback(&mut problems);
        problems
    }

    fn on(&self, line: usize) -> impl Iterator<Item = &Diagnostic> {
        self.found.iter().filter(move |d| d.line == Some(line))
    }

    fn answers(&self, name: &[u8]) -> Resolved {
        self.document
            .resolved_by(self.resolver, &self.options, name)
            .unwrap()
    }

    /// Nothing changes without a line that is said not to be read.
    fn is_not_read(&self, line: &hostsfile::Line<'_>, kind: &str, problems: &mut Vec<String>) {
        let mut without = self.bytes.to_vec();
        let end = line.span.start + line.text().len();
        let start = if line.number == 1 { 0 } else { line.span.start };
        without.drain(start..end);
        let without = Document::parse(without);
        for name in words(self.bytes) {
            if without.resolved_by(self.resolver, &self.options, &name) != Some(self.answers(&name)) {
                let name = String::from_utf8_lossy(&name);
                problems.push(format!("line {} is read, despite {kind}: {name}", line.number));
            }
        }
    }

    /// A name is answered with the line's address, unless something is said about it.
    fn is_answered(&self, line: usize, address: IpAddr, name: &[u8], problems: &mut Vec<String>) {
        let text = String::from_utf8_lossy(name).into_owned();
        let answers = self.answers(name);
        let of_family = match address {
            IpAddr::V4(address) => answers.v4.contains(&address),
            IpAddr::V6(address) => answers.v6.contains(&address),
        };
        let of_any = answers.any.contains(&address);
        let mut excused = (false, false);
        for said in &self.found {
            let same = |other: &str| match self.resolver {
                Resolver::Glibc => text.eq_ignore_ascii_case(other),
                _ => text == other,
            };
            let here = said.line == Some(line);
            match &said.finding {
                Finding::AddressAsName { name } if here && same(name) => {
                    if answers != Resolved::default() {
                        problems.push(format!(
                            "line {line}: {name} is answered, although it is an address"
                        ));
                    }
                    excused = (true, true);
                }
                Finding::OddName { name } if here && same(name) && (text.len() > 254 || text == "*") => {
                    excused = (true, true);
                }
                Finding::NoFinalNewline { name } if here && same(name) => excused = (true, true),
                Finding::ManyAddresses { name, .. } if same(name) => excused = (true, true),
                Finding::Shadowed {
                    name, address: first, ..
                } if here && same(name) => {
                    let other = match first {
                        IpAddr::V4(first) => answers.v4.first() == Some(first),
                        IpAddr::V6(first) => answers.v6.first() == Some(first),
                    };
                    if of_family || of_any || !other {
                        problems.push(format!("line {line}: {name} is not shadowed"));
                    }
                    excused = (true, true);
                }
                Finding::FirstLineOnly {
                    name, address: first, ..
                } if here && same(name) => {
                    if of_any || answers.any != [*first] {
                        problems.push(format!(
                            "line {line}: {name} is not answered by the first line only"
                        ));
                    }
                    excused.1 = true;
                }
                _ => {}
            }
        }
        if !(of_family || excused.0) || !(of_any || excused.1) {
            problems.push(format!(
                "line {line}: {text} is not answered with {address}, but {answers:?}"
            ));
        }
        let upper = self.on(line).any(|d| d.kind() == "upper-case");
        if !upper && self.answers(&name.to_ascii_lowercase()) != answers {
            problems.push(format!("line {line}: {text} is compared with its case"));
        }
        let mapped = self.on(line).any(|d| d.kind() == "mapped-address");
        if let IpAddr::V6(v6) = address
            && let Some(v4) = v6.to_ipv4_mapped()
            && self.resolver == Resolver::Glibc
            && self.options == LintOptions::new()
            && excused == (false, false)
            && !(mapped && answers.v4.contains(&v4))
        {
            problems.push(format!("line {line}: {address} for IPv4: {answers:?}"));
        }
    }

    /// `::1` gives an IPv4 address exactly to the names of which it is said, or none that they do not have anyway.
    fn loopback(&self, problems: &mut Vec<String>) {
        let said: HashSet<&str> = self
            .found
            .iter()
            .filter_map(|d| match &d.finding {
                Finding::LoopbackBoth { name } => Some(name.as_str()),
                _ => None,
            })
            .collect();
        for name in words(self.bytes) {
            let answers = self.answers(&name);
            // A finding shows the bytes of other encodings as one character, whichever they are.
            let Ok(lower) = String::from_utf8(name.to_ascii_lowercase()) else {
                continue;
            };
            let has = answers.v4.contains(&Ipv4Addr::LOCALHOST);
            if said.contains(lower.as_str()) && !(self.resolver == Resolver::Glibc && has) {
                problems.push(format!("{lower} has no 127.0.0.1"));
            }
            let only_v6 = has && answers.any == [IpAddr::V6(Ipv6Addr::LOCALHOST)];
            if only_v6
                && answers.v4.len() == 1
                && self.options == LintOptions::new()
                && !said.contains(lower.as_str())
            {
                problems.push(format!("nothing is said about ::1 and {lower}"));
            }
        }
    }
}
