//! What other programs write into a file that has just been replaced.

#![expect(clippy::unwrap_used, reason = "also outside the functions marked as tests")]

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::replace::{Attempt, Replaced, replace};
use super::{FileOptions, HostsFile, Lock};
use crate::edit::Edit;
use crate::entry::{Block, Entry};
use crate::name::Tag;

const BEFORE: &str = "127.0.0.1 localhost";

/// Makes the edits, lets another program write into the file that was replaced, and returns what the hosts file then contains.
fn edited(path: &Path, edits: &[Edit], others: impl FnOnce(&mut File)) -> String {
    let hosts = HostsFile::open(path).unwrap();
    let mut other = OpenOptions::new().append(true).open(path).unwrap();
    let target = hosts.target().unwrap();
    let options = FileOptions::new();
    let lock = Lock::take(&target, &options).unwrap();
    let plan = hosts.plan(edits).unwrap();
    let Attempt::Written(_, Some(replaced)) = replace(&target, &plan, &lock, &options).unwrap() else {
        unreachable!("nobody else changes the file");
    };
    others(&mut other);
    drop(other);
    let replaced = Replaced::new(replaced, Cow::Borrowed(plan.old_bytes()));
    hosts.take_over_appended(replaced, &lock).unwrap();
    std::fs::read_to_string(path).unwrap()
}

fn with_block(folder: &Path) -> (PathBuf, Edit) {
    let path = folder.join("hosts");
    std::fs::write(&path, BEFORE).unwrap();
    let tag = Tag::new("t").unwrap();
    let block = Block::new(tag.clone()).with_entries([Entry::parse("127.77.0.1", ["a.test"]).unwrap()]);
    HostsFile::open(&path)
        .unwrap()
        .edit(&[Edit::SetBlock(block)])
        .unwrap();
    (path, Edit::RemoveBlock(tag))
}

#[test]
fn an_appended_line_stays_a_line_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (path, remove) = with_block(folder.path());
    let text = edited(&path, &[remove], |old| {
        old.write_all(b"10.0.0.1 b.test\n").unwrap();
    });
    assert_eq!(text, format!("{BEFORE}\n10.0.0.1 b.test\n"));
}

#[test]
fn the_rest_of_a_line_is_appended_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hosts");
    std::fs::write(&path, "10.0.0.1 c\n10.0.0.2 d").unwrap();
    let document = HostsFile::open(&path).unwrap().read().unwrap();
    let first = document.lines().next().unwrap().reference();
    let text = edited(&path, &[Edit::RemoveLine(first)], |old| {
        old.write_all(b".test\n").unwrap();
    });
    assert_eq!(text, "10.0.0.2 d.test\n");
}

#[test]
fn a_file_that_was_written_anew_is_not_appended() {
    let folder = tempfile::tempdir().unwrap();
    let (path, remove) = with_block(folder.path());
    let text = edited(&path, &[remove], |old| {
        old.set_len(0).unwrap();
        old.write_all(&[b'#'; 4096]).unwrap();
    });
    assert_eq!(text, BEFORE);
}
