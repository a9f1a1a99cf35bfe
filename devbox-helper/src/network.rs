//! The machine's network as this helper changes it: each change is in the journal before it is made, and what was there before is
//! never undone.

use std::collections::HashMap;
use std::path::Path;

use devbox_helper_client::{HelperError, NetworkReport};
use ipnet::IpNet;
use netif::conflict::{Conflict, Intent, conflicts};
use netif::{
    Applied, Backend, Capabilities, Change, ChangeError, Found, InterfaceName, Owner, TunHandle, Undone,
};

use crate::error::{Error, with_sources};
use crate::journal::{self, Journal, Turn};
use crate::machine::OWNER;

/// What undoing came to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Undo {
    /// How many changes were taken back.
    pub removed: usize,
    /// What stays, and why.
    pub left: Vec<String>,
    /// How many of those the system refused to undo: they are in the journal still.
    pub failed: usize,
}

pub(crate) struct Network {
    backend: Box<dyn Backend>,
    journal: Journal,
    /// What this process has made, and the record that says so.
    made: HashMap<Change, u64>,
    /// How many changes of a record are not undone.
    records: HashMap<u64, usize>,
    capabilities: Option<Capabilities>,
}

impl Network {
    pub(crate) fn new(backend: Box<dyn Backend>, journal: Journal) -> Self {
        Self {
            backend,
            journal,
            made: HashMap::new(),
            records: HashMap::new(),
            capabilities: None,
        }
    }

    pub(crate) fn capabilities(&mut self) -> &Capabilities {
        self.capabilities
            .get_or_insert_with(|| self.backend.capabilities())
    }

    /// What is in the way of a prefix that this change is to make the machine's own; nothing where that is so already. What cannot be
    /// seen is in nobody's way: the change itself fails where it must.
    pub(crate) fn in_the_way(&mut self, pool: IpNet, change: &Change) -> Vec<Conflict> {
        let found = self.backend.find(std::slice::from_ref(change));
        if !matches!(found.as_slice(), [Ok(Found::Absent)]) {
            return Vec::new();
        }
        let intent = Intent {
            prefixes: vec![pool],
            ..Intent::default()
        };
        let observed = self.backend.observe();
        observed.map_or_else(|_| Vec::new(), |observed| conflicts(&observed, &intent))
    }

    /// Makes all of these, or none. What another helper has made is this one's as well: the last of them undoes it.
    pub(crate) fn add(&mut self, claim: u64, changes: &[Change]) -> Result<NetworkReport, HelperError> {
        if changes.is_empty() {
            return Ok(NetworkReport::default());
        }
        let _turn = self.journal.turn();
        let held = self.journal.held_by_others();
        let mut absent = Vec::new();
        let mut shared = Vec::new();
        for (change, found) in changes.iter().zip(self.backend.find(changes)) {
            match found {
                Ok(Found::Absent) => absent.push(change.clone()),
                Ok(Found::Ours | Found::Theirs) => {
                    if held.contains(change) && !self.made.contains_key(change) {
                        shared.push(change.clone());
                    }
                }
                // An interface that this request makes is not there yet.
                Err(ChangeError::Missing { .. }) => absent.push(change.clone()),
                Err(error) => return Err(refused(error)),
            }
        }
        let mut report = NetworkReport {
            changed: 0,
            unchanged: changes.len() - absent.len(),
            notes: Vec::new(),
        };
        let written = [absent.as_slice(), &shared].concat();
        if written.is_empty() {
            return Ok(report);
        }
        let seq = self
            .journal
            .write(claim, &written)
            .map_err(|error| HelperError::Journal {
                file: self.journal.path().to_owned(),
                message: error.to_string(),
            })?;
        let mut failed = None;
        let mut added = Vec::new();
        for (change, outcome) in absent.iter().zip(self.backend.apply(&absent)) {
            match outcome {
                Ok(Applied::Added) => added.push(change.clone()),
                Ok(Applied::Present) => report.unchanged += 1,
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        report.changed = added.len();
        added.extend(shared);
        self.records.insert(seq, added.len());
        self.made.extend(added.iter().map(|change| (change.clone(), seq)));
        if added.is_empty() {
            self.forget(seq);
        }
        match failed {
            None => Ok(report),
            Some(error) => {
                // What cannot be taken back either is in the journal, and is tried again at the end.
                self.take_back(&added);
                Err(refused(error))
            }
        }
    }

    /// Takes back those of the changes that this process made, the last one first.
    pub(crate) fn remove(&mut self, changes: &[Change]) -> Undo {
        if !changes.iter().any(|change| self.made.contains_key(change)) {
            return Undo::default();
        }
        let _turn = self.journal.turn();
        self.take_back(changes)
    }

    /// The same, in this process's turn.
    fn take_back(&mut self, changes: &[Change]) -> Undo {
        let held = self.journal.held_by_others();
        let mine = changes.iter().filter(|change| self.made.contains_key(change));
        let (others, mine): (Vec<Change>, Vec<Change>) =
            mine.cloned().partition(|change| held.contains(change));
        // Another helper needs it still, and undoes it.
        for change in &others {
            self.settle(change);
        }
        let mut undo = Undo::default();
        if mine.is_empty() {
            return undo;
        }
        for (change, outcome) in mine.iter().zip(self.backend.undo(&mine)) {
            match outcome {
                Ok(undone) => {
                    undo.count(change, &undone);
                    self.settle(change);
                }
                Err(error) => undo.fail(change, &error),
            }
        }
        undo
    }

    /// Everything that this process made and has not undone.
    pub(crate) fn remove_all(&mut self) -> Undo {
        let mut all: Vec<(u64, Change)> = self
            .made
            .iter()
            .map(|(change, seq)| (*seq, change.clone()))
            .collect();
        // Within a record interfaces come first (`Change` is ordered so), as they were applied.
        all.sort();
        let all: Vec<Change> = all.into_iter().map(|(_, change)| change).collect();
        let undo = self.remove(&all);
        // A journal that stays is empty, which says the same.
        self.journal.close().ok();
        undo
    }

    pub(crate) fn shrink(&mut self) {
        self.made.shrink_to_fit();
        self.records.shrink_to_fit();
    }

    pub(crate) fn open_tun(&mut self, name: &InterfaceName) -> Result<TunHandle, HelperError> {
        self.backend.open_tun(name).map_err(refused)
    }

    fn settle(&mut self, change: &Change) {
        let Some(seq) = self.made.remove(change) else {
            return;
        };
        if let Some(left) = self.records.get_mut(&seq) {
            *left -= 1;
            if *left == 0 {
                self.forget(seq);
            }
        }
    }

    fn forget(&mut self, seq: u64) {
        self.records.remove(&seq);
        // To undo once more what is undone does no harm, so a record that stays does none.
        self.journal.forget(seq).ok();
    }
}

/// Undoes what helpers left on this machine's network that were killed: the journals in `dir` whose processes have ended. With the
/// rights of this process.
///
/// # Errors
/// [`Error::Replay`] when a journal cannot be read.
pub fn undo_journals(backend: &mut dyn Backend, dir: &Path) -> Result<Undo, Error> {
    replay(backend, dir).map_err(|source| Error::Replay {
        dir: dir.to_owned(),
        source,
    })
}

fn replay(backend: &mut dyn Backend, dir: &Path) -> std::io::Result<Undo> {
    let _turn = Turn::take(dir);
    let mut undo = Undo::default();
    let legacies = journal::legacies(dir)?;
    if legacies.is_empty() {
        return Ok(undo);
    }
    let held = journal::held_by_others(dir, None);
    for mut legacy in legacies {
        // A helper that lives needs it as well, and undoes it.
        legacy.changes.retain(|change| !held.contains(change));
        let failed = undo.failed;
        for (change, outcome) in legacy.changes.iter().zip(backend.undo(&legacy.changes)) {
            match outcome {
                Ok(undone) => undo.count(change, &undone),
                Err(error) => undo.fail(change, &error),
            }
        }
        if undo.failed == failed {
            match std::fs::remove_file(&legacy.path) {
                // Another helper has done the same.
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(undo)
}

impl Undo {
    fn fail(&mut self, change: &Change, error: &ChangeError) {
        self.failed += 1;
        self.left.push(format!("{change}: {}", with_sources(error)));
    }

    fn count(&mut self, change: &Change, undone: &Undone) {
        match undone {
            Undone::Removed => self.removed += 1,
            Undone::Gone => {}
            Undone::Left { why } => self.left.push(format!("{change}: {why}")),
        }
    }
}

fn refused(error: ChangeError) -> HelperError {
    match error {
        ChangeError::Unsupported { what } => HelperError::Unsupported { what },
        error => HelperError::Network {
            message: with_sources(&error),
        },
    }
}

/// The network of the system that this runs on, or one that cannot be changed where there is no way to.
pub(crate) fn system() -> Box<dyn Backend> {
    let system = Owner::new(OWNER).and_then(|owner| netif::system(&owner));
    system.unwrap_or_else(|_| Box::new(Unchangeable))
}

/// A network that cannot be changed.
struct Unchangeable;

impl Backend for Unchangeable {
    fn capabilities(&mut self) -> Capabilities {
        Capabilities::none(UNCHANGEABLE)
    }

    fn observe(&mut self) -> Result<netif::Observed, netif::Error> {
        Err(netif::Error::Unsupported { what: UNCHANGEABLE })
    }

    fn find(&mut self, changes: &[Change]) -> Vec<Result<Found, ChangeError>> {
        changes.iter().map(|_| Err(unchangeable())).collect()
    }

    fn apply(&mut self, changes: &[Change]) -> Vec<Result<Applied, ChangeError>> {
        changes.iter().map(|_| Err(unchangeable())).collect()
    }

    fn undo(&mut self, changes: &[Change]) -> Vec<Result<Undone, ChangeError>> {
        changes.iter().map(|_| Err(unchangeable())).collect()
    }

    fn open_tun(&mut self, _: &InterfaceName) -> Result<TunHandle, ChangeError> {
        Err(unchangeable())
    }
}

fn unchangeable() -> ChangeError {
    ChangeError::Unsupported {
        what: UNCHANGEABLE.to_owned(),
    }
}

const UNCHANGEABLE: &str = "changes of the network";
