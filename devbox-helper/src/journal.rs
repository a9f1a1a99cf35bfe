//! What was done to the machine's network, written down before it is done. The hosts file needs no journal: its blocks name their
//! owners.
//!
//! Each helper has a file of its own in the state directory, named after the process as a block is: `<pid>.<start>.<boot>.journal`. So
//! whoever comes later can tell whose it was, whether that process lives, and whether the machine has been started anew since.
//! One line is one record, behind its checksum. A line that does not fit its checksum was not yet on the disk when the process
//! ended, so what it says was not begun.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::hash::Hasher;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use netif::Change;
use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

use crate::{owner, sys};

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    seq: u64,
    /// The boot in which it is done.
    boot: String,
    /// The claim for which.
    claim: u64,
    /// In the order in which they are applied; none once they are undone.
    changes: Vec<Change>,
}

/// This process's journal.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    /// `None` as long as nothing was ever to be written.
    file: Option<File>,
    boot: String,
    last: u64,
    /// How many records stand for something that is not undone.
    open: usize,
}

impl Journal {
    /// The journal of the process `owner`, which makes no file yet.
    pub(crate) fn new(dir: &Path, owner: &str) -> Self {
        Self {
            path: dir.join(format!("{owner}.{EXTENSION}")),
            file: None,
            boot: owner::boot().to_owned(),
            last: 0,
            open: 0,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until no other helper changes the network.
    pub(crate) fn turn(&self) -> Option<Turn> {
        let dir = self.path.parent()?;
        // What is wrong with it shows when something is written.
        sys::make_private_folder(dir).ok();
        Turn::take(dir)
    }

    /// What other helpers that live have written down.
    pub(crate) fn held_by_others(&self) -> BTreeSet<Change> {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        held_by_others(dir, Some(&self.path))
    }

    /// Writes down what is about to be done. Once this returns, it is on the disk.
    pub(crate) fn write(&mut self, claim: u64, changes: &[Change]) -> io::Result<u64> {
        let record = Record {
            seq: self.last + 1,
            boot: self.boot.clone(),
            claim,
            changes: changes.to_vec(),
        };
        self.append(&record, true)?;
        self.last = record.seq;
        self.open += 1;
        Ok(record.seq)
    }

    /// Writes down that a record's changes are undone. That need not reach the disk: to undo them once more does no harm.
    pub(crate) fn forget(&mut self, seq: u64) -> io::Result<()> {
        self.open = self.open.saturating_sub(1);
        if self.open == 0 {
            // Nothing is left to be undone: the file starts anew.
            return match &mut self.file {
                Some(file) => {
                    file.set_len(0)?;
                    file.seek(SeekFrom::Start(0)).map(drop)
                }
                None => Ok(()),
            };
        }
        let record = Record {
            seq,
            boot: self.boot.clone(),
            claim: 0,
            changes: Vec::new(),
        };
        self.append(&record, false)
    }

    /// Removes the file, once everything is undone.
    pub(crate) fn close(&mut self) -> io::Result<()> {
        if self.open > 0 || self.file.take().is_none() {
            return Ok(());
        }
        fs::remove_file(&self.path)
    }

    fn append(&mut self, record: &Record, sync: bool) -> io::Result<()> {
        let line = line(record)?;
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let file = create(&self.path)?;
                // The name has to be on the disk as well.
                sync_folder(&self.path)?;
                self.file.insert(file)
            }
        };
        let end = file.stream_position()?;
        let written = file
            .write_all(&line)
            .and_then(|()| if sync { file.sync_data() } else { Ok(()) });
        if written.is_err() {
            // What follows must not stand behind half a line. If this fails too, the line is seen as torn.
            file.set_len(end)
                .and_then(|()| file.seek(SeekFrom::Start(end)))
                .ok();
        }
        written
    }
}

/// Whoever has it is the only helper that changes the network: until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _folder: File,
}

impl Turn {
    /// Waits for the other helpers of this directory. Without it where that takes long, as where one of them is stopped, or where it cannot
    /// be had: what is journalled is right either way.
    pub(crate) fn take(dir: &Path) -> Option<Self> {
        let until = Instant::now() + LONGEST_TURN;
        loop {
            match sys::lock_folder(dir) {
                Ok(folder) => return folder.map(|folder| Self { _folder: folder }),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {
                    thread::sleep(LOOK_AGAIN);
                }
                Err(_) => return None,
            }
        }
    }
}

/// What the journals of processes that live say is there, `own` left out: it is theirs as well.
pub(crate) fn held_by_others(dir: &Path, own: Option<&Path>) -> BTreeSet<Change> {
    let mut held = BTreeSet::new();
    for (path, owner) in journals(dir).unwrap_or_default() {
        if Some(path.as_path()) == own || !owner::is_alive(&owner) {
            continue;
        }
        // One that is gone by now has undone it all.
        let bytes = fs::read(&path).unwrap_or_default();
        held.extend(read(&bytes, owner::boot(), owner::boot()).0);
    }
    held
}

/// The files in the directory that are named as journals are, each with its owner.
fn journals(dir: &Path) -> io::Result<Vec<(PathBuf, String)>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let owner = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_suffix(EXTENSION)?.strip_suffix('.'))
            .map(str::to_owned);
        found.extend(owner.map(|owner| (path, owner)));
    }
    found.sort();
    Ok(found)
}

/// The journal of a process that has ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Legacy {
    pub(crate) path: PathBuf,
    /// What is to be undone, in the order in which it was applied.
    pub(crate) changes: Vec<Change>,
    /// How many lines were not readable.
    pub(crate) torn: usize,
}

/// The journals in the directory whose processes have ended.
pub(crate) fn legacies(dir: &Path) -> io::Result<Vec<Legacy>> {
    let mut found = Vec::new();
    for (path, owner) in journals(dir)? {
        if owner::is_alive(&owner) {
            continue;
        }
        let bytes = match fs::read(&path) {
            // Another helper has undone it meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            bytes => bytes?,
        };
        let boot = owner::boot_of(&owner).unwrap_or_default();
        let (changes, torn) = read(&bytes, boot, owner::boot());
        found.push(Legacy { path, changes, torn });
    }
    Ok(found)
}

/// What the bytes of a journal leave to be undone, and how many lines cannot be read.
pub(crate) fn read(bytes: &[u8], written_in: &str, boot: &str) -> (Vec<Change>, usize) {
    let mut open = BTreeMap::new();
    let mut torn = 0;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        match parse(line) {
            Some(record) if record.changes.is_empty() => {
                open.remove(&record.seq);
            }
            Some(record) if record.boot == written_in => {
                open.insert(record.seq, record.changes);
            }
            _ => torn += 1,
        }
    }
    let mut changes: Vec<Change> = open.into_values().flatten().collect();
    if written_in != boot {
        // A start of the machine has undone everything but what is in files (`/etc/resolver`, the registry).
        changes.retain(|change| matches!(change, Change::Resolver(_)));
    }
    (changes, torn)
}

fn line(record: &Record) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(record).map_err(io::Error::other)?;
    Ok(with_checksum(&body))
}

/// The line of a record whose text is this.
pub(crate) fn with_checksum(body: &[u8]) -> Vec<u8> {
    let mut line = checksum(body).into_bytes();
    line.push(b' ');
    line.extend(body);
    line.push(b'\n');
    line
}

/// A journal of these changes.
pub(crate) fn of_changes(boot: &str, changes: &[Change]) -> Vec<u8> {
    let record = Record {
        seq: 1,
        boot: boot.to_owned(),
        claim: 1,
        changes: changes.to_vec(),
    };
    line(&record).unwrap_or_default()
}

fn parse(line: &[u8]) -> Option<Record> {
    let (sum, body) = line.strip_suffix(b"\n")?.split_at_checked(16)?;
    let body = body.strip_prefix(b" ")?;
    if sum != checksum(body).as_bytes() {
        return None;
    }
    serde_json::from_slice(body).ok()
}

/// Against damage, not against an enemy: only root writes here.
fn checksum(body: &[u8]) -> String {
    let mut hasher = SipHasher13::new();
    hasher.write(body);
    format!("{:016x}", hasher.finish())
}

fn create(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        sys::make_private_folder(dir)?;
    }
    OpenOptions::new().write(true).create_new(true).open(path)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        // Windows has no such call, and needs none.
        Some(folder) => File::open(folder).map_or(Ok(()), |folder| folder.sync_all()),
        None => Ok(()),
    }
}

const EXTENSION: &str = "journal";
/// For longer no helper has a turn.
const LONGEST_TURN: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use netif::Device;
    use proptest::prelude::*;

    use super::*;

    fn change(last: u8) -> Change {
        Change::Address {
            device: Device::Loopback,
            address: format!("10.107.0.{last}/32").parse().unwrap(),
        }
    }

    fn resolver() -> Change {
        Change::Resolver(netif::ResolverRule {
            interface: netif::InterfaceName::new("devbox0").unwrap(),
            suffixes: vec![netif::Suffix::new("shop.internal").unwrap()],
            servers: vec!["10.107.0.1:53".parse().unwrap()],
        })
    }

    /// Of this boot, and of nobody: pid 4,000,000 is never given (proc(5), pid_max).
    fn dead(dir: &Path) -> Journal {
        Journal::new(dir, &format!("4294967295.1.{}", owner::boot()))
    }

    #[test]
    fn what_was_written_and_not_forgotten_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = dead(dir.path());
        let first = journal.write(1, &[change(1), change(2)]).unwrap();
        journal.write(2, &[change(3)]).unwrap();
        journal.forget(first).unwrap();
        journal.write(1, &[change(4)]).unwrap();
        let found = legacies(dir.path()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(
            (&found[0].changes, found[0].torn),
            (&vec![change(3), change(4)], 0)
        );
    }

    #[test]
    fn file_starts_anew_when_nothing_is_left_and_goes_in_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = dead(dir.path());
        for round in 0..3 {
            let seq = journal.write(1, &[change(round)]).unwrap();
            assert_eq!(legacies(dir.path()).unwrap()[0].changes, [change(round)]);
            journal.forget(seq).unwrap();
            assert_eq!(fs::metadata(journal.path()).unwrap().len(), 0);
        }
        journal.close().unwrap();
        assert_eq!(legacies(dir.path()).unwrap(), []);
        journal.close().unwrap();
    }

    #[test]
    fn journal_of_a_living_process_is_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::new(dir.path(), &owner::current().unwrap());
        journal.write(1, &[change(1)]).unwrap();
        assert_eq!(legacies(dir.path()).unwrap(), []);
    }

    #[test]
    fn what_others_hold_is_in_the_journals_of_the_living() {
        let dir = tempfile::tempdir().unwrap();
        dead(dir.path()).write(1, &[change(1)]).unwrap();
        let me = owner::current().unwrap();
        let mut mine = Journal::new(dir.path(), &me);
        mine.write(1, &[change(2)]).unwrap();
        // As a helper's whose process is this one as well.
        let mut other = Journal::new(dir.path(), &format!("{me}.1"));
        let first = other.write(1, &[change(3)]).unwrap();
        other.write(1, &[resolver()]).unwrap();
        assert_eq!(mine.held_by_others(), [change(3), resolver()].into());
        other.forget(first).unwrap();
        assert_eq!(mine.held_by_others(), [resolver()].into());
        assert_eq!(held_by_others(&dir.path().join("none"), None), BTreeSet::new());
    }

    #[test]
    fn one_helper_at_a_time_has_its_turn() {
        let dir = tempfile::tempdir().unwrap();
        // Where there are several helpers.
        let Some(first) = Turn::take(dir.path()) else {
            return;
        };
        let dir_of_other = dir.path().to_owned();
        let (said, has_it) = std::sync::mpsc::sync_channel(1);
        let other = thread::spawn(move || {
            let turn = Turn::take(&dir_of_other);
            said.send(()).unwrap();
            turn.is_some()
        });
        assert!(has_it.recv_timeout(Duration::from_millis(50)).is_err());
        drop(first);
        has_it.recv().unwrap();
        assert!(other.join().unwrap());
    }

    #[test]
    fn a_start_of_the_machine_has_undone_all_but_files() {
        let record = |changes| Record {
            seq: 1,
            boot: "before".into(),
            claim: 1,
            changes,
        };
        let bytes = line(&record(vec![change(1), resolver()])).unwrap();
        assert_eq!(read(&bytes, "before", "now"), (vec![resolver()], 0));
        assert_eq!(read(&bytes, "before", "before").0.len(), 2);
        // A record that names another boot than its file does is none.
        assert_eq!(read(&bytes, "now", "now"), (vec![], 1));
    }

    proptest! {
        /// Wherever the machine stopped writing, or whatever byte is damaged: the other records are read, and nothing is made up.
        #[test]
        fn torn_record_is_recognised_and_the_others_are_read(at in 0usize..1000, flip in 1u8..=255, cut in any::<bool>()) {
            let records: Vec<Record> = (1..4u8)
                .map(|n| Record { seq: n.into(), boot: "b".into(), claim: 1, changes: vec![change(n)] })
                .collect();
            let lines: Vec<Vec<u8>> = records.iter().map(|record| line(record).unwrap()).collect();
            let mut bytes = lines.concat();
            let at = at % bytes.len();
            let hit = (1..=3).find(|n| at < lines[..*n].concat().len()).unwrap();
            if cut { bytes.truncate(at) } else { bytes[at] ^= flip }
            let (changes, torn) = read(&bytes, "b", "b");
            let expected: Vec<Change> = (1u8..4)
                .filter(|n| if cut { usize::from(*n) < hit } else { usize::from(*n) != hit })
                .map(change)
                .collect();
            // A newline that is damaged joins two lines, and neither fits.
            let is_newline = !cut && lines[..hit].concat().len() == at + 1;
            if is_newline {
                prop_assert!(changes.iter().all(|change| expected.contains(change)), "{changes:?}");
            } else {
                prop_assert_eq!(&changes, &expected);
            }
            prop_assert_eq!(torn > 0, changes.len() < 3 && !(cut && lines[..hit - 1].concat().len() == at));
        }
    }
}
