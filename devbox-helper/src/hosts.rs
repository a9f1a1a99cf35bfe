//! The caller's one block in the hosts file. The block is its own journal: its BEGIN line names this process, so that a later
//! process can tell whose it was.

mod neighbours;

use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use hostsfile::{
    Block, Document, Edit, Entry, FileOptions, HostName, HostsFile, Method, Options, Outcome, Owner, Tag,
    UserNames,
};

use devbox_helper_client::{
    Conflict, Diagnostic, HelperError, HostsBlock, HostsReport, ReleaseReport, SweepReport, SweptBlock,
    UserEdit,
};

use crate::error::{Error, with_sources};
use crate::policy::{Policy, not_allowed};
use crate::{by_hand, name_check, owner, sys};

/// Removes the blocks of sessions (`devbox-…`) whose owners are dead, with the permissions of this process. Every other byte
/// stays. Blocks without an owner belong to the user and stay as well.
///
/// # Errors
/// [`HelperError::PermissionDenied`], [`HelperError::Locked`] and whatever else keeps the file from being written. A file that
/// needs no change needs no permission to change it.
pub fn sweep(file: &Path) -> Result<SweepReport, HelperError> {
    let hosts = open(file)?;
    let document = hosts.read().map_err(|error| hosts_error(file, &error))?;
    let sessions = document
        .blocks()
        .into_iter()
        .filter(|block| block.tag.starts_with(SESSION_PREFIX));
    let owners: BTreeSet<Owner> = sessions.filter_map(|block| block.owner).collect();
    remove_owned(&hosts, |owner| {
        owners.contains(owner) && !owner::is_alive(owner.as_str())
    })
}

/// The hosts file of the policy, and this caller's block in it.
pub(crate) struct Hosts {
    policy: Policy,
    owner: Owner,
    /// The tag of the block that was written last.
    held: Option<Tag>,
    /// Whether there was a write that is not undone yet, even one that failed half-way.
    touched: bool,
    /// The names that this caller asked for last. What it lost since it does not take back.
    asked: HashSet<HostName>,
}

impl Hosts {
    pub(crate) fn new(policy: Policy, owner: Owner) -> Self {
        Self {
            policy,
            owner,
            held: None,
            touched: false,
            asked: HashSet::new(),
        }
    }

    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Sets the caller's block. Names that other sessions hold are left to them, unless it takes those that it asks for the first
    /// time.
    pub(crate) fn set(&mut self, block: &HostsBlock, take: bool) -> Result<HostsReport, HelperError> {
        let block = self.checked(block)?;
        let tag = block.tag.clone();
        let former = self
            .held
            .iter()
            .filter(|held| **held != tag)
            .cloned()
            .map(Edit::RemoveBlock);
        let former: Vec<Edit> = former.collect();
        self.touched = true;
        let options = Options::new().user_names(UserNames::LeaveOut);
        let is_taken = |name: &HostName| take && !self.asked.contains(name);
        let mut beside = None;
        let edits = |document: &Document| {
            let mut setting = neighbours::setting(document, block.clone(), &self.owner, is_taken);
            let own = std::mem::take(&mut setting.edits);
            beside = Some(setting);
            former.iter().cloned().chain(own).collect()
        };
        let mut report = self.with_rights(|| self.edit_by(edits, options, Some(&tag)))?;
        if let Some(setting) = beside {
            neighbours::tell(&mut report, setting);
        }
        self.asked = block.entries.into_iter().flat_map(|entry| entry.names).collect();
        self.held = Some(tag);
        Ok(report)
    }

    pub(crate) fn clear(&mut self) -> Result<HostsReport, HelperError> {
        let edits: Vec<Edit> = self.held.iter().cloned().map(Edit::RemoveBlock).collect();
        let report = self.with_rights(|| self.edit(&edits, Options::new(), self.held.as_ref()))?;
        self.held = None;
        self.asked.clear();
        Ok(report)
    }

    pub(crate) fn restore_by_hand(&self, content: &[u8]) -> Result<HostsReport, HelperError> {
        self.check_by_hand()?;
        let path = &self.policy.hosts_file;
        self.with_rights(|| {
            let outcome = open(path)?.replace(content);
            outcome
                .map(|outcome| report(&outcome))
                .map_err(|error| hosts_error(path, &error))
        })
    }

    fn check_by_hand(&self) -> Result<(), HelperError> {
        if self.policy.allow_user_edits {
            Ok(())
        } else {
            Err(not_allowed("an edit by hand", "this helper serves a session"))
        }
    }

    pub(crate) fn edit_by_hand(&self, edits: &[UserEdit]) -> Result<HostsReport, HelperError> {
        self.check_by_hand()?;
        let edits = by_hand::from_wire(edits)?;
        self.with_rights(|| self.edit(&edits, Options::new(), None))
    }

    pub(crate) fn sweep(&self) -> Result<SweepReport, HelperError> {
        self.with_rights(|| sweep(&self.policy.hosts_file))
    }

    /// Removes what this process owns, but not a block with the same tag that somebody else has written since.
    pub(crate) fn release(&mut self) -> Result<ReleaseReport, HelperError> {
        if !self.touched {
            return Ok(ReleaseReport { removed_block: None });
        }
        let swept =
            self.with_rights(|| remove_owned(&open(&self.policy.hosts_file)?, |owner| *owner == self.owner))?;
        self.held = None;
        self.touched = false;
        Ok(ReleaseReport {
            removed_block: swept.removed.into_iter().next().map(|block| block.tag),
        })
    }

    /// The last chance: a lock may be released soon, or a full disk have space again.
    pub(crate) fn undo_with_patience(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + UNDO_PATIENCE;
        let mut pause = Duration::from_millis(20);
        loop {
            match self.release() {
                Ok(_) => return Ok(()),
                Err(source) if Instant::now() >= deadline || !may_pass(&source) => {
                    return Err(Error::Undo {
                        file: self.policy.hosts_file.clone(),
                        source,
                    });
                }
                Err(_) => thread::sleep(pause),
            }
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    fn checked(&self, block: &HostsBlock) -> Result<Block, HelperError> {
        let what = || format!("the tag {:?}", block.tag);
        if block.tag.strip_prefix(SESSION_PREFIX).is_none_or(str::is_empty) {
            return Err(not_allowed(what(), "a session's block is called devbox-…"));
        }
        let tag = Tag::new(&block.tag).map_err(|error| not_allowed(what(), error.to_string()))?;
        let mut entries = Vec::with_capacity(block.entries.len());
        for entry in &block.entries {
            self.policy.check_address(entry.address)?;
            let names = entry
                .names
                .iter()
                .map(|name| name_check::check(name))
                .collect::<Result<Vec<_>, _>>()?;
            let refused = |error: hostsfile::Error| {
                not_allowed(format!("the entry {}", entry.address), error.to_string())
            };
            entries.push(Entry::new(entry.address, names).map_err(refused)?);
        }
        Ok(Block::new(tag)
            .with_owner(self.owner.clone())
            .with_entries(entries))
    }

    /// One write. `session` is a tag that must be free for this caller at the moment of the write.
    fn edit(
        &self,
        edits: &[Edit],
        options: Options,
        session: Option<&Tag>,
    ) -> Result<HostsReport, HelperError> {
        self.edit_by(|_| edits.to_vec(), options, session)
    }

    /// One write of edits that depend on what is in the file. Where the file changes meanwhile, they are asked for anew.
    fn edit_by(
        &self,
        mut edits: impl FnMut(&Document) -> Vec<Edit>,
        options: Options,
        session: Option<&Tag>,
    ) -> Result<HostsReport, HelperError> {
        let path = &self.policy.hosts_file;
        let opened = FileOptions::new().plan_options(options).open(path);
        let file = opened.map_err(|error| hosts_error(path, &error))?;
        let outcome = file.edit_with::<Refusal>(|document| {
            if let Some(tag) = session {
                self.check_free(document, tag)?;
            }
            Ok(edits(document))
        });
        match outcome {
            Ok(outcome) => Ok(report(&outcome)),
            Err(Refusal::Hosts(error)) => Err(hosts_error(path, &error)),
            Err(Refusal::TagTaken { pid }) => {
                let tag = session.map(Tag::to_string).unwrap_or_default();
                Err(HelperError::TagTaken {
                    file: path.clone(),
                    tag,
                    pid,
                })
            }
        }
    }

    /// This caller may not replace the block of a living session, or one without an owner.
    fn check_free(&self, document: &Document, tag: &Tag) -> Result<(), Refusal> {
        let Some(block) = document.block(tag)? else {
            return Ok(());
        };
        match block.owner {
            Some(owner) if owner == self.owner || !owner::is_alive(owner.as_str()) => Ok(()),
            owner => Err(Refusal::TagTaken {
                pid: owner.and_then(|owner| owner::pid(owner.as_str())),
            }),
        }
    }

    /// The helper has its privileges for the system's file. Any other file is the caller's own business and is touched with
    /// the caller's permissions only.
    fn with_rights<T>(&self, work: impl FnOnce() -> Result<T, HelperError>) -> Result<T, HelperError> {
        match &self.policy.caller {
            Some(caller) if self.policy.hosts_file != hostsfile::system_path() => {
                sys::with_rights_of(caller, work).map_err(|error| HelperError::Rights {
                    uid: caller.uid,
                    message: error.to_string(),
                })?
            }
            _ => work(),
        }
    }
}

/// Why an edit was abandoned.
enum Refusal {
    Hosts(hostsfile::Error),
    TagTaken { pid: Option<u32> },
}

impl From<hostsfile::Error> for Refusal {
    fn from(error: hostsfile::Error) -> Self {
        Self::Hosts(error)
    }
}

fn open(file: &Path) -> Result<HostsFile, HelperError> {
    HostsFile::open(file).map_err(|error| hosts_error(file, &error))
}

fn remove_owned(file: &HostsFile, gone: impl Fn(&Owner) -> bool) -> Result<SweepReport, HelperError> {
    let path = file.path();
    let swept = file
        .sweep(|owner| !gone(owner))
        .map_err(|error| hosts_error(path, &error))?;
    let block = |(tag, owner): (Tag, Owner)| SweptBlock {
        tag: tag.to_string(),
        owner: owner.to_string(),
    };
    Ok(SweepReport {
        file: path.to_owned(),
        removed: swept.removed.into_iter().map(block).collect(),
    })
}

fn report(outcome: &Outcome) -> HostsReport {
    let (diagnostics, conflicts) = (outcome.diagnostics(), outcome.conflicts());
    let more = |count: usize| count.saturating_sub(MAX_FINDINGS);
    HostsReport {
        file: outcome.path.clone(),
        changed: outcome.changed,
        in_place: outcome.method == Method::InPlace,
        diagnostics: diagnostics.iter().take(MAX_FINDINGS).map(diagnostic).collect(),
        omitted: more(diagnostics.len()) + more(conflicts.len()),
        conflicts: conflicts.iter().take(MAX_FINDINGS).map(conflict).collect(),
        held: Vec::new(),
        removed: Vec::new(),
    }
}

fn diagnostic(found: &hostsfile::Diagnostic) -> Diagnostic {
    Diagnostic {
        line: found.line,
        message: found.finding.to_string(),
        kind: found.kind().to_owned(),
    }
}

fn conflict(found: &hostsfile::Conflict) -> Conflict {
    Conflict {
        name: found.name.to_string(),
        line: found.line,
        address: found.address,
        left_out: found.left_out,
    }
}

fn hosts_error(file: &Path, error: &hostsfile::Error) -> HelperError {
    use hostsfile::Error as Hosts;
    let file = file.to_owned();
    let message = with_sources(error);
    match error {
        Hosts::PermissionDenied { .. } => HelperError::PermissionDenied { file, message },
        Hosts::Locked { waited, .. } => HelperError::Locked {
            file,
            waited: *waited,
        },
        Hosts::ReadOnlyFile { .. }
        | Hosts::ReadOnlyFileSystem { .. }
        | Hosts::Immutable { .. }
        | Hosts::ManagedByNix { .. } => HelperError::ReadOnly { file, message },
        Hosts::DamagedBlock { lines, .. } => HelperError::Damaged {
            file,
            line: lines.first().copied().unwrap_or_default(),
            message,
        },
        Hosts::NotFound { .. } => HelperError::NotFound { file },
        _ => HelperError::Hosts { file, message },
    }
}

/// Whether waiting may help, as with a lock, a full disk or a concurrent writer, rather than only a person.
fn may_pass(error: &HelperError) -> bool {
    !matches!(
        error,
        HelperError::Damaged { .. }
            | HelperError::NotFound { .. }
            | HelperError::PermissionDenied { .. }
            | HelperError::ReadOnly { .. }
            | HelperError::Unsupported { .. }
    )
}

const SESSION_PREFIX: &str = "devbox-";
const UNDO_PATIENCE: Duration = Duration::from_secs(10);
/// More than anybody reads; 100,000 of them would not fit into a reply.
const MAX_FINDINGS: usize = 1000;
