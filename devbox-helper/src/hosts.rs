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
    Conflict, Diagnostic, HelperError, HostsBlock, HostsReport, NetworkUndone, ReleaseReport, SweepReport,
    SweptBlock, UserEdit,
};

use crate::error::{Error, with_sources};
use crate::policy::{Policy, not_allowed};
use crate::{by_hand, name_check, owner, strays, sys};

/// Removes the blocks of sessions (`devbox-…`) whose owners are dead, with the permissions of this process. Every other byte
/// stays. Blocks without an owner belong to the user and stay as well. Of a block that lost its END the lines that are proved to
/// be its own go.
///
/// # Errors
/// [`HelperError::PermissionDenied`], [`HelperError::Locked`] and whatever else keeps the file from being written. A file that
/// needs no change needs no permission to change it.
pub fn sweep(file: &Path) -> Result<SweepReport, HelperError> {
    let hosts = open(file)?;
    let document = hosts.read().map_err(|error| hosts_error(file, &error))?;
    let sessions = document
        .owners()
        .into_iter()
        .filter(|(tag, _)| tag.as_str().starts_with(SESSION_PREFIX));
    let owners: BTreeSet<Owner> = sessions.flat_map(|(_, owners)| owners).flatten().collect();
    remove_owned(&hosts, |owner| {
        owners.contains(owner) && !owner::is_alive(owner.as_str())
    })
}

/// [Sweeps](sweep), also removes the lines of sessions that no marker names, and reports those that stay because somebody has
/// edited them.
///
/// # Errors
/// As [`sweep`].
pub fn clean_up(file: &Path) -> Result<SweepReport, HelperError> {
    let mut report = sweep(file)?;
    let hosts = open(file)?;
    let cleaned = strays::remove_orphans(&hosts).and_then(|lines| {
        report.stray_lines = lines;
        report.left = strays::left(&hosts.read()?);
        Ok(report)
    });
    cleaned.map_err(|error| hosts_error(file, &error))
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
        let block = self.check(block, take)?;
        let tag = block.tag.clone();
        let former = self.held.clone().filter(|held| *held != tag);
        self.touched = true;
        let options = Options::new().user_names(UserNames::LeaveOut);
        let is_taken = |name: &HostName| take && !self.asked.contains(name);
        let mut beside = None;
        let edits = |document: &Document| {
            let mut setting = neighbours::setting(document, block.clone(), &self.owner, is_taken);
            let own = std::mem::take(&mut setting.edits);
            beside = Some(setting);
            // Somebody else may have written a block with the former tag since.
            let is_own = |tag: &&Tag| strays::owners_are(document, tag, |owner| *owner == self.owner);
            let former = former.iter().filter(is_own).flat_map(strays::removing);
            let repair = [Edit::RepairBlock(tag.clone())];
            former.chain(repair).chain(own).collect()
        };
        let mut report = self.with_rights(|| self.edit_by(edits, options, Some(&tag)))?;
        if let Some(setting) = beside {
            neighbours::tell(&mut report, setting);
        }
        self.asked = block.entries.into_iter().flat_map(|entry| entry.names).collect();
        self.held = Some(tag);
        Ok(report)
    }

    /// The tag stays held: lines of it that were edited are reported by the release.
    pub(crate) fn clear(&mut self) -> Result<HostsReport, HelperError> {
        let edits: Vec<Edit> = self.held.iter().flat_map(strays::removing).collect();
        let report = self.with_rights(|| self.edit(&edits, Options::new(), self.held.as_ref()))?;
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

    pub(crate) fn clean_up(&self) -> Result<SweepReport, HelperError> {
        self.with_rights(|| clean_up(&self.policy.hosts_file))
    }

    /// Removes what this process owns, but not a block with the same tag that somebody else has written since, nor lines that
    /// somebody has edited outside it.
    pub(crate) fn release(&mut self) -> Result<ReleaseReport, HelperError> {
        if !self.touched {
            return Ok(ReleaseReport { removed_block: None });
        }
        let path = &self.policy.hosts_file;
        let (swept, left) = self.with_rights(|| {
            let file = open(path)?;
            let swept = remove_owned(&file, |owner| *owner == self.owner)?;
            let left = match &self.held {
                Some(tag) => strays::remove_own(&file, tag, &self.owner),
                None => Ok(Vec::new()),
            };
            Ok((swept, left.map_err(|error| hosts_error(path, &error))?))
        })?;
        self.held = None;
        self.touched = false;
        if !left.is_empty() {
            return Err(HelperError::LinesLeft {
                file: path.clone(),
                lines: left,
            });
        }
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

    /// The block, if this caller may have it.
    pub(crate) fn check(&self, block: &HostsBlock, take: bool) -> Result<Block, HelperError> {
        if take && !self.policy.allow_take {
            return Err(not_allowed(
                "taking names from other sessions",
                "this helper leaves them",
            ));
        }
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
                .map(|name| {
                    let checked = name_check::check(name)?;
                    self.policy.check_name(name).map(|()| checked)
                })
                .collect::<Result<Vec<_>, _>>()?;
            let refused = |error: hostsfile::Error| {
                not_allowed(format!("the entry {}", entry.address), error.to_string())
            };
            entries.push(Entry::new(entry.address, names).map_err(refused)?);
        }
        Ok(Block::new(tag)
            .with_owner(self.owner.clone())
            .with_entries(entries)
            .sealed())
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
        let owners = document.owners().remove(tag).unwrap_or_default();
        let is_free = |owner: &Owner| *owner == self.owner || !owner::is_alive(owner.as_str());
        match owners
            .into_iter()
            .find(|owner| !owner.as_ref().is_some_and(is_free))
        {
            None => Ok(()),
            Some(owner) => Err(Refusal::TagTaken {
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
        stray_lines: 0,
        left: Vec::new(),
        network: NetworkUndone::default(),
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
        Hosts::LineChanged { line } => HelperError::LineChanged { file, line: *line },
        _ => HelperError::Hosts { file, message },
    }
}

/// Whether waiting may help, as with a lock, a full disk or a concurrent writer, rather than only a person.
pub(crate) fn may_pass(error: &HelperError) -> bool {
    !matches!(
        error,
        HelperError::Damaged { .. }
            | HelperError::NotFound { .. }
            | HelperError::PermissionDenied { .. }
            | HelperError::LinesLeft { .. }
            | HelperError::ReadOnly { .. }
            | HelperError::Unsupported { .. }
    )
}

const SESSION_PREFIX: &str = "devbox-";
const UNDO_PATIENCE: Duration = Duration::from_secs(10);
/// More than anybody reads; 100,000 of them would not fit into a reply.
const MAX_FINDINGS: usize = 1000;
