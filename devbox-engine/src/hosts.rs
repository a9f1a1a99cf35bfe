//! A session's names as a hosts file: a private one for one process tree, or the one that a session would leave.

use std::path::{Path, PathBuf};

use devbox_helper_client::{Conflict, HeldNames, HostsEntry, HostsReport};
use hostsfile::{
    Block, Diff, Document, Edit, Entry, Error, Held, HostsFile, Neighbour, Options, Plan, Tag, UserNames,
};

/// What the tags of all sessions begin with.
const SESSION_PREFIX: &str = "devbox-";
/// The block's tag in a private file, of which there is one for each process tree.
const PRIVATE_TAG: &str = "devbox-exec";
/// A file with the session's names in it.
pub(crate) struct Rendered {
    pub(crate) bytes: Vec<u8>,
    /// Names that one of the user's own lines has; they were left to it.
    conflicts: Vec<Conflict>,
    held: Vec<Held>,
    diff: Diff,
}

impl Rendered {
    /// What the helper would report of a write of these bytes.
    pub(crate) fn report(&self, file: &Path) -> HostsReport {
        HostsReport {
            file: file.to_owned(),
            changed: !self.diff.is_empty(),
            in_place: true,
            diagnostics: Vec::new(),
            omitted: 0,
            conflicts: self.conflicts.clone(),
            held: self.held.iter().map(held).collect(),
            removed: Vec::new(),
        }
    }

    /// The change as a unified diff of this file.
    pub(crate) fn diff(&self, file: &Path) -> String {
        self.diff.with_label(&file.display().to_string()).to_string()
    }
}

/// Where this system's hosts file is.
///
/// # Errors
/// [`Error`](hostsfile::Error) on a system that tells of none.
pub fn system_hosts_file() -> Result<PathBuf, Error> {
    HostsFile::system().map(|file| file.path().to_owned())
}

/// A hosts file without the blocks of sessions, as the base of a private one: what its process tree sees of a session comes
/// from its own.
#[must_use]
pub fn without_sessions(bytes: &[u8]) -> Vec<u8> {
    let document = Document::parse(bytes);
    let blocks = document.blocks();
    let tags = blocks
        .iter()
        .map(|block| block.tag)
        .filter(|tag| tag.starts_with(SESSION_PREFIX));
    let edits: Vec<_> = tags
        .filter_map(|tag| Tag::new(tag).ok())
        .map(Edit::RemoveBlock)
        .collect();
    match document.plan(&edits, &Options::new()) {
        Ok(plan) => plan.new_bytes(),
        // A block whose end is unknown cannot be told from the user's lines.
        Err(error) => {
            tracing::warn!(%error, "another session's block stays in the private hosts file");
            bytes.to_vec()
        }
    }
}

/// A private hosts file: the base with the session's names.
pub(crate) fn render(base: &[u8], entries: &[HostsEntry]) -> Result<Rendered, Error> {
    rendered(base, &[set_block(PRIVATE_TAG, entries)?], Vec::new())
}

/// The change that puts a block with these entries into a hosts file. A name that one of the user's own lines has is left
/// to it.
///
/// # Errors
/// [`Error`](hostsfile::Error): an entry that is none, or a damaged block in the file.
pub fn plan_block<'b>(bytes: &'b [u8], tag: &str, entries: &[HostsEntry]) -> Result<Plan<'b>, Error> {
    hostsfile::plan(bytes, &[set_block(tag, entries)?], &options())
}

/// Other sessions, as a plan sees them.
pub(crate) struct Others<'a> {
    /// The tag of the session's block that the planned one would displace.
    pub(crate) displaced: Option<&'a str>,
    /// Whether the process that a block names as its owner lives.
    pub(crate) owner_lives: &'a (dyn Fn(&str) -> bool + Send + Sync),
    /// Whether names are taken from them.
    pub(crate) take: bool,
}

/// The block of this tag in a file of these bytes, beside those of other sessions.
pub(crate) fn plan_beside(
    bytes: &[u8],
    others: &Others<'_>,
    tag: &str,
    entries: &[HostsEntry],
) -> Result<Rendered, Error> {
    let mut edits = Vec::new();
    if let Some(displaced) = others.displaced {
        edits.push(Edit::RemoveBlock(Tag::new(displaced)?));
    }
    let block = Block::new(Tag::new(tag)?).with_entries(entries_of(entries)?);
    let setting = Document::parse(bytes).setting_beside(
        block,
        |other| match &other.owner {
            Some(owner) if other.tag.starts_with(SESSION_PREFIX) && others.displaced != Some(other.tag) => {
                if (others.owner_lives)(owner.as_str()) {
                    Neighbour::Holder
                } else {
                    Neighbour::Abandoned
                }
            }
            _ => Neighbour::Stranger,
        },
        |_| others.take,
    );
    edits.extend(setting.edits);
    rendered(bytes, &edits, setting.held)
}

fn rendered(bytes: &[u8], edits: &[Edit], held: Vec<Held>) -> Result<Rendered, Error> {
    let plan = hostsfile::plan(bytes, edits, &options())?;
    let conflicts = plan.conflicts().iter().map(|found| Conflict {
        name: found.name.to_string(),
        line: found.line,
        address: found.address,
        left_out: found.left_out,
    });
    Ok(Rendered {
        bytes: plan.new_bytes(),
        conflicts: conflicts.collect(),
        held,
        diff: plan.diff(),
    })
}

fn held(found: &Held) -> HeldNames {
    HeldNames {
        tag: found.tag.to_string(),
        helper_pid: None,
        names: found.names.iter().map(ToString::to_string).collect(),
    }
}

/// An empty block is none: nothing of it stays in the file.
fn set_block(tag: &str, entries: &[HostsEntry]) -> Result<Edit, Error> {
    if entries.is_empty() {
        return Ok(Edit::RemoveBlock(Tag::new(tag)?));
    }
    let block = Block::new(Tag::new(tag)?).with_entries(entries_of(entries)?);
    Ok(Edit::SetBlock(block))
}

fn entries_of(entries: &[HostsEntry]) -> Result<Vec<Entry>, Error> {
    let entries = entries
        .iter()
        .map(|entry| Entry::new(entry.address, &entry.names));
    entries.collect()
}

fn options() -> Options {
    Options::new().user_names(UserNames::LeaveOut)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(address: &str, name: &str) -> HostsEntry {
        HostsEntry {
            address: address.parse().unwrap(),
            names: vec![name.to_owned()],
        }
    }

    #[test]
    fn a_name_of_the_users_stays_the_users() {
        let base = b"10.0.0.1 orders.backend\n";
        let rendered = render(
            base,
            &[
                entry("127.77.0.2", "orders.backend"),
                entry("127.77.0.3", "web.shop"),
            ],
        )
        .unwrap();
        let text = String::from_utf8(rendered.bytes).unwrap();
        assert!(text.starts_with("10.0.0.1 orders.backend\n"));
        assert!(text.contains("127.77.0.3 web.shop"));
        assert!(!text.contains("127.77.0.2"));
        let taken: Vec<_> = rendered
            .conflicts
            .iter()
            .map(|found| (found.name.as_str(), found.line))
            .collect();
        assert_eq!(taken, [("orders.backend", 1)]);
    }

    #[test]
    fn blocks_of_sessions_are_left_out_and_nothing_else() {
        let base = b"127.0.0.1 localhost\n# BEGIN devbox-dev-1\n127.77.0.2 a\n# END devbox-dev-1\n# BEGIN mine\n10.0.0.1 b\n# END mine";
        assert_eq!(
            without_sessions(base),
            b"127.0.0.1 localhost\n# BEGIN mine\n10.0.0.1 b\n# END mine"
        );
    }
}
