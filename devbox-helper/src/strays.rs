//! What is left of sessions' blocks whose markers were lost. Each line that a session writes is sealed: from the line alone it can
//! be told which block it is from, and whether anybody has edited it. Only what is proved goes; the rest is reported.

use std::collections::HashSet;

use hostsfile::{Document, Edit, Error, HostsFile, Owner, Tag};

use crate::owner;

/// What the marks of all sessions' lines begin with.
const WORD: &str = "devbox";

/// The edits that remove a block, whatever has become of its markers, and its lines outside them.
pub(crate) fn removing(tag: &Tag) -> [Edit; 2] {
    [Edit::RepairBlock(tag.clone()), Edit::RemoveBlock(tag.clone())]
}

/// Whether every BEGIN of the tag names an owner for whom this holds; also `true` where there is none.
pub(crate) fn owners_are(document: &Document, tag: &Tag, wanted: impl Fn(&Owner) -> bool) -> bool {
    let owners = document.owners().remove(tag).unwrap_or_default();
    owners.iter().all(|owner| owner.as_ref().is_some_and(&wanted))
}

/// Removes what the owner has left of its block `tag`. Returns the numbers of the lines that stay, since they were edited.
pub(crate) fn remove_own(file: &HostsFile, tag: &Tag, own: &Owner) -> Result<Vec<usize>, Error> {
    file.edit_with::<Error>(|document| {
        let is_own = owners_are(document, tag, |owner| owner == own);
        Ok(if is_own {
            removing(tag).to_vec()
        } else {
            Vec::new()
        })
    })?;
    let document = file.read()?;
    let mark = tag.mark();
    let left = document.strays().into_iter().filter(|stray| stray.mark == mark);
    // Otherwise another process has the block, and its lines.
    let is_gone = owners_are(&document, tag, |_| false);
    Ok(left
        .filter(|_| is_gone)
        .map(|stray| stray.line.number())
        .collect())
}

/// Removes the lines of sessions that no BEGIN names. A living session writes its own again. Returns how many there were.
pub(crate) fn remove_orphans(file: &HostsFile) -> Result<usize, Error> {
    let mut removed = 0;
    file.edit_with::<Error>(|document| {
        let before = intact(document);
        let without_begin = document
            .owners()
            .into_iter()
            .filter(|(_, owners)| owners.is_empty());
        let mut edits: Vec<Edit> = without_begin
            .filter(|(tag, _)| tag.as_str().starts_with(WORD))
            .map(|(tag, _)| Edit::RepairBlock(tag))
            .collect();
        edits.push(Edit::RemoveOrphans {
            word: WORD.to_owned(),
        });
        let after = intact(&document.edited(&edits, &hostsfile::Options::new())?);
        // Where markers go, lines that were in a block may become strays.
        removed = before.saturating_sub(after);
        Ok(edits)
    })?;
    Ok(removed)
}

/// The numbers of the lines of dead sessions that stay: those that were edited, and markers that belong to nothing that is proved.
pub(crate) fn left(document: &Document) -> Vec<usize> {
    let owners = document.owners();
    let lives = |tag: &Tag| {
        let owners = owners.get(tag).map_or(&[][..], Vec::as_slice);
        owners
            .iter()
            .any(|owner| owner.as_ref().is_none_or(|owner| owner::is_alive(owner.as_str())))
    };
    let living: HashSet<String> = owners.keys().filter(|tag| lives(tag)).map(Tag::mark).collect();
    let strays = document.strays().into_iter().filter(|stray| is_ours(&stray.mark));
    let mut lines: Vec<usize> = strays
        .filter(|stray| !living.contains(&stray.mark))
        .map(|stray| stray.line.number())
        .collect();
    for (tag, _, markers) in document.damage() {
        if tag.as_str().starts_with(WORD) && owners.contains_key(&tag) && !lives(&tag) {
            lines.extend(markers);
        }
    }
    lines.sort_unstable();
    lines
}

fn intact(document: &Document) -> usize {
    let strays = document.strays().into_iter();
    strays
        .filter(|stray| stray.intact && is_ours(&stray.mark))
        .count()
}

fn is_ours(mark: &str) -> bool {
    mark.strip_prefix(WORD).is_some_and(|rest| rest.starts_with(':'))
}
