//! For the fuzz targets: the journal, as the next helper reads it.

use netif::{Backend, Owner, Recording};

use crate::journal;
use crate::machine::OWNER;

/// Any bytes as a journal.
///
/// # Panics
/// When something of it is not as it should be.
#[doc(hidden)]
pub fn journal(bytes: &[u8]) {
    for boot in ["a", "b"] {
        let (changes, torn) = journal::read(bytes, "a", boot);
        assert!(torn <= bytes.split(|byte| *byte == b'\n').count());
        let (again, none) = journal::read(&journal::of_changes("a", &changes), "a", "a");
        assert!(again == changes && none == 0, "{changes:?} became {again:?}");
    }
}

/// The lines of the bytes as records whose checksums fit, undone on a machine where each change is there and somebody else's.
///
/// # Panics
/// When something of it is not as it should be.
#[doc(hidden)]
pub fn records(bytes: &[u8]) {
    let lines = bytes.split(|byte| *byte == b'\n');
    let file: Vec<u8> = lines.flat_map(journal::with_checksum).collect();
    journal(&file);
    let (changes, _) = journal::read(&file, "a", "a");
    let (Ok(owner), Ok(other)) = (Owner::new(OWNER), Owner::new("other")) else {
        return;
    };
    let mut machine = Recording::new(owner);
    for change in &changes {
        // One that does not fit those before it is not there, and that is fine as well.
        machine.add_for(Some(&other), change).ok();
    }
    let before = machine.contents().ok();
    assert_eq!(machine.undo(&changes).len(), changes.len());
    assert_eq!(
        machine.contents().ok(),
        before,
        "what is somebody else's was removed"
    );
}
