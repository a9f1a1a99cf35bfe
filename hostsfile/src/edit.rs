//! What can be asked of a hosts file.

use crate::entry::{Block, Entry};
use crate::layout::Layout;
use crate::line::LineRef;
use crate::name::{HostName, Marker, Tag};
use crate::scan::LineEnding;

/// One change. A batch of them is carried out in order, as one pass over the file and one write.
///
/// The first group works on managed blocks and lines and never touches a line of the user's. The last group
/// ([`AppendLine`](Self::AppendLine) and below) is for the user's own lines, each named by number and text; the methods
/// `Document::adding` and `Document::removing_…` find those lines.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Edit {
    /// Makes this the whole content of the block: in its place if it is there, else at the end of the file. The block is
    /// enabled. Without entries, the block is removed.
    SetBlock(Block),
    /// Adds entries to a block, which is made at the end of the file if it is not there. Names that the block has at the
    /// address already are not added again. A disabled block stays disabled. An owner, if given, is written.
    AddToBlock(Block),
    /// Takes names out of a block; a block without names left is removed.
    RemoveFromBlock {
        /// The block.
        tag: Tag,
        /// The names; those that are not there do not matter.
        names: Vec<HostName>,
    },
    /// Removes a block and, byte for byte, whatever adding it had changed. No such block is no error.
    RemoveBlock(Tag),
    /// Makes the commented entries of a block into entries.
    EnableBlock(Tag),
    /// Makes the entries of a block into comments.
    DisableBlock(Tag),
    /// Mends the markers of a damaged block: of several whole blocks one is made, in the place of the first; markers that
    /// form no block go, and what stood behind them stays as plain lines, since nothing proves whose they are.
    RepairBlock(Tag),
    /// Makes these the lines that carry the marker, wherever they stand; new ones go to the end of the file. Names are
    /// sorted, entries of one address share their lines. The entries' own comments do not count. Without entries, the lines go.
    SetManaged {
        /// The whole comment of the lines.
        marker: Marker,
        /// What the lines hold.
        entries: Vec<Entry>,
    },
    /// Removes the lines that carry the marker. Lines inside blocks are not looked at.
    RemoveManaged(Marker),

    /// Writes an entry of the user's at the end of the file.
    AppendLine(Entry),
    /// Adds names to a line of the user's, and lines below it once that is full.
    AddNames {
        /// The line.
        line: LineRef,
        /// The names; those it has do not matter.
        names: Vec<HostName>,
    },
    /// Takes names out of a line of the user's, the rest of which stays as it is; a line without names left is removed.
    RemoveNames {
        /// The line.
        line: LineRef,
        /// The names as text, in any case, so that names that we would not write can be removed too.
        names: Vec<String>,
    },
    /// Puts an entry in the place of a line of the user's.
    ReplaceLine {
        /// The line.
        line: LineRef,
        /// What comes in its place.
        entry: Entry,
    },
    /// Removes a line of the user's.
    RemoveLine(LineRef),
}

/// How edits are carried out; the default suits the system this runs on.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Options {
    /// How many names share a line. Default: nine, or one on macOS.
    pub layout: Layout,
    /// How new lines end in a file that has no line end yet. Default (`None`): CRLF on Windows, LF elsewhere. Otherwise
    /// new lines end as most lines of the file do, and a block that is replaced keeps its own line ends.
    pub line_ending: Option<LineEnding>,
    /// What becomes of a block's name that the user has in a line of their own. Default: it is written and reported.
    pub user_names: UserNames,
}

impl Options {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Options::default()
    }

    /// With this layout.
    #[must_use]
    pub fn layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }

    /// With this line end for a file that has none.
    #[must_use]
    pub fn line_ending(mut self, ending: LineEnding) -> Self {
        self.line_ending = Some(ending);
        self
    }

    /// With this rule for names that the user has already.
    #[must_use]
    pub fn user_names(mut self, rule: UserNames) -> Self {
        self.user_names = rule;
        self
    }
}

/// What becomes of a block's name that stands in a line outside all blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UserNames {
    /// It is written, and [`Plan::conflicts`](crate::Plan::conflicts) reports it. Most resolvers take the first line.
    #[default]
    Write,
    /// It is left out of the block, and [`Plan::conflicts`](crate::Plan::conflicts) reports it.
    LeaveOut,
}

/// What [`Document::adding`](crate::Document::adding) does where a name is at another address of the same family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnConflict {
    /// [`Error::NameTaken`](crate::Error::NameTaken).
    #[default]
    Refuse,
    /// The name leaves the user's other lines.
    Move,
    /// The name is then at both.
    Allow,
}
