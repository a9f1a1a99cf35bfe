//! What is on disk: damage is found and kept aside, versions are respected, processes do not lose each other's work.
#![expect(clippy::unwrap_used, reason = "also outside the functions marked as tests")]

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ipalloc::store::{FileStore, MemoryStore, Part, Persistent, Store as _};
use ipalloc::{Error, Key, LockFile, Pool, Strategy, Timestamp};
use proptest::prelude::*;

const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn open(directory: &Path) -> Result<Persistent, Error> {
    Persistent::open(FileStore::new(directory), Pool::default())
}

fn live(leases: &Persistent<impl ipalloc::store::Store>) -> BTreeMap<String, IpAddr> {
    leases
        .allocator()
        .iter()
        .map(|lease| (lease.key.to_string(), lease.address))
        .collect()
}

/// A store with something of everything, in its snapshot and in its journal.
fn full() -> MemoryStore {
    let memory = MemoryStore::new();
    let mut leases = Persistent::open(memory.clone(), Pool::default()).unwrap();
    for (round, fold) in [(0, true), (1, false)] {
        for n in 0..3 {
            leases.lease(&key(&format!("r{round}/live-{n}")), NOW).unwrap();
        }
        leases.lease(&key(&format!("r{round}/gone")), NOW).unwrap();
        leases.release(&key(&format!("r{round}/gone")), NOW).unwrap();
        leases
            .lease_port(&key(&format!("r{round}/port")), 80.try_into().unwrap(), NOW)
            .unwrap();
        leases
            .pin(
                &key(&format!("r{round}/pin")),
                IpAddr::from([127, 77, round, 7]),
                NOW,
            )
            .unwrap();
        leases.reserve(IpAddr::from([127, 77, round, 9])).unwrap();
        if fold {
            leases.fold().unwrap();
        }
    }
    memory
}

#[test]
fn a_restart_changes_nothing_and_tombstones_survive_it() {
    let memory = full();
    let open = || Persistent::open(memory.clone(), Pool::default()).unwrap();
    let mut leases = open();
    assert_eq!(leases.allocator().iter().count(), 8);
    assert_eq!(leases.allocator().resting().count(), 2);
    assert_eq!(leases.allocator().pins().count(), 2);
    assert_eq!(leases.allocator().reservations().count(), 2);
    let rested = leases.allocator().resting().next().unwrap().address;
    // By hash another key that wants the address of one that rests has its neighbour, after a restart too.
    let other = (0..1_000_000)
        .map(|n| key(&format!("other-{n}")))
        .find(|key| Pool::default().first_choice(key) == rested);
    let other = other.unwrap();
    assert_ne!(leases.lease(&other, NOW).unwrap(), rested);
    leases.release(&other, NOW).unwrap();
    let later = NOW.plus(Pool::DEFAULT_QUARANTINE);
    assert_eq!(open().lease(&other, later).unwrap(), rested);
}

#[test]
fn a_key_has_the_last_address_that_is_left_to_it_with_and_without_a_restart() {
    let pool = Pool::builder()
        .prefix("10.107.5.0/28".parse().unwrap())
        .strategy(Strategy::LowestFree)
        .build()
        .unwrap();
    let later = NOW.plus(pool.quarantine());
    let (moving, pinned) = (key("dev/moving"), key("dev/pinned"));
    for restart in [false, true] {
        let memory = MemoryStore::new();
        let open = || Persistent::open(memory.clone(), pool.clone()).unwrap();
        let mut leases = open();
        let first = leases.lease(&moving, NOW).unwrap();
        let second = leases.lease_where(&moving, NOW, |it| it != first).unwrap();
        leases.release(&moving, NOW).unwrap();
        // Another key gets the address that the first key had last.
        leases.pin(&pinned, second, later).unwrap();
        assert_eq!(leases.lease(&pinned, later).unwrap(), second);
        if restart {
            leases = open();
        }
        assert_eq!(leases.lease(&moving, later).unwrap(), first, "{restart}");
    }
}

#[test]
fn files_are_what_the_docs_say() {
    let directory = tempfile::tempdir().unwrap();
    let mut leases = open(directory.path()).unwrap();
    leases.lease(&key("dev/backend/orders"), NOW).unwrap();
    let journal = fs::read_to_string(directory.path().join("journal")).unwrap();
    let last = journal.lines().last().unwrap();
    let record: serde_json::Value = serde_json::from_str(&last[17..]).unwrap();
    assert_eq!(record["op"], "lease");
    assert_eq!(record["address"], "127.77.45.67");
    leases.fold().unwrap();
    let snapshot = fs::read(directory.path().join("snapshot.json")).unwrap();
    let snapshot: serde_json::Value = serde_json::from_slice(&snapshot).unwrap();
    assert_eq!(
        (&snapshot["format"], &snapshot["version"]),
        (&"ipalloc-snapshot".into(), &1.into())
    );
    assert_eq!(
        snapshot["leases"][0],
        serde_json::json!(["dev/backend/orders", "127.77.45.67", 1_700_000_000])
    );
    assert_eq!(
        fs::read_to_string(directory.path().join("journal"))
            .unwrap()
            .lines()
            .count(),
        1
    );
}

#[test]
fn a_journal_that_outgrows_its_snapshot_is_folded() {
    let directory = tempfile::tempdir().unwrap();
    let mut leases = open(directory.path()).unwrap();
    let bytes = |name: &str| fs::metadata(directory.path().join(name)).unwrap().len();
    let mut folds = 0;
    for n in 0..1000 {
        let before = bytes("journal");
        leases
            .update(|allocator| {
                (0..40).try_for_each(|m| allocator.lease(&key(&format!("k{}", n * 40 + m)), NOW).map(drop))
            })
            .unwrap();
        folds += u32::from(bytes("journal") < before);
        assert!(bytes("journal") < 70_000.max(bytes("snapshot.json") / 3));
    }
    assert!((5..40).contains(&folds), "{folds} folds");
    assert_eq!(open(directory.path()).unwrap().allocator().iter().count(), 40_000);
}

#[test]
fn a_damaged_store_is_kept_aside_with_its_fault_and_the_next_start_is_new() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    open(directory.path()).unwrap().lease(&key("a"), NOW).unwrap();
    let mut bytes = fs::read(path("snapshot.json")).unwrap();
    bytes[60] ^= 1;
    fs::write(path("snapshot.json"), &bytes).unwrap();
    let journal = fs::read(path("journal")).unwrap();

    let error = open(directory.path()).unwrap_err();
    let Error::Damaged { file, kept, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(*file, path("snapshot.json").display().to_string());
    assert_eq!(kept.len(), 2);
    assert!(error.to_string().contains("does not fit its checksum"), "{error}");
    assert_eq!(fs::read(path("snapshot.json.damaged-1")).unwrap(), bytes);
    assert_eq!(fs::read(path("journal.damaged-1")).unwrap(), journal);

    // The next one begins anew, and a second damage does not overwrite the first.
    assert_eq!(open(directory.path()).unwrap().allocator().iter().count(), 0);
    fs::write(path("journal"), b"nonsense\n").unwrap();
    assert!(matches!(open(directory.path()), Err(Error::Damaged { .. })));
    assert_eq!(fs::read(path("journal.damaged-1")).unwrap(), journal);
    assert_eq!(fs::read(path("journal.damaged-2")).unwrap(), b"nonsense\n");
}

#[test]
fn a_newer_store_and_one_of_another_pool_are_left_as_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    drop(open(directory.path()).unwrap());

    let other = Pool::new(["10.0.0.0/8".parse().unwrap()]).unwrap();
    let error = Persistent::open(FileStore::new(directory.path()), other).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("belongs to the pool 127.77.0.0/16, not to 10.0.0.0/8"),
        "{error}"
    );

    let newer = br#"{"format":"ipalloc-snapshot","version":2,"what":["ever"]}"#;
    fs::write(path("snapshot.json"), newer).unwrap();
    let error = open(directory.path()).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Newer {
                version: 2,
                known: 1,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(fs::read(path("snapshot.json")).unwrap(), newer);

    fs::remove_file(path("snapshot.json")).unwrap();
    let newer = br#"xyz {"format":"ipalloc-journal","version":7}"#;
    fs::write(path("journal"), [newer.as_slice(), b"\n"].concat()).unwrap();
    assert!(matches!(
        open(directory.path()),
        Err(Error::Newer { version: 7, .. })
    ));
    assert!(path("journal").exists());
}

proptest! {
    /// Any change of any byte is found, or (a last line cut off) was never promised.
    #[test]
    fn damage_is_never_half_loaded(in_snapshot: bool, at: prop::sample::Index, flip in 1u8..=255, cut: bool) {
        let memory = full();
        let part = if in_snapshot { Part::Snapshot } else { Part::Journal };
        let whole = live(&Persistent::open(memory.clone(), Pool::default()).unwrap());
        let mut bytes = memory.bytes(part).unwrap();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] ^= flip }
        memory.set_bytes(part, Some(bytes.clone()));
        let is_torn = part == Part::Journal && (cut || bytes.last() != Some(&b'\n'));
        match Persistent::open(memory.clone(), Pool::default()) {
            Err(Error::Damaged { kept, .. }) => {
                prop_assert_eq!(kept.len(), 2);
                prop_assert!(memory.aside().contains(&(part, bytes)));
                prop_assert_eq!(live(&Persistent::open(memory, Pool::default()).unwrap()), BTreeMap::new());
            }
            // A flipped digit may make it a newer version.
            Err(Error::Newer { .. }) => prop_assert_eq!(memory.bytes(part).unwrap(), bytes),
            Err(other) => return Err(TestCaseError::fail(other.to_string())),
            Ok(leases) => {
                prop_assert!(is_torn);
                prop_assert!(live(&leases).iter().all(|(key, address)| whole.get(key) == Some(address) || key.ends_with("gone")));
            }
        }
    }
}

#[test]
fn a_fold_cut_short_between_its_two_files_loses_nothing() {
    let memory = full();
    let before = memory.copy();
    let mut leases = Persistent::open(memory.clone(), Pool::default()).unwrap();
    let expected = live(&leases);
    leases.fold().unwrap();
    // The new snapshot with the old journal.
    before.set_bytes(Part::Snapshot, memory.bytes(Part::Snapshot));
    let mut again = Persistent::open(before.clone(), Pool::default()).unwrap();
    assert_eq!(live(&again), expected);
    again.lease(&key("after"), NOW).unwrap();
    assert_eq!(
        live(&Persistent::open(before, Pool::default()).unwrap()).len(),
        expected.len() + 1
    );
}

#[test]
fn the_lock_of_another_is_waited_for_and_not_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let mut leases = open(directory.path()).unwrap();
    let mut other = FileStore::new(directory.path());
    other.lock().unwrap();
    let impatient = FileStore::new(directory.path()).with_patience(Duration::from_millis(20));
    assert!(matches!(
        Persistent::open(impatient, Pool::default()),
        Err(Error::Locked { .. })
    ));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| leases.lease(&key("a"), NOW));
        std::thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished());
        other.unlock();
        waiting.join().unwrap().unwrap();
    });
}

#[test]
fn two_that_are_open_see_each_other_through_leases_and_folds() {
    let memory = MemoryStore::new();
    let open = || Persistent::open(memory.clone(), Pool::default()).unwrap();
    let (mut one, mut two) = (open(), open());
    let a = one.lease(&key("a"), NOW).unwrap();
    assert_eq!(two.get(&key("a")), None);
    two.refresh().unwrap();
    assert_eq!(two.get(&key("a")), Some(a));
    one.lease(&key("b"), NOW).unwrap();
    one.fold().unwrap();
    one.lease(&key("c"), NOW).unwrap();
    // What two does comes after all of it.
    two.release(&key("b"), NOW).unwrap();
    one.refresh().unwrap();
    assert_eq!(live(&one), live(&two));
    assert_eq!(live(&one).into_keys().collect::<Vec<_>>(), ["a", "c"]);
    // A lock file is each one's own, and stays in force when the store is loaded anew.
    let mut lock = LockFile::new();
    lock.insert(&key("d"), "127.77.3.3".parse().unwrap()).unwrap();
    two.set_lock(&lock).unwrap();
    one.fold().unwrap();
    assert_eq!(two.lease(&key("d"), NOW).unwrap().to_string(), "127.77.3.3");
    // A pin that another process made, without knowing the lock file, wins.
    let mut again = LockFile::new();
    again.insert(&key("e"), "127.77.4.4".parse().unwrap()).unwrap();
    two.set_lock(&again).unwrap();
    one.pin(&key("f"), "127.77.4.4".parse().unwrap(), NOW).unwrap();
    one.fold().unwrap();
    assert_ne!(two.lease(&key("e"), NOW).unwrap().to_string(), "127.77.4.4");
}

/// What a process of [`concurrent_processes_lose_nothing`] does; a test of its own name in a process of its own.
#[test]
#[ignore = "is started by concurrent_processes_lose_nothing"]
fn one_of_many_processes() {
    let directory = std::env::var("IPALLOC_TEST_STORE").unwrap();
    let number: u32 = std::env::var("IPALLOC_TEST_NUMBER").unwrap().parse().unwrap();
    let mut leases = open(Path::new(&directory)).unwrap();
    for round in 0..60 {
        let own = key(&format!("process-{number}/key-{round}"));
        let shared = key(&format!("shared/key-{round}"));
        leases.lease(&own, NOW).unwrap();
        let both = leases.lease(&shared, NOW).unwrap();
        if round % 3 == 0 {
            leases.release(&own, NOW).unwrap();
        }
        if round % 20 == number {
            leases.fold().unwrap();
        }
        let record = format!("{shared} {both}\n");
        fs::write(
            Path::new(&directory).join(format!("seen-{number}-{round}")),
            record,
        )
        .unwrap();
    }
}

#[test]
fn concurrent_processes_lose_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let spawn = |number: u32| {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "one_of_many_processes", "--ignored"])
            .env("IPALLOC_TEST_STORE", directory.path())
            .env("IPALLOC_TEST_NUMBER", number.to_string())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    let children: Vec<_> = (0..4).map(spawn).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let leases = open(directory.path()).unwrap();
    let live = live(&leases);
    // 60 shared keys, and 40 of each process; every process saw the same address for a shared key.
    assert_eq!(live.len(), 60 + 4 * 40);
    assert_eq!(leases.allocator().resting().count(), 4 * 20);
    let distinct: std::collections::BTreeSet<_> = live.values().collect();
    assert_eq!(distinct.len(), live.len());
    for number in 0..4 {
        for round in 0..60 {
            let seen = fs::read_to_string(directory.path().join(format!("seen-{number}-{round}"))).unwrap();
            let (key, address) = seen.trim().split_once(' ').unwrap();
            assert_eq!(live[key].to_string(), address);
        }
    }
}
