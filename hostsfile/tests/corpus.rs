//! Replays the corpus of the fuzz targets, their seeds and what they found, with the same checks.
#![expect(clippy::unwrap_used, reason = "also outside the functions marked as tests")]
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "the checks are shared with the fuzz targets"
)]

#[path = "fuzz/diffs.rs"]
mod diffs;
#[path = "fuzz/laws.rs"]
mod laws;
#[path = "fuzz/plans.rs"]
mod plans;

use std::path::Path;

/// Calls `check` with every file of a folder of the corpus, which must not be empty.
fn replay(folder: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(folder);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        assert!(
            std::panic::catch_unwind(|| check(&bytes)).is_ok(),
            "failed for {}",
            file.display()
        );
    }
}

#[test]
fn patch_agrees_about_the_differences_of_the_corpus() {
    if std::process::Command::new("patch")
        .arg("--version")
        .output()
        .is_err()
    {
        let skip = b"SKIP patch_agrees_about_the_differences_of_the_corpus: patch is not installed\n";
        std::io::Write::write_all(&mut std::io::stderr(), skip).unwrap();
        return;
    }
    replay("hosts_diff", diffs::check);
}

#[test]
fn the_laws_hold_for_the_corpus() {
    replay("hosts_laws", laws::check);
}

#[test]
fn plans_of_the_corpus_are_consistent() {
    replay("hosts_plan", plans::check);
}
