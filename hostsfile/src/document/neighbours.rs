//! Blocks that other programs keep in the same file, and names that they have as well.

use std::collections::{HashMap, HashSet};

use super::{BlockView, Document};
use crate::edit::Edit;
use crate::entry::Block;
use crate::name::{HostName, Owner, Tag};

/// How another block of the file stands to one that is to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Neighbour {
    /// It is no concern of the new block's: a name may be in both.
    Stranger,
    /// It holds its names: one of them is in the new block only if it is taken from this one.
    Holder,
    /// Nobody keeps it any more: it is removed if it has a name that the new block is to have.
    Abandoned,
}

/// How to set a block so that none of its names is in a neighbour's block too: see [`Document::setting_beside`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Setting {
    /// The edits, for one write: no reader ever sees a name twice.
    pub edits: Vec<Edit>,
    /// The names that the block goes without, by the block that holds them, in file order.
    pub held: Vec<Held>,
    /// The abandoned blocks that are removed.
    pub removed: Vec<(Tag, Owner)>,
}

/// Names that another block holds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Held {
    /// The block.
    pub tag: Tag,
    /// Its owner, if its BEGIN names one.
    pub owner: Option<Owner>,
    /// The names, sorted.
    pub names: Vec<HostName>,
}

impl Document {
    /// Plans to set a block beside those of others, so that each name is in one of them only. A name that a
    /// [holder](Neighbour::Holder) has is left out of the block, or removed from the holder's if `take` says so. Damaged blocks
    /// are no neighbours.
    ///
    /// ```
    /// use hostsfile::{Block, Document, Entry, Neighbour, Options, Tag};
    /// let document = Document::parse("# BEGIN dev\n127.77.0.2 orders\n# END dev\n");
    /// let names = ["orders", "orders.staging"];
    /// let block = Block::new(Tag::new("staging")?).with_entries([Entry::new("127.77.0.3".parse()?, names)?]);
    /// let setting = document.setting_beside(block, |_| Neighbour::Holder, |_| false);
    /// assert_eq!(setting.held[0].names[0].as_str(), "orders");
    /// let after = document.edited(&setting.edits, &Options::new())?;
    /// assert_eq!(after.lookup("orders"), ["127.77.0.2".parse::<std::net::IpAddr>()?]);
    /// assert_eq!(after.lookup("orders.staging"), ["127.77.0.3".parse::<std::net::IpAddr>()?]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn setting_beside(
        &self,
        mut block: Block,
        neighbour: impl Fn(&BlockView<'_>) -> Neighbour,
        take: impl Fn(&HostName) -> bool,
    ) -> Setting {
        let mut setting = Setting {
            edits: Vec::new(),
            held: Vec::new(),
            removed: Vec::new(),
        };
        let mut neighbours = self.blocks();
        neighbours.retain(|view| view.tag != block.tag.as_str());
        let judged: Vec<_> = neighbours.iter().map(|view| (view, neighbour(view))).collect();
        let mut left_out = HashSet::new();
        if judged.iter().any(|(_, found)| *found != Neighbour::Stranger) {
            let wanted = block.entries.iter().flat_map(|entry| &entry.names);
            let wanted: HashMap<&str, &HostName> = wanted.map(|name| (name.as_str(), name)).collect();
            for (view, found) in judged {
                let Ok(tag) = Tag::new(view.tag) else { continue };
                let mut both = shared(view, &wanted);
                if both.is_empty() {
                    continue;
                }
                match (found, &view.owner) {
                    (Neighbour::Stranger, _) => {}
                    (Neighbour::Abandoned, owner) => {
                        setting.edits.push(Edit::RemoveBlock(tag.clone()));
                        setting.removed.extend(owner.clone().map(|owner| (tag, owner)));
                    }
                    (Neighbour::Holder, owner) => {
                        let taken: Vec<_> = both.extract_if(.., |name| take(name)).collect();
                        if !taken.is_empty() {
                            setting.edits.push(Edit::RemoveFromBlock {
                                tag: tag.clone(),
                                names: taken,
                            });
                        }
                        both.retain(|name| left_out.insert(name.clone()));
                        if !both.is_empty() {
                            setting.held.push(Held {
                                tag,
                                owner: owner.clone(),
                                names: both,
                            });
                        }
                    }
                }
            }
        }
        if !left_out.is_empty() {
            for entry in &mut block.entries {
                entry.names.retain(|name| !left_out.contains(name));
            }
            block.entries.retain(|entry| !entry.names.is_empty());
        }
        setting.edits.push(Edit::SetBlock(block));
        setting
    }
}

/// The wanted names that resolvers see in a block, sorted.
fn shared(view: &BlockView<'_>, wanted: &HashMap<&str, &HostName>) -> Vec<HostName> {
    let there = view.entries.iter().flat_map(|entry| &entry.names);
    let mut both: Vec<HostName> = there
        .filter_map(|name| wanted.get(name.to_ascii_lowercase().as_str()))
        .map(|name| (*name).clone())
        .collect();
    both.sort_unstable();
    both.dedup();
    both
}
