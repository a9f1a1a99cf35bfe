//! What is left of blocks whose markers were damaged.

use std::collections::{BTreeMap, HashSet};

use super::Document;
use crate::error::Error;
use crate::line::LineRef;
use crate::name::{Owner, Tag};
use crate::scan::{self, MarkerKind, Markers};
use crate::seal::{self, Seal};

/// A line outside all complete blocks that has a block's seal.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stray {
    /// The line.
    pub line: LineRef,
    /// Whether it is as it was written. One that is not was edited since, and may hold what its editor needs.
    pub intact: bool,
    /// The [mark](Tag::mark) of the block that it was written for.
    pub mark: String,
}

impl Tag {
    /// What the seals of this block's lines begin with: `devbox:3fa9-` for `devbox-dev-1a2b3c4d`. Of tags with the same first word,
    /// two have the same mark by a chance of 1 in 65,536.
    #[must_use]
    pub fn mark(&self) -> String {
        Seal::of(self).mark().to_owned()
    }
}

impl Document {
    /// The [sealed](crate::Block::sealed) lines outside all complete blocks: the lines of damaged blocks, and those whose
    /// markers are gone altogether.
    /// ```
    /// use hostsfile::{Block, Document, Edit, Entry, Options, Tag};
    /// let tag = Tag::new("devbox-dev")?;
    /// let block = Block::new(tag.clone()).sealed().with_entries([Entry::new("127.77.0.1".parse()?, ["orders"])?]);
    /// let written = Document::parse("127.0.0.1 localhost\n").edited(&[Edit::SetBlock(block)], &Options::new())?;
    /// assert!(written.strays().is_empty());
    ///
    /// let text = String::from_utf8(written.into_bytes())?;
    /// let damaged = Document::parse(text.replace("# END devbox-dev\n", ""));
    /// assert!(damaged.strays()[0].mark == tag.mark() && damaged.strays()[0].intact);
    /// let repaired = damaged.edited(&[Edit::RepairBlock(tag)], &Options::new())?;
    /// assert_eq!(repaired.render(), b"127.0.0.1 localhost\n");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn strays(&self) -> Vec<Stray> {
        let bytes = self.render();
        let (mut number, mut at) = (1, 0);
        let found = seal::outside_blocks(bytes, &Markers::of(bytes)).into_iter();
        let strays = found.map(|(range, found)| {
            number += memchr::memchr_iter(b'\n', &bytes[at..range.start]).count();
            at = range.start;
            Stray {
                line: LineRef::new(number, scan::chomp(&bytes[range])),
                intact: found.intact,
                mark: found.mark.to_owned(),
            }
        });
        strays.collect()
    }

    /// For each tag of a marker, the owners that its BEGINs name, whether or not the block is complete.
    #[must_use]
    pub fn owners(&self) -> BTreeMap<Tag, Vec<Option<Owner>>> {
        let mut owners: BTreeMap<Tag, Vec<Option<Owner>>> = BTreeMap::new();
        for line in Markers::of(self.render()).lines {
            let Ok(tag) = Tag::new(line.tag) else { continue };
            let of_tag = owners.entry(tag).or_default();
            if line.kind == MarkerKind::Begin {
                of_tag.push(line.owner());
            }
        }
        owners
    }

    /// The tags whose BEGINs all name owners that are not alive, with one of the owners, and without damaged blocks of which
    /// nothing can be proved.
    pub(crate) fn abandoned(&self, alive: impl Fn(&Owner) -> bool) -> Vec<(Tag, Owner)> {
        let markers = Markers::of(self.render());
        let strays = self.strays();
        let proved: HashSet<&str> = strays
            .iter()
            .filter(|stray| stray.intact)
            .map(|stray| stray.mark.as_str())
            .collect();
        let mut abandoned = Vec::new();
        for tag in markers.tags() {
            let owners: Option<Vec<Owner>> = markers.begins(tag).map(scan::MarkerLine::owner).collect();
            let owner = owners.filter(|owners| !owners.iter().any(&alive));
            let Some(owner) = owner.and_then(|owners| owners.into_iter().next()) else {
                continue;
            };
            let Ok(tag) = Tag::new(tag) else { continue };
            match markers.locate_checked(&tag) {
                Err(Error::DamagedBlock { .. }) if !proved.contains(Seal::of(&tag).mark()) => {}
                _ => abandoned.push((tag, owner)),
            }
        }
        abandoned
    }
}
