//! Hosts files for other languages: the `hostsfile` crate, with its blocks.

use std::sync::Arc;

use hostsfile::{Block, Comment, Document, Edit, Entry, HostName, Options, Tag};

use crate::error::DevboxError;

/// A hosts file as bytes. `render` of what was parsed gives the same bytes; adding a block and removing it again, too.
#[derive(Debug, uniffi::Object)]
pub struct HostsDocument(Document);

#[uniffi::export]
impl HostsDocument {
    /// Any bytes: nothing is refused, nothing is lost.
    #[uniffi::constructor]
    #[must_use]
    pub fn parse(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self(Document::parse(bytes)))
    }

    /// The bytes.
    #[must_use]
    pub fn render(&self) -> Vec<u8> {
        self.0.render().to_vec()
    }

    /// The addresses of a name, in file order and each once. Case and a final dot do not matter.
    #[must_use]
    pub fn lookup(&self, name: &str) -> Vec<String> {
        self.0.lookup(name).iter().map(ToString::to_string).collect()
    }

    /// The entries, those of blocks included, as far as resolvers agree on them.
    #[must_use]
    pub fn entries(&self) -> Vec<HostsEntry> {
        let entries = self.0.entries().map(|entry| HostsEntry {
            address: entry.address.to_string(),
            names: entry.names.iter().map(|name| (*name).to_owned()).collect(),
            comment: None,
        });
        entries.collect()
    }

    /// The document after these edits, which are made in one pass; this one stays as it is.
    pub fn edited(&self, edits: Vec<HostsEdit>) -> Result<Arc<Self>, DevboxError> {
        let edited = self.0.edited(&into_edits(edits)?, &Options::default())?;
        Ok(Arc::new(Self(edited)))
    }

    /// What these edits would change, as a unified diff.
    pub fn diff(&self, edits: Vec<HostsEdit>) -> Result<String, DevboxError> {
        let edits = into_edits(edits)?;
        let plan = self.0.plan(&edits, &Options::default())?;
        Ok(plan.diff().to_string())
    }
}

/// A hosts file on disk, replaced as a whole: no reader sees half of a change, and no writer loses another's.
#[derive(Debug, uniffi::Object)]
pub struct HostsFile(hostsfile::HostsFile);

#[uniffi::export]
impl HostsFile {
    /// An existing file. It takes the right to write it to change it.
    #[uniffi::constructor]
    pub fn open(path: &str) -> Result<Arc<Self>, DevboxError> {
        Ok(Arc::new(Self(hostsfile::HostsFile::open(path)?)))
    }

    /// The system's.
    #[uniffi::constructor]
    pub fn system() -> Result<Arc<Self>, DevboxError> {
        Ok(Arc::new(Self(hostsfile::HostsFile::system()?)))
    }

    /// Its content.
    pub fn read(&self) -> Result<Arc<HostsDocument>, DevboxError> {
        Ok(Arc::new(HostsDocument(self.0.read()?)))
    }

    /// Makes these edits in one write; says whether the file changed. It waits for other writers, for seconds at most.
    pub fn edit(&self, edits: Vec<HostsEdit>) -> Result<bool, DevboxError> {
        Ok(self.0.edit(&into_edits(edits)?)?.changed)
    }
}

/// An address and its names.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct HostsEntry {
    /// The address.
    pub address: String,
    /// The names, the canonical one first.
    pub names: Vec<String>,
    /// What is written behind them; entries that were read have none.
    #[uniffi(default = None)]
    pub comment: Option<String>,
}

/// One change of a block: a part of the file between `# BEGIN tag` and `# END tag`. The user's own lines are never touched.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Enum)]
#[expect(
    clippy::enum_variant_names,
    reason = "the names are those of `hostsfile::Edit`, which edits more than blocks"
)]
pub enum HostsEdit {
    /// Sets the block's whole content. Without entries, the block is removed.
    SetBlock {
        /// The block's tag.
        tag: String,
        /// Its entries.
        entries: Vec<HostsEntry>,
    },
    /// Adds entries to the block, which is created at the end of the file if it does not exist.
    AddToBlock {
        /// The block's tag.
        tag: String,
        /// The entries.
        entries: Vec<HostsEntry>,
    },
    /// Removes names from the block; a block with no names left is removed.
    RemoveFromBlock {
        /// The block's tag.
        tag: String,
        /// The names; those that the block does not have are ignored.
        names: Vec<String>,
    },
    /// Removes the block and, byte for byte, everything that adding it had changed.
    RemoveBlock {
        /// The block's tag.
        tag: String,
    },
    /// Uncomments the entries of the block.
    EnableBlock {
        /// The block's tag.
        tag: String,
    },
    /// Comments out the entries of the block.
    DisableBlock {
        /// The block's tag.
        tag: String,
    },
    /// Repairs the markers of a damaged block.
    RepairBlock {
        /// The block's tag.
        tag: String,
    },
}

fn into_edits(edits: Vec<HostsEdit>) -> Result<Vec<Edit>, DevboxError> {
    let edits = edits.into_iter().map(Edit::try_from);
    Ok(edits.collect::<Result<_, _>>()?)
}

impl TryFrom<HostsEdit> for Edit {
    type Error = hostsfile::Error;

    fn try_from(edit: HostsEdit) -> Result<Self, hostsfile::Error> {
        Ok(match edit {
            HostsEdit::SetBlock { tag, entries } => Self::SetBlock(block(&tag, entries)?),
            HostsEdit::AddToBlock { tag, entries } => Self::AddToBlock(block(&tag, entries)?),
            HostsEdit::RemoveFromBlock { tag, names } => {
                let names = names.iter().map(|name| HostName::new(name));
                Self::RemoveFromBlock {
                    tag: Tag::new(&tag)?,
                    names: names.collect::<Result<_, _>>()?,
                }
            }
            HostsEdit::RemoveBlock { tag } => Self::RemoveBlock(Tag::new(&tag)?),
            HostsEdit::EnableBlock { tag } => Self::EnableBlock(Tag::new(&tag)?),
            HostsEdit::DisableBlock { tag } => Self::DisableBlock(Tag::new(&tag)?),
            HostsEdit::RepairBlock { tag } => Self::RepairBlock(Tag::new(&tag)?),
        })
    }
}

fn block(tag: &str, entries: Vec<HostsEntry>) -> Result<Block, hostsfile::Error> {
    let entries = entries.into_iter().map(Entry::try_from);
    Ok(Block::new(Tag::new(tag)?).with_entries(entries.collect::<Result<Vec<_>, _>>()?))
}

impl TryFrom<HostsEntry> for Entry {
    type Error = hostsfile::Error;

    fn try_from(entry: HostsEntry) -> Result<Self, hostsfile::Error> {
        let comment = entry.comment.as_deref().map(Comment::new).transpose()?;
        let names = entry.names.iter().map(String::as_str);
        Ok(Self::parse(&entry.address, names)?.with_comment(comment))
    }
}
