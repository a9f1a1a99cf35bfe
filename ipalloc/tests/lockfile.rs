//! The lock file: what is accepted, what is named as a fault, and that it survives the round through text.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "also outside the functions marked as tests"
)]

use std::net::IpAddr;

use ipalloc::{Error, Key, LockFault, LockFile};
use proptest::prelude::*;

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn faults(text: &[u8]) -> Vec<LockFault> {
    match LockFile::parse(text) {
        Err(Error::LockFile { faults, .. }) => faults,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_merge_conflict_is_named_with_its_lines() {
    let text = "# devbox.lock 1: as git leaves it\n\
                a = 127.77.0.1\n\
                <<<<<<< HEAD\n\
                b = 127.77.0.2\n\
                ||||||| 1234567\n\
                =======\n\
                b = 127.77.0.3\n\
                c = 127.77.0.1\n\
                >>>>>>> theirs\n";
    let error = LockFile::parse(text.as_bytes()).unwrap_err();
    let lines: Vec<_> = error.to_string().split("; ").map(str::to_owned).collect();
    assert_eq!(
        lines,
        [
            "line 3: a merge conflict is not solved",
            "line 5: a merge conflict is not solved",
            "line 6: a merge conflict is not solved",
            "line 7: b is given 127.77.0.3, and in line 4 127.77.0.2",
            "line 8: 127.77.0.1 is given to c, and in line 2 to a",
            "line 9: a merge conflict is not solved",
        ]
    );
}

#[test]
fn every_fault_is_found_and_bytes_that_mean_nothing_are_passed_over() {
    let accepted = b"\xef\xbb\xbf# devbox.lock 1\r\n\r\n  # mine\r\n dev/a/b  =  127.77.0.1 \r\nv6 = fd00::1\r\n# \xc3\xa4";
    let lock = LockFile::parse(accepted).unwrap();
    assert_eq!(lock.len(), 2);
    assert_eq!(lock.get(&key("v6")), Some("fd00::1".parse().unwrap()));

    let line = |text: &[u8]| faults(text)[0].to_string();
    assert_eq!(line(b"a 127.77.0.1"), "line 1: is not `key = address`");
    assert_eq!(
        line(b"\na = 127.77.0.256"),
        "line 2: \"127.77.0.256\" is no address"
    );
    assert_eq!(
        line(b"a = 127.77.0.1/16"),
        "line 1: \"127.77.0.1/16\" is no address"
    );
    assert_eq!(
        line(b"a b = 127.77.0.1"),
        "line 1: \"a b\" is not a key: it has a byte that is not visible ASCII, or one of = # \" \\ < > |"
    );
    assert_eq!(line(b" = 127.77.0.1"), "line 1: \"\" is not a key: it is empty");
    assert_eq!(
        line(b"a = 127.77.0.1\na = 127.77.0.1"),
        "line 2: a stands in line 1 already"
    );
    assert_eq!(line(b"\xff = 127.77.0.1"), "line 1: is not UTF-8");
    assert_eq!(
        line(b"# devbox.lock 2: newer"),
        "line 1: the file has version 2, and this program reads version 1"
    );
}

#[test]
fn a_file_is_written_whole_and_only_when_it_changes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("devbox.lock");
    assert!(LockFile::read(&path).unwrap().is_empty());
    let mut lock = LockFile::new();
    lock.insert(&key("b"), "127.77.0.2".parse().unwrap()).unwrap();
    lock.insert(&key("a"), "127.77.0.1".parse().unwrap()).unwrap();
    assert!(lock.write(&path).unwrap());
    assert!(!lock.write(&path).unwrap());
    assert_eq!(LockFile::read(&path).unwrap(), lock);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    std::fs::write(&path, "<<<<<<< mine\n").unwrap();
    let error = LockFile::read(&path).unwrap_err().to_string();
    assert_eq!(
        error,
        format!("{}: line 1: a merge conflict is not solved", path.display())
    );
}

proptest! {
    #[test]
    fn any_bytes_are_a_lock_file_or_have_faults(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(lock) = LockFile::parse(&bytes) {
            prop_assert_eq!(lock.to_string().parse::<LockFile>().unwrap(), lock);
        }
    }

    #[test]
    fn text_and_back_is_the_same(lines in prop::collection::btree_map("[a-z]{1,3}/[!-~&&[^=#\"\\\\<>|]]{1,9}", any::<IpAddr>(), 0..20)) {
        let mut lock = LockFile::new();
        for (text, address) in &lines {
            if lock.holder(*address).is_none() {
                lock.insert(&key(text), *address).unwrap();
            }
        }
        let text = lock.to_string();
        prop_assert_eq!(&text.parse::<LockFile>().unwrap(), &lock);
        let keys: Vec<_> = text.lines().skip(1).map(|line| line.split(" = ").next().unwrap().to_owned()).collect();
        prop_assert!(keys.is_sorted());
        prop_assert_eq!(lock.merge(&lock).unwrap(), lock);
    }
}
