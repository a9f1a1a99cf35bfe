//! The changes that a caller can ask for.

use std::net::IpAddr;

use crate::cidr::Cidr;
use crate::entry::{Block, Entry};
use crate::layout::Layout;
use crate::line::{EntryLine, LineRef};
use crate::name::{Comment, HostName, Marker, Tag};
use crate::scan::LineEnding;

/// One change. A batch of changes is applied in order, in one pass over the file and one write.
///
/// The first group works on managed blocks and lines and never touches the user's own lines. The last group
/// ([`AppendLine`](Self::AppendLine) and below) is for the user's own lines, each given by its number and text; the methods
/// `Document::adding` and `Document::removing_…` find those lines.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Edit {
    /// Sets the block's whole content, in its place if it exists, otherwise at the end of the file. The block becomes enabled.
    /// Without entries, the block is removed. Without an owner, the block keeps the one that it has.
    SetBlock(Block),
    /// Adds entries to a block, which is created at the end of the file if it does not exist. Names that the block already has
    /// for the address are not added again. A disabled block stays disabled. An owner, if given, is written.
    AddToBlock(Block),
    /// As [`AddToBlock`](Self::AddToBlock), and each name is taken from the block's other addresses of the same family, so that it
    /// leads to the new one alone.
    PointInBlock(Block),
    /// Removes names from a block; a block with no names left is removed.
    RemoveFromBlock {
        /// The block.
        tag: Tag,
        /// The names; those that the block does not have are ignored.
        names: Vec<HostName>,
    },
    /// Removes whole entries from a block; a block with no names left is removed.
    RemoveEntries {
        /// The block.
        tag: Tag,
        /// The entries.
        which: Which,
    },
    /// Sets or removes the comment of entries in a block.
    Comment {
        /// The block.
        tag: Tag,
        /// The entries.
        which: Which,
        /// The comment; `None` removes it.
        comment: Option<Comment>,
    },
    /// Removes a block and, byte for byte, everything that adding it had changed. It is not an error if there is no such block.
    RemoveBlock(Tag),
    /// Uncomments the entries of a block.
    EnableBlock(Tag),
    /// Comments out the entries of a block.
    DisableBlock(Tag),
    /// Repairs the markers of a damaged block. Several complete blocks are merged into the first. Markers that do not form a block
    /// are removed, and so are the block's [sealed](Block::sealed) lines outside them. Other lines after such markers stay as plain
    /// lines, since nothing proves whose they are.
    RepairBlock(Tag),
    /// Removes the intact [strays](crate::Document::strays) of blocks of which no marker is left.
    RemoveOrphans {
        /// The first word of those blocks' tags: `devbox` for `devbox-dev-1a2b3c4d`.
        word: String,
    },
    /// Makes these the lines that carry the marker, wherever they are; new lines go to the end of the file. Names are sorted, and
    /// entries with the same address share lines. The entries' own comments are ignored. Without entries, the lines are removed.
    SetManaged {
        /// The whole comment of the lines.
        marker: Marker,
        /// The entries on the lines.
        entries: Vec<Entry>,
    },
    /// Removes the lines that carry the marker, except those inside blocks.
    RemoveManaged(Marker),

    /// Adds a user's entry at the end of the file.
    AppendLine(Entry),
    /// Adds names to one of the user's lines, and adds lines below it once it is full.
    AddNames {
        /// The line.
        line: LineRef,
        /// The names; those that the line already has are ignored.
        names: Vec<HostName>,
    },
    /// Removes names from one of the user's lines and keeps the rest as it is; a line with no names left is removed.
    RemoveNames {
        /// The line.
        line: LineRef,
        /// The names as text, compared case-insensitively, so that names that this crate would not write can also be removed.
        names: Vec<String>,
    },
    /// Replaces one of the user's lines with an entry.
    ReplaceLine {
        /// The line.
        line: LineRef,
        /// The entry that replaces it.
        entry: Entry,
    },
    /// Removes one of the user's lines.
    RemoveLine(LineRef),
}

/// Which entries an edit is about.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Which {
    /// Those with this name.
    Name(HostName),
    /// Those with this address.
    Address(IpAddr),
    /// Those whose address is in this network.
    Within(Cidr),
    /// Those whose whole comment is this text.
    Comment(Comment),
}

impl Which {
    /// Whether an entry as it is in a file is meant. The comment of a sealed line counts without its seal.
    #[must_use]
    pub fn is_meant(&self, entry: &EntryLine<'_>) -> bool {
        match self {
            Which::Name(name) => entry.has(name.as_str()),
            Which::Address(address) => entry.address == *address,
            Which::Within(network) => network.contains(entry.address),
            Which::Comment(comment) => entry.comment == comment.as_str().as_bytes(),
        }
    }

    /// Whether an entry is meant.
    pub(crate) fn is_entry(&self, entry: &Entry) -> bool {
        match self {
            Which::Name(name) => entry.names.contains(name),
            Which::Address(address) => entry.address == *address,
            Which::Within(network) => network.contains(entry.address),
            Which::Comment(comment) => entry.comment.as_ref() == Some(comment),
        }
    }
}

/// How edits are applied. The default suits the operating system this runs on.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Options {
    /// How many names share a line. Default: nine; one on macOS.
    pub layout: Layout,
    /// How new lines end in a file that has no line end yet. Default (`None`): CRLF on Windows, LF elsewhere. In other files new
    /// lines end as most of the file's lines do, and a block that is replaced keeps its own line ends.
    pub line_ending: Option<LineEnding>,
    /// What happens to a block's name that is also on one of the user's own lines. Default: it is written and reported.
    pub user_names: UserNames,
}

impl Options {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Options::default()
    }

    /// Sets the layout.
    #[must_use]
    pub fn layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }

    /// Sets the line end for a file that has none.
    #[must_use]
    pub fn line_ending(mut self, ending: LineEnding) -> Self {
        self.line_ending = Some(ending);
        self
    }

    /// Sets the rule for names that the user already has.
    #[must_use]
    pub fn user_names(mut self, rule: UserNames) -> Self {
        self.user_names = rule;
        self
    }
}

/// What happens to a block's name that is also on a line outside all blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UserNames {
    /// It is written, and [`Plan::conflicts`](crate::Plan::conflicts) reports it. Most resolvers take the first line.
    #[default]
    Write,
    /// It is left out of the block, and [`Plan::conflicts`](crate::Plan::conflicts) reports it.
    LeaveOut,
}

/// What [`Document::adding`](crate::Document::adding) does if a name has another address of the same family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnConflict {
    /// It fails with [`Error::NameTaken`](crate::Error::NameTaken).
    #[default]
    Refuse,
    /// It removes the name from the user's other lines.
    Move,
    /// It keeps the other lines: the name then has both addresses.
    Allow,
}
