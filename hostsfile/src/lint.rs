//! What each resolver will not see in a hosts file, or will read differently than one would expect.
//!
//! The rules come from the resolvers' sources, from running glibc 2.36, musl 1.2, systemd-resolved 252,
//! mDNSResponder 2600 and FreeBSD's gethostbyht.c, and from reports about Windows' DNS client. Those of glibc and musl follow from
//! models of what they read, which tests compare with the real ones.

mod libc;
mod options;
mod rules;

use std::fmt;
use std::net::IpAddr;

use crate::document::Document;
use crate::line::Oddity;

pub use libc::Resolved;
pub(crate) use libc::resolved_by;
pub use options::LintOptions;

/// A resolver that reads the hosts file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Resolver {
    /// glibc's `files` service, as on most Linux systems.
    Glibc,
    /// musl, as on Alpine Linux and in statically linked programs.
    Musl,
    /// systemd-resolved with `ReadEtcHosts=yes`.
    SystemdResolved,
    /// mDNSResponder and Libinfo's file module.
    MacOs,
    /// Windows' DNS client.
    Windows,
    /// FreeBSD's libc.
    FreeBsd,
}

impl Resolver {
    /// All of them.
    pub const ALL: [Resolver; 6] = [
        Resolver::Glibc,
        Resolver::Musl,
        Resolver::SystemdResolved,
        Resolver::MacOs,
        Resolver::Windows,
        Resolver::FreeBsd,
    ];

    /// The resolver of the system this runs on.
    #[must_use]
    pub fn platform() -> Self {
        crate::file::PLATFORM_RESOLVER
    }

    /// Its name, which [`FromStr`](std::str::FromStr) accepts.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Resolver::Glibc => "glibc",
            Resolver::Musl => "musl",
            Resolver::SystemdResolved => "systemd-resolved",
            Resolver::MacOs => "macos",
            Resolver::Windows => "windows",
            Resolver::FreeBsd => "freebsd",
        }
    }
}

impl fmt::Display for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Resolver {
    type Err = crate::Error;

    fn from_str(text: &str) -> Result<Self, crate::Error> {
        Resolver::ALL
            .into_iter()
            .find(|r| r.as_str() == text)
            .ok_or(crate::Error::Unsupported {
                what: "this resolver",
            })
    }
}

/// Something that a resolver does with a hosts file and that its author may not expect.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Diagnostic {
    /// The line, counted from 1; `None` if the finding is about the whole file.
    pub line: Option<usize>,
    /// The resolver that does it.
    pub resolver: Resolver,
    /// What it does.
    pub finding: Finding,
}

impl Diagnostic {
    /// The finding's kind as a stable word for programs.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.finding.kind()
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        write!(f, "{}: {}", self.resolver, self.finding)
    }
}

macro_rules! findings {
    ($($(#[doc = $doc:literal])* $variant:ident $({ $($field:ident: $type:ty),* })? = $kind:literal, $text:literal;)*) => {
        /// What a resolver does that one might not expect.
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[non_exhaustive]
        #[expect(missing_docs, reason = "the fields of a finding are what their names say: names as text, lines counted from 1, lengths in bytes")]
        pub enum Finding {
            $($(#[doc = $doc])* $variant $({ $($field: $type),* })?,)*
        }

        impl Finding {
            /// The kind as a stable word.
            #[must_use]
            pub fn kind(&self) -> &'static str {
                match self {
                    $(Finding::$variant $({ $($field: _),* })? => $kind,)*
                }
            }
        }

        impl fmt::Display for Finding {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Finding::$variant $({ $($field),* })? => write!(f, $text),)*
                }
            }
        }
    };
}

findings! {
    /// The file is UTF-16.
    Utf16 = "utf-16", "the file is UTF-16 text; none of it is read";
    /// A byte order mark hides the first line.
    ByteOrderMark = "byte-order-mark", "the byte order mark at the start hides the first line";
    /// The line is not an entry, to this resolver at least.
    NotRead { oddity: Oddity } = "not-read", "not read: {oddity}";
    /// An address in an unusual form is read as a different one.
    ReadAsAddress { address: IpAddr } = "read-as-address", "the unusual form of the address is read as {address}";
    /// The line is longer than the resolver's buffer.
    LongLine { bytes: usize, limit: usize } = "long-line", "the line has {bytes} bytes; what follows the first {limit} is read as a separate line";
    /// The line is so long that the resolver gives up on the file.
    FileRejected { bytes: usize } = "file-rejected", "the line has {bytes} bytes, which makes the whole file unreadable";
    /// There are more names than the resolver reads.
    ManyNames { names: usize, limit: usize } = "many-names", "the line has {names} names; only the first {limit} are read";
    /// The line makes lookups slow.
    SlowLine { names: usize } = "slow-line", "the line has {names} names, which makes lookups slow; at most ten are recommended";
    /// There are blanks before the address.
    LeadingBlank = "leading-blank", "there are blanks before the address; the line is ignored";
    /// A carriage return becomes part of the last name.
    CarriageReturn { name: String } = "carriage-return", "the carriage return at the end becomes part of the name {name:?}";
    /// The last line has no line end.
    NoFinalNewline { name: String } = "no-final-newline", "the last line has no line end; {name:?} is lost or changed";
    /// The name is compared case-sensitively.
    UpperCase { name: String } = "upper-case", "{name:?} is found only in exactly this case";
    /// The name has characters other than letters, digits and hyphens.
    NotLdh { name: String } = "not-ldh", "{name:?} is not a valid host name and is ignored";
    /// The name is read, but programs may refuse it.
    OddName { name: String } = "odd-name", "{name:?} is not a valid host name; programs may refuse it";
    /// The name is an address.
    AddressAsName { name: String } = "address-as-name", "{name:?} is an address; programs take it as one and never look it up as a name";
    /// There is a comment sign in the middle of a word.
    HashInName { name: String } = "hash-in-name", "the # after {name:?} becomes part of the name";
    /// Comments are not stripped.
    CommentRead = "comment-read", "the comment after the names is read as more names";
    /// A comma separates names.
    Comma { name: String } = "comma", "{name:?} is read as several names";
    /// The name has a trailing dot.
    TrailingDot { name: String } = "trailing-dot", "{name:?} is found only with its trailing dot";
    /// The address has a zone.
    ZoneIgnored = "zone-ignored", "a line whose address has a zone is ignored";
    /// The zone is dropped.
    ZoneDropped = "zone-dropped", "the zone of the address is dropped";
    /// The address is an IPv4-mapped IPv6 address.
    MappedAddress = "mapped-address", "the IPv4 address in IPv6 form also answers IPv4 queries";
    /// `::1` also answers IPv4 queries.
    LoopbackBoth { name: String } = "loopback-both", "::1 {name} also answers IPv4 queries, with 127.0.0.1";
    /// The address means that there is none.
    NoAddress { name: String } = "no-address", "{name:?} exists but has no address, since 0.0.0.0 and :: mean none";
    /// The line contains a NUL byte.
    Nul = "nul", "the line is truncated at its NUL byte, or lost";
    /// There are bytes beyond ASCII.
    NotAscii = "not-ascii", "bytes beyond ASCII can make the line unreadable";
    /// The name has more addresses than the resolver returns.
    ManyAddresses { name: String, addresses: usize, limit: usize } = "many-addresses", "{name:?} has {addresses} addresses; only {limit} are returned";
    /// An earlier line has the name.
    Shadowed { name: String, line: usize, address: IpAddr } = "shadowed", "line {line} comes first and gives {name:?} the address {address}";
    /// Only the first line with the name answers a lookup of both families.
    FirstLineOnly { name: String, line: usize, address: IpAddr } = "first-line-only", "with `multi off`, a lookup of {name:?} in both families ends at line {line} and gives only {address}";
    /// A `.local` name has addresses of only one family.
    LocalPair { name: String } = "local-pair", "{name:?} has addresses of only one family, so each lookup waits 5 seconds for multicast DNS";
    /// The file is so large that it slows the system down.
    LargeFile { lines: usize } = "large-file", "{lines} lines keep the DNS client busy for minutes; at most 80000 are recommended";
}

/// Runs one resolver's rules over a document.
pub(crate) fn lint(document: &Document, resolver: Resolver, options: &LintOptions) -> Vec<Diagnostic> {
    rules::check(document, resolver, options)
}
