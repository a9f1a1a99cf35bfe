//! Differences of two files, with patch(1) as the judge.

use std::io::Write as _;
use std::process::{Command, Stdio};

use hostsfile::Diff;

/// Takes the bytes before the first 255 as one file and the rest as another; panics if patch(1) does not make the second out of the
/// first. Without patch(1) it checks nothing.
pub(crate) fn check(input: &[u8]) {
    let (old, new) = match input.iter().position(|b| *b == 0xFF) {
        Some(at) => (&input[..at], &input[at + 1..]),
        None => (input, &[][..]),
    };
    let diff = Diff::between(old, new);
    assert_eq!(diff.is_empty(), old == new);
    // patch(1) removes a file that becomes empty, and sees no difference between that and an empty one.
    if diff.is_empty() || new.is_empty() {
        return;
    }
    // In memory where possible: there are many rounds.
    let memory = std::path::Path::new("/dev/shm");
    let base = if memory.is_dir() {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    };
    let folder = tempfile::tempdir_in(base).expect("a folder");
    let file = folder.path().join("hosts");
    std::fs::write(&file, old).expect("a file");
    let child = Command::new("patch")
        .args(["--silent", "--binary", "--force", "--fuzz=0"])
        .arg(&file)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else { return };
    let mut input = child.stdin.take().expect("its input");
    input.write_all(diff.as_bytes()).expect("patch reads");
    drop(input);
    let status = child.wait().expect("its end");
    assert!(status.success(), "{status}: {diff}");
    assert_eq!(std::fs::read(&file).expect("the file"), new, "{diff}");
}
