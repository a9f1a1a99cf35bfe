//! What can go wrong, as facts that a program can act on.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::name::Tag;

/// Why an edit, a plan or a write did not happen.
///
/// Decide on the variant, never on the text. Whatever the variant, the hosts file is as it was before the call, byte
/// for byte; the one exception says so ([`NotVerified`](Self::NotVerified)).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is no host name that every resolver understands.
    #[error("invalid host name {name:?}: {reason}")]
    InvalidName {
        /// The text that was given.
        name: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// The text cannot name a block.
    #[error("invalid block tag {tag:?}: {reason}")]
    InvalidTag {
        /// The text that was given.
        tag: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// The text cannot name the owner of a block.
    #[error("invalid block owner {owner:?}: one to 64 characters of A-Z a-z 0-9 . _ : - are wanted")]
    InvalidOwner {
        /// The text that was given.
        owner: String,
    },
    /// The text cannot stand behind a `#`, or cannot mark a managed line.
    #[error("invalid comment {comment:?}: {reason}")]
    InvalidComment {
        /// The text that was given.
        comment: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// The text is no network such as `10.0.0.0/8`.
    #[error("invalid network {text:?}: {reason}")]
    InvalidCidr {
        /// The text that was given.
        text: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// The text is no IP address in its full form.
    #[error(
        "invalid address {text:?}: short, octal and hexadecimal forms mean different hosts to different resolvers"
    )]
    InvalidAddress {
        /// The text that was given.
        text: String,
    },
    /// An IPv4 address in IPv6 dress (`::ffff:1.2.3.4`): glibc also answers A with it, the others do not.
    #[error("{address} is an IPv4 address in IPv6 form; write the IPv4 address")]
    MappedAddress {
        /// The address that was given.
        address: IpAddr,
    },
    /// A zone (`%eth0`) that is not one, or that stands behind an IPv4 address.
    #[error("invalid zone {zone:?}: {reason}")]
    InvalidZone {
        /// The text that was given.
        zone: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// An entry without any name.
    #[error("no names given for {address}")]
    NoNames {
        /// The address that was to get names.
        address: IpAddr,
    },
    /// The file is UTF-16; no resolver reads it, and editing it as bytes would make it worse.
    #[error("the hosts file is UTF-16 text, which resolvers do not read; save it as ASCII or UTF-8 first")]
    Utf16,
    /// The markers of the block that is being edited do not form one whole block.
    #[error("block {tag} is damaged: {damage} (line {})", join(.lines))]
    DamagedBlock {
        /// The block.
        tag: Tag,
        /// What is wrong with it.
        damage: Damage,
        /// The lines where its markers stand, from 1.
        lines: Vec<usize>,
    },
    /// The block is not in the file.
    #[error("there is no block {tag}")]
    NoSuchBlock {
        /// The block that was asked for.
        tag: Tag,
    },
    /// The line that an edit names does not hold the text that it names (any more).
    #[error("line {line} is not the line that the edit names")]
    LineChanged {
        /// The line, from 1.
        line: usize,
    },
    /// The line that an edit names holds no entry that could be changed this way.
    #[error("line {line} holds no entry")]
    NotAnEntry {
        /// The line, from 1.
        line: usize,
    },
    /// Two edits of one batch claim the same line.
    #[error("line {line} is changed by two edits of one batch")]
    Overlap {
        /// The line, from 1.
        line: usize,
    },
    /// The name stands at another address, and the caller asked not to accept that.
    #[error("{name} is at {address} already (line {line})")]
    NameTaken {
        /// The name.
        name: String,
        /// Where it points to.
        address: IpAddr,
        /// The line that says so, from 1.
        line: usize,
    },

    /// There is no file at that path.
    #[error("{} does not exist", .path.display())]
    NotFound {
        /// The path.
        path: PathBuf,
    },
    /// The path leads to something that is not a regular file.
    #[error("{} is not a regular file", .path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The path's symbolic links lead in a circle.
    #[error("the symbolic links at {} lead in a circle", .path.display())]
    SymlinkLoop {
        /// The path.
        path: PathBuf,
    },
    /// The caller has not the right to do this; root (or an administrator) has.
    #[error("no permission to {doing} {}", .path.display())]
    PermissionDenied {
        /// The file or directory that refused.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The file itself is marked read-only (mode without a write bit, or Windows' read-only attribute).
    #[error("{} is marked read-only; {clear}, or ask for read-only files to be overridden", .path.display())]
    ReadOnlyFile {
        /// The file.
        path: PathBuf,
        /// The command that clears the mark.
        clear: String,
    },
    /// The file cannot be changed since its file system is mounted read-only.
    #[error("{} is on a read-only file system", .path.display())]
    ReadOnlyFileSystem {
        /// The file.
        path: PathBuf,
    },
    /// The file has a flag that keeps even root from changing it (`chattr +i`, `chflags uchg`).
    #[error("{} has the flag {flag:?}; clear it with: {clear}", .path.display())]
    Immutable {
        /// The file.
        path: PathBuf,
        /// The flag's usual name.
        flag: &'static str,
        /// The command that clears it.
        clear: String,
    },
    /// The file is a product of NixOS; an edit would be lost, and the store cannot be written.
    #[error("{} is managed by NixOS ({}); add the names to networking.extraHosts, or set environment.etc.hosts.mode = \"0644\"", .path.display(), .target.display())]
    ManagedByNix {
        /// The path that was opened.
        path: PathBuf,
        /// Where it leads to.
        target: PathBuf,
    },
    /// No space, or no quota, for the new content.
    #[error("no space left to write {}", .path.display())]
    NoSpace {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another program held the lock, or the file itself, through all retries.
    #[error("{} is held by another program (waited {} ms)", .path.display(), .waited.as_millis())]
    Locked {
        /// What is held: the lock file, or the hosts file.
        path: PathBuf,
        /// How long this call waited in all.
        waited: Duration,
    },
    /// The directory for the lock of the system's file is not one that only its owner can write.
    #[error("{} must be a directory that only its owner can use, since whoever writes there could hold everybody up", .path.display())]
    UnsafeLockDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// The file's content is not what the plan was made from, and stayed so through all retries.
    #[error("{} was changed by another program ({attempts} attempts)", .path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// How often it was tried.
        attempts: u32,
    },
    /// After writing in place, reading back gave other bytes: another program writes at the same time.
    #[error("{} does not hold what was written to it: another program writes it at the same time", .path.display())]
    NotVerified {
        /// The file.
        path: PathBuf,
    },
    /// This operating system has no such thing.
    #[error("{what} is not supported on this system")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
    },
    /// Any other failure of the operating system.
    #[error("cannot {doing} {}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// What is wrong with a block's markers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Damage {
    /// A BEGIN without an END.
    EndMissing,
    /// An END without a BEGIN before it.
    BeginMissing,
    /// A BEGIN inside the block itself.
    Nested,
    /// More than one whole block.
    Doubled,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Damage::EndMissing => "its END is missing",
            Damage::BeginMissing => "an END stands without a BEGIN",
            Damage::Nested => "a BEGIN stands inside it",
            Damage::Doubled => "it is there more than once",
        })
    }
}

impl From<std::convert::Infallible> for Error {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

fn join(lines: &[usize]) -> String {
    let mut text = String::new();
    for line in lines {
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(&line.to_string());
    }
    text
}
