//! What each resolver will not see in a hosts file, or sees in another way than it looks.
//!
//! The rules come from the resolvers' sources and from runs of glibc 2.36, musl 1.2, systemd-resolved 252,
//! mDNSResponder 2600, FreeBSD's gethostbyht.c and reports about Windows' DNS client.

mod rules;

use std::fmt;
use std::net::IpAddr;

use crate::document::Document;
use crate::line::Oddity;

/// Who reads the hosts file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Resolver {
    /// glibc's `files` service, as on most Linux systems.
    Glibc,
    /// musl, as on Alpine Linux and in static programs.
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

    /// The name under which [`FromStr`](std::str::FromStr) knows it.
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

/// One thing that a resolver does with a hosts file that its author may not expect.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Diagnostic {
    /// The line, from 1; `None` where it is the whole file.
    pub line: Option<usize>,
    /// Which resolver does so.
    pub resolver: Resolver,
    /// What it does.
    pub finding: Finding,
}

impl Diagnostic {
    /// The finding's kind as one stable word, for programs.
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
        /// What a resolver does that is not what it looks like.
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[non_exhaustive]
        #[expect(missing_docs, reason = "the fields of a finding are what their names say: names as text, lines from 1, lengths in bytes")]
        pub enum Finding {
            $($(#[doc = $doc])* $variant $({ $($field: $type),* })?,)*
        }

        impl Finding {
            /// The kind as one stable word.
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
    Utf16 = "utf-16", "the file is UTF-16 text, nothing in it is read";
    /// A byte order mark hides the first line.
    ByteOrderMark = "byte-order-mark", "the byte order mark at the start hides the first line";
    /// The line is no entry to anybody, or not to all.
    NotRead { oddity: Oddity } = "not-read", "not read: {oddity}";
    /// The odd form of an address is read as another one.
    ReadAsAddress { address: IpAddr } = "read-as-address", "the odd form of the address is read as {address}";
    /// The line is longer than the resolver's buffer.
    LongLine { bytes: usize, limit: usize } = "long-line", "the line has {bytes} bytes, what is beyond {limit} is read as a line of its own";
    /// The line is longer than what the whole file may have.
    FileRejected { bytes: usize } = "file-rejected", "the line has {bytes} bytes, which makes the whole file unreadable";
    /// There are more names than are read.
    ManyNames { names: usize, limit: usize } = "many-names", "{names} names on the line, only the first {limit} are read";
    /// A slow line.
    SlowLine { names: usize } = "slow-line", "{names} names on the line make lookups slow, ten at most are advised";
    /// Blanks in front of the address.
    LeadingBlank = "leading-blank", "blanks stand in front of the address, the line is ignored";
    /// A carriage return becomes a part of the last name.
    CarriageReturn { name: String } = "carriage-return", "the carriage return at the end becomes a part of the name {name:?}";
    /// The last line does not end.
    NoFinalNewline { name: String } = "no-final-newline", "the last line has no line end, {name:?} is lost or cut";
    /// Case matters.
    UpperCase { name: String } = "upper-case", "{name:?} is only found in this very case";
    /// A name outside letters, digits and hyphens.
    NotLdh { name: String } = "not-ldh", "{name:?} is no valid host name and ignored";
    /// A name that is read but that applications may refuse.
    OddName { name: String } = "odd-name", "{name:?} is no valid host name, programs may refuse it";
    /// A comment sign in the middle of a word.
    HashInName { name: String } = "hash-in-name", "the # behind {name:?} becomes a part of the name";
    /// Comments are not cut.
    CommentRead = "comment-read", "the comment behind the names is read as further names";
    /// A comma separates names.
    Comma { name: String } = "comma", "{name:?} is read as several names";
    /// A final dot.
    TrailingDot { name: String } = "trailing-dot", "{name:?} is only found with its final dot";
    /// A scoped address.
    ZoneIgnored = "zone-ignored", "a line with a scoped address is ignored";
    /// The zone is not kept.
    ZoneDropped = "zone-dropped", "the scope of the address is dropped";
    /// An IPv4 address in IPv6 form.
    MappedAddress = "mapped-address", "the IPv4 address in IPv6 form also answers IPv4 questions";
    /// `::1` answers IPv4 questions.
    LoopbackBoth { name: String } = "loopback-both", "::1 {name} also answers IPv4 questions, with 127.0.0.1";
    /// An address that means nothing.
    NoAddress { name: String } = "no-address", "{name:?} exists but has no address, since 0.0.0.0 and :: mean none";
    /// NUL.
    Nul = "nul", "the line is cut at its NUL byte, or lost";
    /// Bytes beyond ASCII.
    NotAscii = "not-ascii", "bytes beyond ASCII can make the line unreadable";
    /// More addresses than are given.
    ManyAddresses { name: String, addresses: usize, limit: usize } = "many-addresses", "{name:?} has {addresses} addresses, only {limit} are given";
    /// Another line has the name first.
    Shadowed { name: String, line: usize, address: IpAddr } = "shadowed", "{name:?} is at {address} by line {line} already, which comes first";
    /// One family of a `.local` name is missing.
    LocalPair { name: String } = "local-pair", "{name:?} has addresses of one family only, so that each lookup waits 5 seconds for multicast DNS";
    /// A size that hurts.
    LargeFile { lines: usize } = "large-file", "{lines} lines keep the DNS client busy for minutes, 80000 at most are advised";
}

/// Runs one resolver's rules over a document.
pub(crate) fn lint(document: &Document, resolver: Resolver) -> Vec<Diagnostic> {
    rules::check(document, resolver)
}
