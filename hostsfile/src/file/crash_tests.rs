//! Kills a process at each step of a write, and checks what is left and what the next process does with it.

#![expect(clippy::unwrap_used, reason = "also outside the functions marked as tests")]

use std::path::Path;
use std::process::{Command, Stdio};

use super::FileOptions;
use crate::edit::Edit;
use crate::entry::{Block, Entry};
use crate::name::Tag;
use crate::plan::plan;
use crate::{HostsFile, Options};

const BEFORE: &[u8] = b"127.0.0.1 localhost\n# BEGIN old\n10.0.0.1 a.test\n# END old\n10.0.0.2 after.test\n";

fn edits() -> Vec<Edit> {
    let entry = |address: &str, name: &str| Entry::parse(address, [name]).unwrap();
    let block = |tag: &str, entries: Vec<Entry>| Block::new(Tag::new(tag).unwrap()).with_entries(entries);
    vec![
        Edit::SetBlock(block(
            "old",
            vec![
                entry("10.0.0.1", "another-name.test"),
                entry("10.0.0.9", "b.test"),
            ],
        )),
        Edit::SetBlock(block("new", vec![entry("127.77.0.1", "c.test")])),
    ]
}

/// Runs the edit in a process that dies at this point, and returns what the file then contains.
fn killed_at(point: &str, path: &Path, in_place: bool) -> Vec<u8> {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "file::crash_tests::edits_and_dies", "--ignored"])
        .env("HOSTSFILE_DIE_AT", point)
        .env("HOSTSFILE_TEST_PATH", path)
        .env("HOSTSFILE_TEST_IN_PLACE", if in_place { "1" } else { "0" })
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(9),
        "{point} was not reached: {status}"
    );
    std::fs::read(path).unwrap()
}

#[test]
#[ignore = "run by the tests of this module, in a process of its own"]
fn edits_and_dies() {
    let Some(path) = std::env::var_os("HOSTSFILE_TEST_PATH") else {
        return;
    };
    let in_place = std::env::var("HOSTSFILE_TEST_IN_PLACE").is_ok_and(|v| v == "1");
    FileOptions::new()
        .in_place(in_place)
        .open(path)
        .unwrap()
        .edit(&edits())
        .unwrap();
}

#[test]
fn a_killed_replacement_leaves_the_old_or_the_new_content() {
    let after = plan(BEFORE, &edits(), &Options::new()).unwrap().new_bytes();
    let points = [
        "temp-created",
        "temp-written",
        "attributes-copied",
        "temp-synced",
        "compared",
        "renamed",
    ];
    for point in points {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts");
        std::fs::write(&path, BEFORE).unwrap();
        let found = killed_at(point, &path, false);
        assert_eq!(
            found,
            if point == "renamed" {
                after.as_slice()
            } else {
                BEFORE
            },
            "{point}"
        );
        next_one_finds_no_trace(dir.path(), &path, &after);
    }
}

#[test]
fn a_write_in_place_that_was_killed_is_finished_by_the_next_one() {
    let after = plan(BEFORE, &edits(), &Options::new()).unwrap().new_bytes();
    let points = [
        ("journal-written", true),
        ("half-written", false),
        ("tail-written", false),
        ("in-place-written", true),
    ];
    for (point, whole) in points {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts");
        std::fs::write(&path, BEFORE).unwrap();
        let found = killed_at(point, &path, true);
        assert!(!whole || found == BEFORE || found == after, "{point}");
        let hosts = HostsFile::open(&path).unwrap();
        hosts.sweep(|_| true).unwrap();
        let recovered = std::fs::read(&path).unwrap();
        assert!(
            recovered == BEFORE || recovered == after,
            "{point}: {}",
            String::from_utf8_lossy(&recovered)
        );
        next_one_finds_no_trace(dir.path(), &path, &after);
    }
}

#[test]
fn an_edit_by_others_after_a_killed_write_in_place_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hosts");
    std::fs::write(&path, BEFORE).unwrap();
    killed_at("half-written", &path, true);
    std::fs::write(&path, b"127.0.0.1 written.anew\n").unwrap();
    HostsFile::open(&path).unwrap().sweep(|_| true).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"127.0.0.1 written.anew\n");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

fn next_one_finds_no_trace(dir: &Path, path: &Path, after: &[u8]) {
    HostsFile::open(path).unwrap().edit(&edits()).unwrap();
    // The next edit may find nothing to change; then a sweep removes the leftovers.
    HostsFile::open(path).unwrap().sweep(|_| true).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), after);
    let names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names, ["hosts"]);
}
