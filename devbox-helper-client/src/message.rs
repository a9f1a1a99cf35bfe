//! What is asked of the helper and what it replies. Strings here are unchecked: the helper parses them into the types
//! of the `hostsfile` crate and checks them against its policy before it does anything.

mod network;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use network::{
    ClaimReport, Holder, InterfaceKind, MAX_GRACE, NetworkReport, NewInterface, NewResolver, StatusReport,
    Token,
};

use crate::endpoint::Endpoint;

/// The newest version of the protocol. 4 added the verbs of the network, claims that are taken over, and the range of versions.
pub const VERSION: u32 = 4;

/// The oldest version that is spoken: an installed helper meets callers older than itself, and younger ones. Version 3 has the
/// same messages, and fewer.
pub const OLDEST_VERSION: u32 = 3;

/// The first message in each direction. Its form is the same in every version, so that two programs of different versions
/// can tell each other so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Handshake {
    /// From the caller: which versions it speaks.
    Hello {
        /// The newest. See [`VERSION`].
        version: u32,
        /// The oldest; the newest as well where nothing is said, as by callers up to version 3.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        oldest: Option<u32>,
    },
    /// From the helper, once it runs in a session of its own, out of reach of the terminal's signals.
    Welcome {
        /// The newest version that both speak.
        version: u32,
        /// The helper's process.
        pid: u32,
    },
    /// From the helper, which then exits.
    Error(HelperError),
}

impl Handshake {
    /// The hello of this version of the crate.
    #[must_use]
    pub const fn hello() -> Self {
        Self::Hello {
            version: VERSION,
            oldest: Some(OLDEST_VERSION),
        }
    }
}

/// The newest version that this crate and an end that speaks those from `oldest` to `newest` have in common.
///
/// ```
/// use devbox_helper_client::{OLDEST_VERSION, VERSION, common_version};
///
/// assert_eq!(common_version(VERSION, VERSION + 3), Some(VERSION));
/// assert_eq!(common_version(1, OLDEST_VERSION), Some(OLDEST_VERSION));
/// assert_eq!(common_version(VERSION + 1, VERSION + 1), None);
/// assert_eq!(common_version(9, 1), None);
/// ```
#[must_use]
pub const fn common_version(oldest: u32, newest: u32) -> Option<u32> {
    let common = if newest < VERSION { newest } else { VERSION };
    if common >= oldest && common >= OLDEST_VERSION {
        Some(common)
    } else {
        None
    }
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
    /// Binds a TCP listener, or a UDP socket, and hands it over.
    Bind {
        /// An address in one of the policy's pools, and a port other than 0.
        endpoint: Endpoint,
    },
    /// Removes the blocks whose owners are dead.
    Sweep,
    /// To a keeper: starts a helper, whose channel is passed along.
    Another,
    /// Sweeps, and removes the lines of sessions whose markers somebody has removed.
    CleanUp,
    /// Undoes everything that this caller asked for, and reports the outcome.
    Release,
    /// As `SetHosts`, and takes names from the blocks of other living sessions where this caller asks for them the first time. A
    /// name that was taken from it since is left to whoever did. Only if the helper was started with a policy that allows it.
    TakeHosts {
        /// The whole block.
        block: HostsBlock,
    },
    /// Makes changes that a user asked for by hand. They are permanent: the end of the stream does not undo them.
    EditHosts {
        /// Applied in this order, as one write.
        edits: Vec<UserEdit>,
    },
    /// Makes these bytes the whole file, as when a user restores a backup by hand. Permanent as well.
    RestoreHosts {
        /// Any bytes.
        content: Vec<u8>,
    },
    /// Makes all addresses of a prefix this machine's own, so that they can be listened at. Several claims may share a prefix.
    OpenPool {
        /// A prefix without host bits, as `10.107.0.0/16`.
        pool: String,
    },
    /// Claims addresses, so that no other user gets them, and adds those that no pool makes this machine's own.
    AddAddresses {
        /// Addresses, each alone or with the length of its prefix.
        addresses: Vec<String>,
        /// An interface of the caller's; `None` for loopback.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        interface: Option<String>,
    },
    /// Takes addresses away that this caller added.
    RemoveAddresses {
        /// As they were added.
        addresses: Vec<String>,
        /// Where they were added.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        interface: Option<String>,
    },
    /// Makes an interface.
    CreateInterface {
        /// Which.
        interface: NewInterface,
    },
    /// Removes an interface that this caller made, and all that is on it.
    RemoveInterface {
        /// Its name.
        name: String,
    },
    /// Hands over the descriptor of a TUN interface that this caller made.
    OpenTun {
        /// Its name.
        name: String,
    },
    /// Has names with some suffixes looked up at servers of the caller's.
    SetResolver {
        /// The rule.
        rule: NewResolver,
    },
    /// Removes a rule that this caller set.
    ClearResolver {
        /// The rule, as it was set.
        rule: NewResolver,
    },
    /// Has the system forget what it has cached about names.
    Flush,
    /// Asks what the helper holds.
    Status,
    /// Asks for the claim to stay for a while after the connection is gone, and for the token that takes it over.
    Hold {
        /// In milliseconds; at most [`MAX_GRACE`].
        grace_ms: u32,
    },
    /// Takes over the claim of a connection that is gone, in place of this connection's own empty one.
    Resume {
        /// What `Hold` was answered with.
        token: Token,
    },
}

/// A named block of the hosts file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostsBlock {
    /// The name of the block; a session's begins with `devbox-`.
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
    /// To `SetHosts`, `TakeHosts`, `ClearHosts` and `EditHosts`.
    Hosts(HostsReport),
    /// To `Bind`, `OpenTun` and `Another`; the listener, the descriptor or the channel is passed along.
    Bound,
    /// To `Sweep` and `CleanUp`.
    Swept(SweepReport),
    /// To `Release`.
    Released(ReleaseReport),
    /// To what changes the network.
    Network(NetworkReport),
    /// To `Flush` and `Resume`.
    Done,
    /// To `Status`.
    Status(StatusReport),
    /// To `Hold`.
    Held(Token),
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
    /// What is wrong or unusual in the file.
    pub diagnostics: Vec<Diagnostic>,
    /// How many more diagnostics and conflicts there were; they are left out to keep the reply short.
    pub omitted: usize,
    /// The names that one of the user's own lines has too, with the first such line for each.
    pub conflicts: Vec<Conflict>,
    /// All names that were left out of the block because other living sessions hold them, by session.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<HeldNames>,
    /// Blocks of dead sessions that were removed since they had names of this one's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<SweptBlock>,
}

/// Names that another session's block holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldNames {
    /// The tag of its block.
    pub tag: String,
    /// Its helper's process.
    pub helper_pid: Option<u32>,
    /// The names.
    pub names: Vec<String>,
}

/// One finding in the hosts file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// Counted from 1.
    pub line: Option<usize>,
    /// What it is, for a person.
    pub message: String,
    /// What it is, for a program: the name of the finding's kind in `hostsfile`.
    pub kind: String,
}

/// A name of the block that one of the user's own lines already has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// The name.
    pub name: String,
    /// The user's line, counted from 1.
    pub line: usize,
    /// The address on the user's line.
    pub address: IpAddr,
    /// Whether the name was left out of the block, as it always is for a session.
    pub left_out: bool,
}

/// What a sweep found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweepReport {
    /// The file.
    pub file: PathBuf,
    /// The blocks that are gone, in file order.
    pub removed: Vec<SweptBlock>,
    /// How many lines of sessions were removed whose block no marker named.
    #[serde(default)]
    pub stray_lines: usize,
    /// The lines, counted from 1, that were a dead session's and stay, since somebody has edited them.
    #[serde(default)]
    pub left: Vec<usize>,
    /// What the helper undid on the machine's network when it started: changes of helpers that were killed. With root's rights only.
    #[serde(default)]
    pub network: NetworkUndone,
}

/// What was undone on the machine's network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkUndone {
    /// How many changes were taken back.
    pub removed: usize,
    /// What stays, and why.
    pub left: Vec<String>,
    /// How many of those the system refused to undo; they are tried again.
    pub failed: usize,
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
    /// The same, and each name is taken from the block's other addresses of the same family.
    PointInBlock(UserBlock),
    /// Removes names from a block, and the block itself once it has none left.
    RemoveFromBlock {
        /// The block.
        tag: String,
        /// The names.
        names: Vec<String>,
    },
    /// Removes whole entries from a block, and the block itself once it has none left.
    RemoveEntries {
        /// The block.
        tag: String,
        /// The entries.
        which: UserWhich,
    },
    /// Sets or removes the comment of a block's entries.
    Comment {
        /// The block.
        tag: String,
        /// The entries.
        which: UserWhich,
        /// The comment; `None` removes it.
        comment: Option<String>,
    },
    /// Removes a block.
    RemoveBlock {
        /// The block.
        tag: String,
    },
    /// Uncomments the entries of a block.
    EnableBlock {
        /// The block.
        tag: String,
    },
    /// Comments out the entries of a block.
    DisableBlock {
        /// The block.
        tag: String,
    },
    /// Repairs the markers of a damaged block.
    RepairBlock {
        /// The block.
        tag: String,
    },
    /// Removes the sealed lines of blocks of which no marker is left.
    RemoveOrphans {
        /// The first word of those blocks' tags.
        word: String,
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
    /// Adds names to one of the user's lines.
    AddNames {
        /// The line.
        line: UserLine,
        /// The names.
        names: Vec<String>,
    },
    /// Removes names from one of the user's lines.
    RemoveNames {
        /// The line.
        line: UserLine,
        /// The names, in any case and form.
        names: Vec<String>,
    },
    /// Replaces one of the user's lines with an entry.
    ReplaceLine {
        /// The line.
        line: UserLine,
        /// What comes in its place.
        entry: UserEntry,
    },
    /// Removes one of the user's lines.
    RemoveLine {
        /// The line.
        line: UserLine,
    },
}

/// Which entries of a block a user means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum UserWhich {
    /// Those with this name.
    Name(String),
    /// Those with this address.
    Address(IpAddr),
    /// Those whose address is in this network, as `10.0.0.0/8`.
    Within(String),
    /// Those with this comment.
    Comment(String),
}

/// A block that a user asks for. It belongs to no process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserBlock {
    /// What names the block.
    pub tag: String,
    /// Its entries, in order.
    pub entries: Vec<UserEntry>,
}

/// An entry that a user asks for.
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
    /// The text after the `#`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// One of the user's lines, identified by number and text, so that a change of the file in between is noticed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserLine {
    /// Counted from 1.
    pub number: usize,
    /// The line's bytes without its line ending.
    pub text: Vec<u8>,
}

/// Why the helper did not carry out a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HelperError {
    /// The caller speaks another version.
    #[error("the helper speaks {} of the protocol, its caller {}", versions(*server_oldest, *server), versions(*client_oldest, *client))]
    VersionMismatch {
        /// The newest that the caller speaks.
        client: u32,
        /// The newest that the helper speaks.
        server: u32,
        /// The oldest that the caller speaks, if it said so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        client_oldest: Option<u32>,
        /// The oldest that the helper speaks, if it says so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        server_oldest: Option<u32>,
    },
    /// The bytes were not a request, or one at the wrong time.
    #[error("the helper could not read the request: {message}")]
    Malformed {
        /// What was wrong.
        message: String,
    },
    /// The policy forbids it.
    #[error("the helper refused {what}: {why}")]
    NotAllowed {
        /// What was asked.
        what: String,
        /// The rule.
        why: String,
    },
    /// A line that an edit refers to no longer has the text that the edit expects.
    #[error("line {line} of {file} is not the line that the edit refers to")]
    LineChanged {
        /// The hosts file.
        file: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
    /// There is a block with this tag that belongs to a living process, or to none.
    #[error("the block {tag} in {file} belongs to another process or to the user")]
    TagTaken {
        /// The hosts file.
        file: PathBuf,
        /// The block's tag.
        tag: String,
        /// The process, if its BEGIN line names one.
        pid: Option<u32>,
    },
    /// The helper lacks the permission.
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
        /// How long it was tried.
        waited: Duration,
    },
    /// The file or its file system is read-only.
    #[error("{file} cannot be written: {message}")]
    ReadOnly {
        /// The hosts file.
        file: PathBuf,
        /// Why, and what to do about it.
        message: String,
    },
    /// The block's marker lines are damaged.
    #[error("{file}:{line}: {message}")]
    Damaged {
        /// The hosts file.
        file: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is damaged.
        message: String,
    },
    /// These lines were a session's. Somebody has edited them since, so they stay.
    #[error("{file}: {}", left(.lines))]
    LinesLeft {
        /// The hosts file.
        file: PathBuf,
        /// Counted from 1.
        lines: Vec<usize>,
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
    /// The listener could not be created.
    #[error("cannot listen on {endpoint}: {message}")]
    Bind {
        /// The endpoint asked for.
        endpoint: Endpoint,
        /// Which failure it was.
        kind: BindFailure,
        /// The system's error message.
        message: String,
    },
    /// The helper could not switch to its caller's user, or back.
    #[error("cannot act as user {uid}: {message}")]
    Rights {
        /// The caller.
        uid: u32,
        /// The system's error message.
        message: String,
    },
    /// Another claim has it.
    #[error("{what} is held by {holder}")]
    Held {
        /// What was asked for.
        what: String,
        /// Who has it.
        holder: Holder,
    },
    /// A limit of the helper's is reached.
    #[error("the helper allows at most {most} {what}")]
    Limit {
        /// Of what there are too many.
        what: String,
        /// How many there may be.
        most: usize,
    },
    /// The caller holds no such thing.
    #[error("{what} is not the caller's to change")]
    NotHeld {
        /// What was asked for.
        what: String,
    },
    /// No claim waits for this token and this user.
    #[error("no claim waits for this token")]
    NoSuchClaim,
    /// A change of the network failed. Those that were made in the same request are undone.
    #[error("{message}")]
    Network {
        /// What failed, and why.
        message: String,
    },
    /// What was to be done could not be written down first, so it was not done.
    #[error("cannot keep the journal {file}: {message}")]
    Journal {
        /// The journal.
        file: PathBuf,
        /// What failed.
        message: String,
    },
    /// This system, or this version of the helper, cannot do it.
    #[error("not supported: {what}")]
    Unsupported {
        /// What is missing.
        what: String,
    },
}

fn versions(oldest: Option<u32>, newest: u32) -> String {
    match oldest {
        Some(oldest) if oldest != newest => format!("versions {oldest} to {newest}"),
        _ => format!("version {newest}"),
    }
}

fn left(lines: &[usize]) -> String {
    let numbers: Vec<String> = lines.iter().map(usize::to_string).collect();
    match numbers.as_slice() {
        [one] => {
            format!("line {one} was written by a session and has been edited since, so it was left in place")
        }
        many => format!(
            "lines {} were written by sessions and have been edited since, so they were left in place",
            many.join(", ")
        ),
    }
}

/// Why a listener could not be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BindFailure {
    /// Another socket is bound there.
    AddrInUse,
    /// Only root may bind the port.
    PermissionDenied,
    /// No interface has this address.
    AddrNotAvailable,
    /// Anything else; see the message.
    Other,
}
