//! What can go wrong, as facts that a program can act on.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::name::Tag;

/// Why an edit, a plan or a write failed.
///
/// Decide on the variant, never on the text. After an error the hosts file is byte for byte as it was before the call, with one
/// documented exception: [`NotVerified`](Self::NotVerified).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is not a host name that every resolver accepts.
    #[error("invalid host name {name:?}: {reason}")]
    InvalidName {
        /// The text that was given.
        name: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// The text is not a valid block tag.
    #[error("invalid block tag {tag:?}: {reason}")]
    InvalidTag {
        /// The text that was given.
        tag: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// The text is not a valid block owner.
    #[error("invalid block owner {owner:?}: it must be 1 to 64 characters of A-Z a-z 0-9 . _ : -")]
    InvalidOwner {
        /// The text that was given.
        owner: String,
    },
    /// The text is not a valid comment, or not a valid marker for managed lines.
    #[error("invalid comment {comment:?}: {reason}")]
    InvalidComment {
        /// The text that was given.
        comment: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// The text is not a network such as `10.0.0.0/8`.
    #[error("invalid network {text:?}: {reason}")]
    InvalidCidr {
        /// The text that was given.
        text: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// The text is not an IP address in its full form.
    #[error(
        "invalid address {text:?}: short, octal and hexadecimal forms mean different hosts to different resolvers"
    )]
    InvalidAddress {
        /// The text that was given.
        text: String,
    },
    /// The address is an IPv4 address mapped into IPv6 (`::ffff:1.2.3.4`). glibc also answers A queries with it; other resolvers do
    /// not.
    #[error("{address} is an IPv4 address in IPv6 form; write the IPv4 address")]
    MappedAddress {
        /// The address that was given.
        address: IpAddr,
    },
    /// The zone (`%eth0`) is invalid, or follows an IPv4 address.
    #[error("invalid zone {zone:?}: {reason}")]
    InvalidZone {
        /// The text that was given.
        zone: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// The entry has no names.
    #[error("no names given for {address}")]
    NoNames {
        /// The entry's address.
        address: IpAddr,
    },
    /// The file is UTF-16. No resolver reads that, and editing it as bytes would make it worse.
    #[error("the hosts file is UTF-16 text, which resolvers do not read; save it as ASCII or UTF-8 first")]
    Utf16,
    /// The markers of the block being edited do not form one complete block.
    #[error("block {tag} is damaged: {damage} ({})", shown(.lines))]
    DamagedBlock {
        /// The block.
        tag: Tag,
        /// What is wrong with it.
        damage: Damage,
        /// The lines of its markers, counted from 1.
        lines: Vec<usize>,
    },
    /// The block is not in the file.
    #[error("there is no block {tag}")]
    NoSuchBlock {
        /// The tag that was given.
        tag: Tag,
    },
    /// The line that an edit refers to no longer has the text that the edit expects.
    #[error("line {line} is not the line that the edit refers to")]
    LineChanged {
        /// The line, counted from 1.
        line: usize,
    },
    /// The line that an edit refers to has no entry that could be changed this way.
    #[error("line {line} has no entry")]
    NotAnEntry {
        /// The line, counted from 1.
        line: usize,
    },
    /// Two edits in one batch change the same line.
    #[error("line {line} is changed by two edits in one batch")]
    Overlap {
        /// The line, counted from 1.
        line: usize,
    },
    /// The name already has another address, and the caller asked to refuse that.
    #[error("{name} already has the address {address} (line {line})")]
    NameTaken {
        /// The name.
        name: String,
        /// The address it has.
        address: IpAddr,
        /// The line with that address, counted from 1.
        line: usize,
    },

    /// There is no file at that path.
    #[error("{} does not exist", .path.display())]
    NotFound {
        /// The path.
        path: PathBuf,
    },
    /// The path leads to something other than a regular file.
    #[error("{} is not a regular file", .path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The path's symbolic links form a loop.
    #[error("the symbolic links at {} form a loop", .path.display())]
    SymlinkLoop {
        /// The path.
        path: PathBuf,
    },
    /// The caller lacks the permission to do this; root (or an administrator) has it.
    #[error("no permission to {doing} {}", .path.display())]
    PermissionDenied {
        /// The file or directory that refused.
        path: PathBuf,
        /// What was attempted.
        doing: &'static str,
        /// The operating system's error.
        source: io::Error,
    },
    /// The file itself is marked read-only: its mode has no write bit, or it has Windows' read-only attribute.
    #[error("{} is marked read-only; {clear}", .path.display())]
    ReadOnlyFile {
        /// The file.
        path: PathBuf,
        /// The command that clears it.
        clear: String,
    },
    /// The file is on a file system that is mounted read-only.
    #[error("{} is on a read-only file system", .path.display())]
    ReadOnlyFileSystem {
        /// The file.
        path: PathBuf,
    },
    /// The file has a flag that prevents even root from changing it (`chattr +i`, `chflags uchg`).
    #[error("{} has the flag {flag:?}; clear it with: {clear}", .path.display())]
    Immutable {
        /// The file.
        path: PathBuf,
        /// The flag's usual name.
        flag: &'static str,
        /// The command that clears it.
        clear: String,
    },
    /// The file is generated by NixOS. Its store cannot be written, and an edit would be lost.
    #[error("{} is managed by NixOS ({}); add the names to networking.extraHosts, or set environment.etc.hosts.mode = \"0644\"", .path.display(), .target.display())]
    ManagedByNix {
        /// The path that was opened.
        path: PathBuf,
        /// The file it leads to.
        target: PathBuf,
    },
    /// There is no space, or no quota, for the new content.
    #[error("no space left to write {}", .path.display())]
    NoSpace {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// Another program kept the lock, or the file itself, during all retries.
    #[error("{} is held by another program (waited {} ms)", .path.display(), .waited.as_millis())]
    Locked {
        /// What is held: the lock file, or the hosts file.
        path: PathBuf,
        /// How long this call waited in total.
        waited: Duration,
    },
    /// The lock directory for the system's file can be written by someone other than its owner.
    #[error("{} must be a directory that only its owner can write to; anyone else who can could block every writer", .path.display())]
    UnsafeLockDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// In every attempt the file's content was no longer what the plan was made from.
    #[error("{} was changed by another program ({attempts} attempts)", .path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// The number of attempts.
        attempts: u32,
    },
    /// After writing in place, different bytes were read back: another program is writing at the same time.
    #[error("{} does not contain what was written to it: another program is writing to it at the same time", .path.display())]
    NotVerified {
        /// The file.
        path: PathBuf,
    },
    /// The file beside the hosts file that tells how to finish an interrupted write was not left by this user's own write:
    /// its owner, mode or link count is another. Nothing was changed.
    #[error("{} asks to finish an interrupted write, but this user's programs cannot have written it; look at it, and remove it", .path.display())]
    ForeignJournal {
        /// The file.
        path: PathBuf,
    },
    /// The copy was made of another hosts file.
    #[error("{} is a copy of {original}, not of {}", .copy.display(), .path.display())]
    BackupOfAnother {
        /// The copy.
        copy: PathBuf,
        /// The file that it was made of.
        original: String,
        /// The file that it was to replace.
        path: PathBuf,
    },
    /// This operating system does not support it.
    #[error("{what} is not supported on this system")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
    },
    /// Any other error from the operating system.
    #[error("cannot {doing} {}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was attempted.
        doing: &'static str,
        /// The operating system's error.
        source: io::Error,
    },
}

/// What is wrong with a block's markers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Damage {
    /// A BEGIN has no END.
    EndMissing,
    /// An END has no BEGIN before it.
    BeginMissing,
    /// There is a second BEGIN inside the block.
    Nested,
    /// There is more than one complete block.
    Doubled,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Damage::EndMissing => "its END is missing",
            Damage::BeginMissing => "an END has no BEGIN",
            Damage::Nested => "a second BEGIN is inside it",
            Damage::Doubled => "it exists more than once",
        })
    }
}

impl From<std::convert::Infallible> for Error {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

/// `line 3` or `lines 3, 7`.
fn shown(lines: &[usize]) -> String {
    let mut text = String::from(if lines.len() == 1 { "line" } else { "lines" });
    for (index, line) in lines.iter().enumerate() {
        text.push_str(if index == 0 { " " } else { ", " });
        text.push_str(&line.to_string());
    }
    text
}
