//! What a fuzzer throws at a store, and what holds whatever it throws: used by the fuzz targets and by the test that replays their
//! corpus, and no part of the interface.

use super::{MemoryStore, Part, Persistent, checksum, journal, snapshot};
use crate::{Pool, Strategy};

/// Any bytes as a journal. Tells, as the others do, whether they were accepted.
pub fn journal(bytes: &[u8]) -> bool {
    let mut pools = pools();
    pools.all(|pool| {
        let memory = begun(&pool);
        memory.set_bytes(Part::Journal, Some(bytes.to_vec()));
        twice(&memory, &pool)
    })
}

/// Lines as the records of a journal, with true checksums.
pub fn records(bytes: &[u8]) -> bool {
    let mut pools = pools();
    pools.all(|pool| {
        let memory = begun(&pool);
        let mut text = journal::header(1).into_bytes();
        for line in bytes.split(|byte| *byte == b'\n') {
            text.extend(format!("{:016x} ", checksum(line)).bytes());
            text.extend(line);
            text.push(b'\n');
        }
        memory.set_bytes(Part::Journal, Some(text));
        twice(&memory, &pool)
    })
}

/// Any bytes as a snapshot.
pub fn snapshot(bytes: &[u8]) -> bool {
    let mut pools = pools();
    pools.all(|pool| {
        let memory = MemoryStore::new();
        memory.set_bytes(Part::Snapshot, Some(bytes.to_vec()));
        twice(&memory, &pool)
    })
}

/// Any bytes as what stands in a snapshot between its title and a true checksum.
pub fn document(bytes: &[u8]) -> bool {
    let mut pools = pools();
    pools.all(|pool| {
        let memory = MemoryStore::new();
        memory.set_bytes(Part::Snapshot, Some(snapshot::with_title_and_sum(bytes)));
        twice(&memory, &pool)
    })
}

fn pools() -> impl Iterator<Item = Pool> {
    let build = |strategy, share| {
        let pool = Pool::builder().prefix(ipnet::Ipv4Net::new_assert([10, 0, 0, 0].into(), 24).into());
        pool.strategy(strategy).share_by_port(share).build()
    };
    [build(Strategy::ByHash, false), build(Strategy::LowestFree, true)]
        .into_iter()
        .flatten()
}

/// The files of a new store.
fn begun(pool: &Pool) -> MemoryStore {
    let memory = MemoryStore::new();
    drop(Persistent::open(memory.clone(), pool.clone()));
    memory
}

/// What could be loaded is loaded again the same, before and after it is folded; what could not has not been changed. Tells which.
fn twice(memory: &MemoryStore, pool: &Pool) -> bool {
    let before = [Part::Snapshot, Part::Journal].map(|part| memory.bytes(part));
    let Ok(mut leases) = Persistent::open(memory.clone(), pool.clone()) else {
        let aside = memory.aside();
        for (part, bytes) in [Part::Snapshot, Part::Journal].into_iter().zip(before) {
            let kept = aside
                .iter()
                .find(|(other, _)| *other == part)
                .map(|(_, bytes)| bytes.clone());
            assert_eq!(kept.or(memory.bytes(part)), bytes, "{part:?} was changed");
        }
        return false;
    };
    let text = |leases: &Persistent<MemoryStore>| {
        let mut lines: Vec<_> = leases
            .allocator()
            .iter()
            .map(|lease| format!("{lease:?}"))
            .collect();
        lines.sort();
        lines.extend(leases.allocator().resting().map(|rest| format!("{rest:?}")));
        lines.extend(leases.allocator().pins().map(|pin| format!("{pin:?}")));
        lines.extend(leases.allocator().reservations().map(|range| range.to_string()));
        lines
    };
    let found = text(&leases);
    assert!(leases.fold().is_ok(), "what was loaded can be folded");
    match Persistent::open(memory.clone(), pool.clone()) {
        Ok(again) => assert_eq!(text(&again), found, "a fold changed something"),
        Err(error) => assert_eq!(error.to_string(), "", "what was written cannot be read"),
    }
    true
}
