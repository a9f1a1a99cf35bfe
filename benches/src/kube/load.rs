//! What is asked of a service through each way. Runs in the node's network.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::awake::Awake;
use super::{Row, row};
use crate::Unit;
use crate::measure::percentile;
use crate::road::load::{connect, connections_per_second, exchange};
use crate::road::service::{BULK_BYTES, ECHO, SEND, TAKE};

const BULK: usize = 128 << 20;
const TIME_EACH: Duration = Duration::from_millis(1000);
const AT_ONCE: usize = 4;
/// Closed connections hold their ports for a minute: with far more than this, connecting is what is measured.
const MOST_CONNECTIONS: usize = 2500;

/// What one round measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    one_byte_us: f64,
    sixteen_kib_us: f64,
    one_byte_awake_us: f64,
    sixteen_kib_awake_us: f64,
    one_by_one: f64,
    four_at_once: f64,
    one_by_one_awake: f64,
    down: Bulk,
    up: Bulk,
}

#[derive(Clone, Copy, Debug)]
struct Bulk {
    mib_per_second: f64,
    cpu_per_gib: f64,
}

type Value = fn(&Round) -> f64;

pub(crate) const ROWS: &[(Row, Value)] = &[
    (
        row("1 byte there and back, p50", Unit::MICROSECONDS, ""),
        |round| round.one_byte_us,
    ),
    (
        row("16 KiB there and back, p50", Unit::MICROSECONDS, ""),
        |round| round.sixteen_kib_us,
    ),
    (
        row(
            "1 byte, p50, no core sleeps",
            Unit::MICROSECONDS,
            "pod: .45 x kubectl",
        ),
        |round| round.one_byte_awake_us,
    ),
    (
        row(
            "16 KiB, p50, no core sleeps",
            Unit::MICROSECONDS,
            "pod: .45 x kubectl",
        ),
        |round| round.sixteen_kib_awake_us,
    ),
    (
        row(
            "new connections, one by one",
            Unit::PER_SECOND,
            "pod: 5 x kubectl",
        ),
        |round| round.one_by_one,
    ),
    (
        row("new connections, 4 at a time", Unit::PER_SECOND, ""),
        |round| round.four_at_once,
    ),
    (
        row(
            "new connections, no core sleeps",
            Unit::PER_SECOND,
            "pod: 5 x kubectl",
        ),
        |round| round.one_by_one_awake,
    ),
    (
        row(
            "one stream down",
            Unit::MIB_PER_SECOND,
            "forward 1 x, pod 2 x kubectl",
        ),
        |round| round.down.mib_per_second,
    ),
    (
        row("one stream down, CPU of the client", Unit::CPU_PER_GIB, "1.2"),
        |round| round.down.cpu_per_gib,
    ),
    (
        row(
            "one stream up",
            Unit::MIB_PER_SECOND,
            "forward 1 x, pod 2 x kubectl",
        ),
        |round| round.up.mib_per_second,
    ),
    (
        row("one stream up, CPU of the client", Unit::CPU_PER_GIB, "1.2"),
        |round| round.up.cpu_per_gib,
    ),
];

/// `cpu` is how much of it the way has used so far, in seconds.
pub(crate) fn round(address: SocketAddr, cpu: &(dyn Fn() -> f64 + Sync)) -> Result<Round> {
    let one_by_one = || connections_per_second(address, 1, TIME_EACH, MOST_CONNECTIONS);
    let (one_byte_awake_us, sixteen_kib_awake_us, one_by_one_awake) = {
        let _awake = Awake::start()?;
        (p50_us(address, 1)?, p50_us(address, 16 << 10)?, one_by_one()?)
    };
    Ok(Round {
        one_byte_us: p50_us(address, 1)?,
        sixteen_kib_us: p50_us(address, 16 << 10)?,
        one_byte_awake_us,
        sixteen_kib_awake_us,
        one_by_one: one_by_one()?,
        one_by_one_awake,
        four_at_once: connections_per_second(address, AT_ONCE, TIME_EACH, MOST_CONNECTIONS)?,
        down: bulk(cpu, || down(address))?,
        up: bulk(cpu, || up(address))?,
    })
}

/// Whether the service answers at this moment.
pub(crate) fn answers(address: SocketAddr) -> Result<()> {
    exchange(&mut connect(address, ECHO)?, &mut [1])
}

fn p50_us(address: SocketAddr, bytes: usize) -> Result<f64> {
    let mut connection = connect(address, ECHO)?;
    let mut message = vec![7; bytes];
    let (start, mut times_us) = (Instant::now(), Vec::new());
    while start.elapsed() < TIME_EACH {
        let before = Instant::now();
        exchange(&mut connection, &mut message)?;
        times_us.push(before.elapsed().as_secs_f64() * 1e6);
    }
    Ok(percentile(&times_us, 0.5))
}

fn down(address: SocketAddr) -> Result<()> {
    let mut connection = connect(address, SEND)?;
    let mut buffer = vec![0; BULK_BYTES];
    let mut left = BULK;
    while left > 0 {
        let n = connection.read(&mut buffer)?;
        ensure!(n > 0, "the stream ended");
        left = left.saturating_sub(n);
    }
    Ok(())
}

fn up(address: SocketAddr) -> Result<()> {
    let mut connection = connect(address, TAKE)?;
    connection.write_all(&(BULK as u64).to_be_bytes())?;
    let buffer = vec![3; BULK_BYTES];
    for _ in 0..BULK / BULK_BYTES {
        connection.write_all(&buffer)?;
    }
    connection.read_exact(&mut [0]).context("no answer")
}

fn bulk(cpu: &dyn Fn() -> f64, transfer: impl FnOnce() -> Result<()>) -> Result<Bulk> {
    let (before, start) = (cpu(), Instant::now());
    transfer()?;
    let (took, used) = (start.elapsed().as_secs_f64(), cpu() - before);
    let mib = (BULK >> 20) as f64;
    Ok(Bulk {
        mib_per_second: mib / took,
        cpu_per_gib: used / (mib / 1024.0),
    })
}

/// How many of 20 connections are answered while one reader does not read, and after a port was refused.
pub(crate) fn beside_trouble(address: SocketAddr, refused: SocketAddr) -> Result<f64> {
    // kubectl may have gone with the refusal.
    let _stalled = connect(address, SEND)?;
    if let Ok(mut connection) = connect(refused, ECHO) {
        let answer = connection.read(&mut [0]);
        ensure!(
            !matches!(answer, Ok(1)),
            "somebody listens on the port that should refuse"
        );
    }
    let answered = (0..20).filter(|_| answers(address).is_ok());
    Ok(answered.count() as f64)
}
