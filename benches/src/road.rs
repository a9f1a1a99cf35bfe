//! End to end: a program connects by name and talks to a service behind the tunnel, compared with a direct connection (the
//! floor), `ssh -L` and `socat`.
//!
//! Everything is on loopback. The service and the load are ours; each subject consists of real programs in their own processes.
//! For devbox the load runs inside `devbox exec`, so the name is resolved as any program resolves it. Subjects take turns in
//! short rounds, and the median round counts, so that a busy minute of the machine does not affect only one of them.

pub mod load;
mod peers;
pub(crate) mod service;
mod subject;

use std::collections::BTreeMap;

use anyhow::Result;

use self::load::Round;
use self::service::Service;
use self::subject::Subject;
use crate::measure::median;
use crate::{Bench, Report, Unit};

pub(crate) const BENCH: Bench = Bench {
    name: "road",
    about: "end to end: by name through the tunnel to a service",
    run,
};

const ROUNDS: usize = 5;

fn run(report: &mut Report) -> Result<()> {
    let service = Service::start()?;
    let scratch = tempfile::tempdir()?;
    let mut subjects = Vec::new();
    for start in [peers::direct, peers::devbox, peers::ssh, peers::socat] {
        match start(service.address(), scratch.path()) {
            Ok(subject) => subjects.push(subject),
            Err(error) => report.note(format!("left out: {error:#}")),
        }
    }
    let mut rounds: BTreeMap<&'static str, Vec<Round>> = BTreeMap::new();
    for _ in 0..ROUNDS {
        subjects.retain_mut(|subject| match subject.round() {
            Ok(round) => {
                rounds.entry(subject.name).or_default().push(round);
                true
            }
            Err(error) => {
                report.note(format!("left out: {}: {error:#}", subject.name));
                false
            }
        });
    }
    for (row, unit, value) in ROWS {
        for Subject { name, .. } in &subjects {
            let values: Vec<f64> = rounds.get(name).into_iter().flatten().map(value).collect();
            report.figure(row, name, median(&values), *unit);
        }
    }
    report.note(format!(
        "median of {ROUNDS} rounds; CPU is the total of load, service, and everything between them"
    ));
    Ok(())
}

type Value = fn(&Round) -> f64;

const ROWS: &[(&str, Unit, Value)] = &[
    ("resolve, connect, first byte, p50", Unit::MICROSECONDS, |round| {
        round.by_name.p50_us
    }),
    ("resolve, connect, first byte, p99", Unit::MICROSECONDS, |round| {
        round.by_name.p99_us
    }),
    ("1 byte there and back, p50", Unit::MICROSECONDS, |round| {
        round.one_byte.p50_us
    }),
    ("1 byte there and back, p99", Unit::MICROSECONDS, |round| {
        round.one_byte.p99_us
    }),
    ("16 KiB there and back, p50", Unit::MICROSECONDS, |round| {
        round.sixteen_kib.p50_us
    }),
    ("16 KiB there and back, p99", Unit::MICROSECONDS, |round| {
        round.sixteen_kib.p99_us
    }),
    ("new connections, 4 at a time", Unit::PER_SECOND, |round| {
        round.connections_per_second
    }),
    ("one stream down", Unit::GIB_PER_SECOND, |round| {
        round.down.gib_per_second
    }),
    ("one stream down, CPU", Unit::CPU_PER_GIB, |round| {
        round.down.cpu_per_gib
    }),
    ("one stream up", Unit::GIB_PER_SECOND, |round| {
        round.up.gib_per_second
    }),
    ("one stream up, CPU", Unit::CPU_PER_GIB, |round| {
        round.up.cpu_per_gib
    }),
];
