//! Leases of addresses: how fast they are granted and found, how much memory they take, and what keeping them on disk costs.

use std::collections::HashMap;
use std::hint::black_box;
use std::net::IpAddr;
use std::time::Instant;

use anyhow::Result;
use ipalloc::store::{FileStore, Persistent};
use ipalloc::{Allocator, Key, Pool, Timestamp};

use crate::{Bench, FLOOR, OURS, Report, Unit};

/// `cargo xtask bench ip`
pub(crate) const BENCH: Bench = Bench {
    name: "ip",
    about: "leases of addresses: granted, found, kept on disk",
    run,
};

const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);
const MILLIONS: Unit = Unit {
    name: "M/s",
    more_is_better: true,
};
const SECONDS: Unit = Unit {
    name: "s",
    more_is_better: false,
};
const BYTES: Unit = Unit {
    name: "B",
    more_is_better: false,
};
const MANY: usize = 1_000_000;

fn run(report: &mut Report) -> Result<()> {
    let keys = keys(MANY)?;
    by_hash(report, "127.0.0.0/8", &keys)?;
    by_hash(report, "fd77:6465:7662::/64", &keys)?;
    last_address(report, &keys)?;
    fill(report, &keys)?;
    assign(report, &keys)?;
    on_disk(report, &keys)
}

fn keys(count: usize) -> Result<Vec<Key>> {
    (0..count)
        .map(|n| Ok(Key::new(&format!("dev/namespace-{}/service-{n}", n % 50))?))
        .collect()
}

/// The same numbers in an order that no cache can predict.
fn shuffled(count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for at in (1..count).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        order.swap(at, usize::try_from(state % (at as u64 + 1)).unwrap_or(0));
    }
    order
}

fn per_second(count: usize, since: Instant) -> f64 {
    count as f64 / since.elapsed().as_secs_f64() / 1e6
}

fn nanoseconds(count: usize, since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e9 / count as f64
}

/// How long one of these takes: the best of nine rounds, since what others do on this machine should not be measured.
fn each<'a, T, R>(items: &'a [T], mut ask: impl FnMut(&'a T) -> R) -> f64 {
    let round = |_| {
        let since = Instant::now();
        for item in items {
            black_box(ask(item));
        }
        nanoseconds(items.len(), since)
    };
    (0..9).map(round).fold(f64::MAX, f64::min)
}

/// How long this takes: the best of three rounds.
fn best(mut act: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut best = f64::MAX;
    for _ in 0..3 {
        let since = Instant::now();
        act()?;
        best = best.min(since.elapsed().as_secs_f64());
    }
    Ok(best)
}

fn by_hash(report: &mut Report, prefix: &str, keys: &[Key]) -> Result<()> {
    let pool = Pool::new([prefix.parse()?])?;
    // Also the best of nine.
    let mut best = 0.0_f64;
    let mut allocator = Allocator::new(pool.clone());
    for _ in 0..9 {
        allocator = Allocator::new(pool.clone());
        let since = Instant::now();
        for key in keys {
            black_box(allocator.lease(key, NOW)?);
        }
        best = best.max(per_second(keys.len(), since));
    }
    report.figure(&format!("1 M leases by hash, {prefix}"), OURS, best, MILLIONS);
    // Keys as a caller has them after reading them, in an order that no cache can predict.
    let asked: Vec<Key> = shuffled(keys.len())
        .into_iter()
        .filter_map(|at| keys.get(at)?.as_str().parse().ok())
        .collect();
    let addresses: Vec<_> = asked.iter().filter_map(|key| allocator.get(key)).collect();
    let pairs = || {
        keys.iter()
            .filter_map(|key| Some((key.clone(), allocator.get(key)?)))
    };
    // The same with the maps of the standard library, which show what this machine's memory costs.
    let by_key: HashMap<Key, IpAddr> = pairs().collect();
    let by_address: HashMap<IpAddr, Key> = pairs().map(|(key, address)| (address, key)).collect();
    let row = format!("address of a key, in order, {prefix}");
    let ours = each(keys, |key| allocator.get(key));
    report.figure(&row, OURS, ours, Unit::NANOSECONDS);
    let floor = each(keys, |key| by_key.get(key));
    report.figure(&row, FLOOR, floor, Unit::NANOSECONDS);
    let row = format!("address of a key, shuffled, {prefix}");
    let ours = each(&asked, |key| allocator.get(key));
    report.figure(&row, OURS, ours, Unit::NANOSECONDS);
    let floor = each(&asked, |key| by_key.get(key));
    report.figure(&row, FLOOR, floor, Unit::NANOSECONDS);
    let row = format!("key of an address, shuffled, {prefix}");
    let ours = each(&addresses, |at| allocator.lookup(*at));
    report.figure(&row, OURS, ours, Unit::NANOSECONDS);
    let floor = each(&addresses, |at| by_address.get(at));
    report.figure(&row, FLOOR, floor, Unit::NANOSECONDS);
    // These keys are short enough to be stored in the table.
    let text: usize = keys.iter().map(|key| key.as_str().len()).sum();
    report.figure(
        &format!("memory a lease over the text of its key, {prefix}"),
        OURS,
        (allocator.memory_bytes() - text) as f64 / keys.len() as f64,
        BYTES,
    );
    Ok(())
}

/// A /16 filled to its last address: the slowest 4096 leases compared with the average.
fn last_address(report: &mut Report, keys: &[Key]) -> Result<()> {
    let mut worst = f64::MAX;
    let mut last = f64::MAX;
    for _ in 0..3 {
        let pool = Pool::builder()
            .prefix("10.1.0.0/16".parse()?)
            .avoid_edge_octets(false)
            .build()?;
        let mut allocator = Allocator::new(pool);
        let (mut slowest, mut latest) = (0.0_f64, 0.0);
        for keys in keys.get(..65_534).unwrap_or(keys).chunks(4096) {
            let since = Instant::now();
            for key in keys {
                black_box(allocator.lease(key, NOW)?);
            }
            latest = nanoseconds(keys.len(), since);
            slowest = slowest.max(latest);
        }
        worst = worst.min(slowest);
        last = last.min(latest);
    }
    report.figure(
        "a /16, the slowest 4096 of 65,534 leases, each",
        OURS,
        worst,
        Unit::NANOSECONDS,
    );
    report.figure(
        "a /16, the last 4094 of 65,534 leases, each",
        OURS,
        last,
        Unit::NANOSECONDS,
    );
    Ok(())
}

/// How full a pool must be before leases by hash slow down: the best of three for each tenth.
fn fill(report: &mut Report, keys: &[Key]) -> Result<()> {
    let pool = Pool::new(["10.16.0.0/12".parse()?])?;
    let size = usize::try_from(pool.size())?.min(keys.len());
    let mut tenths = [0.0_f64; 10];
    for _ in 0..3 {
        let mut allocator = Allocator::new(pool.clone());
        for (tenth, keys) in tenths.iter_mut().zip(keys.chunks(size / 10)) {
            let since = Instant::now();
            for key in keys {
                black_box(allocator.lease(key, NOW)?);
            }
            *tenth = tenth.max(per_second(keys.len(), since));
        }
    }
    for (tenth, rate) in tenths.into_iter().enumerate() {
        let filled = (tenth + 1) * size * 10 / usize::try_from(pool.size())?;
        report.figure(&format!("a /12, filled to {filled} %"), OURS, rate, MILLIONS);
    }
    Ok(())
}

fn assign(report: &mut Report, keys: &[Key]) -> Result<()> {
    let allocator = Allocator::new(Pool::new(["127.0.0.0/8".parse()?])?);
    let seconds = best(|| {
        black_box(allocator.assign(keys)?);
        Ok(())
    });
    report.figure("assign a set of 1 M keys", OURS, seconds?, SECONDS);
    Ok(())
}

fn on_disk(report: &mut Report, keys: &[Key]) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let pool = Pool::new(["127.0.0.0/8".parse()?])?;
    let open = || Persistent::open(FileStore::new(directory.path()), pool.clone());
    let mut leases = open()?;
    leases.update(|allocator| {
        keys.iter()
            .try_for_each(|key| allocator.lease(key, NOW).map(drop))
    })?;
    let seconds = best(|| Ok(leases.fold()?))?;
    report.figure(
        "snapshot of 1 M leases, written and synced",
        OURS,
        seconds,
        SECONDS,
    );
    let seconds = best(|| {
        black_box(open()?);
        Ok(())
    });
    report.figure("snapshot of 1 M leases, loaded", OURS, seconds?, SECONDS);

    // Only the sync, of as many bytes appended to another file.
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    let mut file = std::fs::File::create(directory.path().join("floor"))?;
    for n in 0..100 {
        let key = Key::new(&format!("dev/later/service-{n}"))?;
        let since = Instant::now();
        black_box(leases.lease(&key, NOW)?);
        ours.push(since.elapsed());
        let since = Instant::now();
        std::io::Write::write_all(&mut file, &[b'x'; 120])?;
        file.sync_data()?;
        floor.push(since.elapsed());
    }
    ours.sort();
    floor.sort();
    for (subject, times) in [(OURS, ours), (FLOOR, floor)] {
        if let Some(median) = times.get(times.len() / 2) {
            let (row, value) = (
                "one lease more in a store of 1 M, synced",
                median.as_secs_f64() * 1e6,
            );
            report.figure(row, subject, value, Unit::MICROSECONDS);
        }
    }
    Ok(())
}
