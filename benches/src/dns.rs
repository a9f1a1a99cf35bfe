//! DNS answers from memory beside dnsmasq, unbound and knot, and what a registry, an update and forwarding cost.

mod inside;
mod prober;
mod servers;

use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::measure::cpu_seconds;
use crate::{Bench, OURS, Report, Unit};
use prober::Prober;
use servers::Server;

/// `cargo xtask bench dns`
pub(crate) const BENCH: Bench = Bench {
    name: "dns",
    about: "DNS answers from memory, beside dnsmasq, unbound and knot",
    run,
};

/// The names of each server.
const NAMES: u32 = 10_000;
/// How long each is asked as fast as it answers, and how long at a rate.
const LOADED: Duration = Duration::from_secs(5);
/// Rounds, each server in turn, so that what else the machine does is everybody's.
const ROUNDS: usize = 3;
/// The rate at which latencies are measured: far below what each can do.
const RATE: u32 = 20_000;

/// How a server is started, with a folder for its files.
type Start = fn(&Path) -> Result<Server>;

fn run(report: &mut Report) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    beside_others(report, scratch.path())?;
    inside::run(report)
}

fn name(number: u32) -> String {
    format!("service-{number}.ns-{}.devbox.test", number % 50)
}

fn beside_others(report: &mut Report, scratch: &Path) -> Result<()> {
    let mut questions = String::new();
    for number in 0..NAMES {
        // In an order that no cache likes.
        writeln!(questions, "{} A", name(number.wrapping_mul(7_919) % NAMES))?;
    }
    let file = scratch.join("questions");
    std::fs::write(&file, questions)?;
    let starts: [(&str, Start); 4] = [
        (OURS, servers::ours),
        ("dnsmasq", servers::dnsmasq),
        ("unbound", servers::unbound),
        ("knot", servers::knot),
    ];
    let mut running = Vec::new();
    for (subject, start) in starts {
        match start(scratch) {
            Ok(server) => running.push((subject, server, Vec::new(), Vec::new())),
            Err(error) => report.note(format!("{subject} is not measured: {error:#}")),
        }
    }
    for _ in 0..ROUNDS {
        for (_, server, cpu, p99) in &mut running {
            let before = cpu_seconds(&[server.pid()]);
            let answered = dnsperf(&file, server.port, LOADED, None)?;
            cpu.push((cpu_seconds(&[server.pid()]) - before) * 1e6 / answered);
            let (file, port) = (file.clone(), server.port);
            let load = thread::spawn(move || dnsperf(&file, port, LOADED, Some(RATE)));
            p99.push(Prober::new(port)?.run(LOADED, &name(1))?.p99());
            match load.join() {
                Ok(done) => done.map(drop)?,
                Err(_) => bail!("the load has panicked"),
            }
        }
    }
    report.wanted("CPU per query", "0.8 of the best peer");
    report.wanted(&format!("p99 beside {RATE}/s"), "no more than the best peer");
    for (subject, _, cpu, p99) in &running {
        report.figure(
            "CPU per query",
            subject,
            crate::measure::median(cpu),
            Unit::MICROSECONDS,
        );
        let row = format!("p99 beside {RATE}/s");
        report.figure(&row, subject, crate::measure::median(p99), Unit::MICROSECONDS);
    }
    Ok(())
}

/// Runs dnsperf(1); how many queries were answered.
fn dnsperf(questions: &Path, port: u16, time: Duration, rate: Option<u32>) -> Result<f64> {
    let mut command = Command::new("dnsperf");
    command.args(["-s", "127.0.0.1", "-p", &port.to_string(), "-T", "1", "-c", "4"]);
    command
        .args(["-l", &time.as_secs().to_string(), "-d"])
        .arg(questions);
    if let Some(rate) = rate {
        command.args(["-Q", &rate.to_string()]);
    }
    let output = command.stdin(Stdio::null()).output().context("dnsperf(1)")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Queries completed:"));
    let count = line.and_then(|line| line.split_whitespace().next());
    count
        .and_then(|count| count.parse().ok())
        .with_context(|| format!("dnsperf said: {text}{}", String::from_utf8_lossy(&output.stderr)))
}
