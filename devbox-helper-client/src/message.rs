//! What is asked of the helper and what it replies. Strings here are unchecked: the helper parses them into the types
//! of the `hostsfile` crate and checks them against its policy before it does anything.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::endpoint::Endpoint;

/// The protocol's version. Both ends are normally the same program, so each speaks exactly one.
pub const VERSION: u32 = 2;

/// The first message in each direction. Its form is the same in every version, so that two programs of different versions
/// can tell each other so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Handshake {
    /// From the caller: which version it speaks.
    Hello {
        /// See [`VERSION`].
        version: u32,
    },
    /// From the helper, once it runs in a session of its own, out of reach of the terminal's signals.
    Welcome {
        /// See [`VERSION`].
        version: u32,
        /// The helper's process.
        pid: u32,
    },
    /// From the helper, which then exits.
    Error(HelperError),
}

/// A request with the id that its response repeats.
///
/// The caller chooses the ids. The helper serves requests one at a time in the order of their arrival and only repeats their
/// ids, so an id used twice confuses nobody but the caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call<R = Request> {
    /// The id.
    pub id: u64,
    /// What is asked.
    pub request: R,
}

/// The reply to one [`Call`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// The call's id; `None` when the helper could not read one.
    pub id: Option<u64>,
    /// Whether a listener's descriptor was sent along with this response. A descriptor that no response announces is closed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub listener: bool,
    /// The reply.
    pub reply: Reply,
}

/// What a caller may ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Request {
    /// Makes this the caller's one block in the hosts file, in place of the one before it.
    SetHosts {
        /// The whole block.
        block: HostsBlock,
    },
    /// Removes the caller's block.
    ClearHosts,
    /// Binds a TCP listener and hands it over. A UDP endpoint is answered with [`HelperError::Unsupported`].
    Bind {
        /// An address of the policy's pools, and a port from 1 to 65535.
        endpoint: Endpoint,
    },
    /// Removes the blocks of owners that live no longer.
    Sweep,
    /// Undoes everything that this caller asked for, and says how that went.
    Release,
    /// Changes a user asked for by hand. They are permanent: the end of the stream does not undo them.
    EditHosts {
        /// Applied in this order, as one write.
        edits: Vec<UserEdit>,
    },
    /// Makes these bytes the whole file, as a user asked for by hand: a backup that is put back. Permanent as well.
    RestoreHosts {
        /// Any bytes.
        content: Vec<u8>,
    },
}

/// A named block of the hosts file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostsBlock {
    /// What names the block; a session's begins with `devbox-`.
    pub tag: String,
    /// Its lines, in order.
    pub entries: Vec<HostsEntry>,
}

/// One address and its names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostsEntry {
    /// The address.
    pub address: IpAddr,
    /// At least one name, lower case; the first is the canonical one.
    pub names: Vec<String>,
}

/// What the helper replies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reply {
    /// To `SetHosts`, `ClearHosts` and `EditHosts`.
    Hosts(HostsReport),
    /// To `Bind`; the listener is passed along.
    Bound,
    /// To `Sweep`.
    Swept(SweepReport),
    /// To `Release`.
    Released(ReleaseReport),
    /// To a request that was not carried out.
    Error(HelperError),
}

/// What became of an edit of the hosts file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostsReport {
    /// The file.
    pub file: PathBuf,
    /// Whether bytes changed.
    pub changed: bool,
    /// Whether it was written in place because it could not be replaced (a file bound over another, for one).
    pub in_place: bool,
    /// What is odd in the file.
    pub diagnostics: Vec<Diagnostic>,
    /// How many further diagnostics and conflicts were left out to keep the answer short.
    pub omitted: usize,
    /// The names that a line of the user's has too, the first such line for each.
    pub conflicts: Vec<Conflict>,
}

/// One odd thing in the hosts file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// Counted from 1.
    pub line: Option<usize>,
    /// What it is, for a person.
    pub message: String,
    /// What it is, for a program: the name of the finding's kind in `hostsfile`.
    pub kind: String,
}

/// A name of the block that a line of the user's has already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// The name.
    pub name: String,
    /// The user's line, counted from 1.
    pub line: usize,
    /// Where the user's line leads.
    pub address: IpAddr,
    /// Whether the name was left out of the block, as it is from a session's.
    pub left_out: bool,
}

/// What a sweep found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweepReport {
    /// The file.
    pub file: PathBuf,
    /// The blocks that are gone, in file order.
    pub removed: Vec<SweptBlock>,
}

/// A block whose owner was dead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweptBlock {
    /// The block's tag.
    pub tag: String,
    /// The owner that its BEGIN line named.
    pub owner: String,
}

/// What a release undid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseReport {
    /// The tag of the block that was removed, if there was one.
    pub removed_block: Option<String>,
}

/// A change of the hosts file that a user asked for by hand: one of `hostsfile`'s edits each, of the same name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum UserEdit {
    /// Makes this the whole content of the block.
    SetBlock(UserBlock),
    /// Adds entries to a block, which is made if it is not there.
    AddToBlock(UserBlock),
    /// Takes names out of a block; a block without names left goes.
    RemoveFromBlock {
        /// The block.
        tag: String,
        /// The names.
        names: Vec<String>,
    },
    /// Removes a block.
    RemoveBlock {
        /// The block.
        tag: String,
    },
    /// Makes the commented entries of a block into entries.
    EnableBlock {
        /// The block.
        tag: String,
    },
    /// Makes the entries of a block into comments.
    DisableBlock {
        /// The block.
        tag: String,
    },
    /// Mends the markers of a damaged block.
    RepairBlock {
        /// The block.
        tag: String,
    },
    /// Makes these the lines that carry the marker.
    SetManaged {
        /// The whole comment of the lines.
        marker: String,
        /// What the lines hold.
        entries: Vec<UserEntry>,
    },
    /// Removes the lines that carry the marker.
    RemoveManaged {
        /// The whole comment of the lines.
        marker: String,
    },
    /// Writes an entry at the end of the file, outside all blocks.
    AppendLine(UserEntry),
    /// Adds names to a line of the user's.
    AddNames {
        /// The line.
        line: UserLine,
        /// The names.
        names: Vec<String>,
    },
    /// Takes names out of a line of the user's.
    RemoveNames {
        /// The line.
        line: UserLine,
        /// The names, in any case and form.
        names: Vec<String>,
    },
    /// Puts an entry in the place of a line of the user's.
    ReplaceLine {
        /// The line.
        line: UserLine,
        /// What comes in its place.
        entry: UserEntry,
    },
    /// Removes a line of the user's.
    RemoveLine {
        /// The line.
        line: UserLine,
    },
}

/// A block as a user asks for it: it belongs to no process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserBlock {
    /// What names the block.
    pub tag: String,
    /// Its entries, in order.
    pub entries: Vec<UserEntry>,
}

/// An entry as a user asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserEntry {
    /// Any address.
    pub address: IpAddr,
    /// The interface of a link-local IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// At least one name; the first is the canonical one.
    pub names: Vec<String>,
    /// What stands behind the `#`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// A line of the user's, named so that another line in its place is noticed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserLine {
    /// Counted from 1.
    pub number: usize,
    /// The line's bytes without its line end.
    pub text: Vec<u8>,
}

/// Why the helper did not do it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HelperError {
    /// The caller speaks another version.
    #[error("the helper speaks version {server} of the protocol, its caller version {client}")]
    VersionMismatch {
        /// What the caller said.
        client: u32,
        /// What the helper speaks.
        server: u32,
    },
    /// The bytes were no request, or one out of turn.
    #[error("the helper was asked something that it cannot read: {message}")]
    Malformed {
        /// What was wrong.
        message: String,
    },
    /// The policy forbids it.
    #[error("the helper may not do that: {what}: {why}")]
    NotAllowed {
        /// What was asked.
        what: String,
        /// The rule.
        why: String,
    },
    /// A block of this tag is there and belongs to a process that lives, or to no process.
    #[error("the block {tag} in {file} belongs to somebody else")]
    TagTaken {
        /// The hosts file.
        file: PathBuf,
        /// The block's tag.
        tag: String,
        /// The process, if its BEGIN line names one.
        pid: Option<u32>,
    },
    /// The helper has not the right.
    #[error("{message}")]
    PermissionDenied {
        /// The hosts file.
        file: PathBuf,
        /// What failed, the file named.
        message: String,
    },
    /// Another program holds the file's lock.
    #[error("{file} is locked by another program (waited {waited:?})")]
    Locked {
        /// The hosts file.
        file: PathBuf,
        /// For how long it was tried.
        waited: Duration,
    },
    /// The file, or the file system that it is on, takes no writes from anybody.
    #[error("{file} cannot be written: {message}")]
    ReadOnly {
        /// The hosts file.
        file: PathBuf,
        /// What makes it so and what to do.
        message: String,
    },
    /// The block's marker lines are broken.
    #[error("{file}:{line}: {message}")]
    Damaged {
        /// The hosts file.
        file: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is broken.
        message: String,
    },
    /// There is no such file.
    #[error("{file} does not exist")]
    NotFound {
        /// The hosts file.
        file: PathBuf,
    },
    /// The file could not be read or written for another reason.
    #[error("{file}: {message}")]
    Hosts {
        /// The hosts file.
        file: PathBuf,
        /// What failed, the file named.
        message: String,
    },
    /// The listener could not be made.
    #[error("cannot listen on {endpoint}: {message}")]
    Bind {
        /// The endpoint asked for.
        endpoint: Endpoint,
        /// Which failure it was.
        kind: BindFailure,
        /// The system's words.
        message: String,
    },
    /// The helper could not take on its caller's rights, or its own again.
    #[error("cannot act with the rights of user {uid}: {message}")]
    Rights {
        /// The caller.
        uid: u32,
        /// The system's words.
        message: String,
    },
    /// This system, or this version of the helper, cannot do it.
    #[error("not supported: {what}")]
    Unsupported {
        /// What is missing.
        what: String,
    },
}

/// Why a listener could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BindFailure {
    /// Somebody listens there already.
    AddrInUse,
    /// The port is one for root only.
    PermissionDenied,
    /// No interface has this address.
    AddrNotAvailable,
    /// Anything else; see the message.
    Other,
}
