//! What the fuzz targets found, and began with: every file of the corpus, by the same checks.
#![expect(clippy::unwrap_used, reason = "also outside the functions marked as tests")]

use std::fs;
use std::path::Path;

use ipalloc::LockFile;
use ipalloc::store::fuzzing;

/// Calls `check` with every file in a folder of the corpus. There are some.
fn replay(folder: &str, check: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(folder);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    for file in files {
        check(&fs::read(&file).unwrap());
    }
}

#[test]
fn lock_files_of_the_corpus() {
    replay("ip_lockfile", |bytes| {
        if let Ok(lock) = LockFile::parse(bytes) {
            assert_eq!(LockFile::parse(lock.to_string().as_bytes()).unwrap(), lock);
        }
    });
}

#[test]
fn journals_of_the_corpus() {
    replay("ip_journal", |bytes| {
        fuzzing::journal(bytes);
        fuzzing::records(bytes);
    });
}

#[test]
fn snapshots_of_the_corpus() {
    replay("ip_snapshot", |bytes| {
        fuzzing::snapshot(bytes);
        fuzzing::document(bytes);
    });
}

#[test]
fn the_corpus_reaches_what_is_accepted() {
    // A corpus of nothing but refused bytes would show nothing.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    assert!(
        LockFile::parse(&fs::read(folder.join("ip_lockfile/whole")).unwrap())
            .is_ok_and(|lock| lock.len() == 3)
    );
    assert!(fuzzing::records(
        &fs::read(folder.join("ip_journal/records")).unwrap()
    ));
    assert!(fuzzing::records(
        &fs::read(folder.join("ip_journal/shared")).unwrap()
    ));
    assert!(fuzzing::document(
        &fs::read(folder.join("ip_snapshot/document")).unwrap()
    ));
}
