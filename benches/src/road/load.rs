//! The load: a separate process, so that it can run where a subject's names are. It measures one round for each line it reads, and
//! answers each with one line of JSON.

use std::io::{self, BufRead, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::service::{BULK_BYTES, COUNT, ECHO, SEND};
use crate::measure::{cpu_seconds, percentile};

/// The first argument that makes this program the load: `__load HOST PORT PROCESS`. The processor time of PROCESS and all its
/// descendants is the cost of a transfer.
pub const ARGUMENT: &str = "__load";

const TIME_EACH: Duration = Duration::from_millis(300);
const TIME_BULK: Duration = Duration::from_millis(600);
/// Closed connections hold their ports for a minute; this keeps their number far below what a system has.
const MAX_CONNECTIONS: usize = 1200;
const CONNECTING_THREADS: usize = 4;
/// On loopback, an answer that takes longer than this will not come.
const PATIENCE: Duration = Duration::from_secs(5);

/// What one round measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Round {
    pub(crate) by_name: Latency,
    pub(crate) one_byte: Latency,
    pub(crate) sixteen_kib: Latency,
    pub(crate) connections_per_second: f64,
    pub(crate) down: Bulk,
    pub(crate) up: Bulk,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Latency {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bulk {
    pub(crate) gib_per_second: f64,
    pub(crate) cpu_per_gib: f64,
}

impl Round {
    fn to_json(self) -> Value {
        let latency = |latency: Latency| json!([latency.p50_us, latency.p99_us]);
        let bulk = |bulk: Bulk| json!([bulk.gib_per_second, bulk.cpu_per_gib]);
        json!({
            "by_name": latency(self.by_name),
            "one_byte": latency(self.one_byte),
            "sixteen_kib": latency(self.sixteen_kib),
            "connections_per_second": self.connections_per_second,
            "down": bulk(self.down),
            "up": bulk(self.up),
        })
    }

    pub(crate) fn from_json(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text)?;
        let number = |value: &Value| value.as_f64().context("a figure is missing");
        let pair = |name: &str| Ok::<_, anyhow::Error>((number(&value[name][0])?, number(&value[name][1])?));
        let latency = |name| pair(name).map(|(p50_us, p99_us)| Latency { p50_us, p99_us });
        let bulk = |name| {
            pair(name).map(|(gib_per_second, cpu_per_gib)| Bulk {
                gib_per_second,
                cpu_per_gib,
            })
        };
        Ok(Self {
            by_name: latency("by_name")?,
            one_byte: latency("one_byte")?,
            sixteen_kib: latency("sixteen_kib")?,
            connections_per_second: number(&value["connections_per_second"])?,
            down: bulk("down")?,
            up: bulk("up")?,
        })
    }
}

/// Serves rounds until standard input ends. The arguments are those after [`ARGUMENT`].
///
/// # Errors
/// Wrong arguments, a name that does not resolve, or a connection that fails or is silent for five seconds.
pub fn serve(arguments: &[String]) -> Result<()> {
    let [host, port, process] = arguments else {
        bail!("{ARGUMENT} HOST PORT PROCESS")
    };
    let (port, process) = (port.parse()?, process.parse()?);
    for line in io::stdin().lock().lines() {
        line?;
        let round = round(host, port, process)?;
        let mut out = io::stdout().lock();
        writeln!(out, "{}", round.to_json())?;
        out.flush()?;
    }
    Ok(())
}

fn round(host: &str, port: u16, process: u32) -> Result<Round> {
    let address = resolve(host, port)?;
    Ok(Round {
        by_name: latency(MAX_CONNECTIONS / 4, || {
            let mut connection = connect(resolve(host, port)?, ECHO)?;
            exchange(&mut connection, &mut [1])
        })?,
        one_byte: ping_pong(address, 1)?,
        sixteen_kib: ping_pong(address, 16 << 10)?,
        connections_per_second: connections_per_second(
            address,
            CONNECTING_THREADS,
            TIME_EACH,
            MAX_CONNECTIONS,
        )?,
        down: down(address, process)?,
        up: up(address, process)?,
    })
}

/// Resolves as a program does that knows a name: takes the first IPv4 address that the system returns.
fn resolve(host: &str, port: u16) -> Result<SocketAddr> {
    let mut found = (host, port)
        .to_socket_addrs()
        .with_context(|| format!("{host} does not resolve"))?;
    found
        .find(SocketAddr::is_ipv4)
        .with_context(|| format!("{host} has no IPv4 address"))
}

pub(crate) fn connect(address: SocketAddr, order: u8) -> Result<TcpStream> {
    let mut connection = TcpStream::connect_timeout(&address, PATIENCE)
        .with_context(|| format!("cannot connect to {address}"))?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    connection.write_all(&[order])?;
    Ok(connection)
}

pub(crate) fn exchange(connection: &mut TcpStream, bytes: &mut [u8]) -> Result<()> {
    connection.write_all(bytes)?;
    connection.read_exact(bytes).context("no answer")
}

/// Repeats `work` for the time of a measurement.
fn latency(at_most: usize, mut work: impl FnMut() -> Result<()>) -> Result<Latency> {
    for _ in 0..10 {
        work()?;
    }
    let mut times_us = Vec::new();
    let start = Instant::now();
    while start.elapsed() < TIME_EACH && times_us.len() < at_most {
        let before = Instant::now();
        work()?;
        times_us.push(before.elapsed().as_secs_f64() * 1e6);
    }
    Ok(Latency {
        p50_us: percentile(&times_us, 0.5),
        p99_us: percentile(&times_us, 0.99),
    })
}

fn ping_pong(address: SocketAddr, bytes: usize) -> Result<Latency> {
    let mut connection = connect(address, ECHO)?;
    let mut message = vec![7; bytes];
    latency(usize::MAX, || exchange(&mut connection, &mut message))
}

/// Connect, one byte there and back, close, on each of `threads`, for `time` or until they have made `at_most` in all.
pub(crate) fn connections_per_second(
    address: SocketAddr,
    threads: usize,
    time: Duration,
    at_most: usize,
) -> Result<f64> {
    let start = Instant::now();
    let one_thread = || {
        let mut made = 0_u32;
        while start.elapsed() < time && (made as usize) < at_most / threads {
            exchange(&mut connect(address, ECHO)?, &mut [1])?;
            made += 1;
        }
        Ok::<_, anyhow::Error>(made)
    };
    let made = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(one_thread)).collect();
        let joined = threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a thread panicked")));
        joined.map(|made| made?).sum::<Result<u32>>()
    })?;
    Ok(f64::from(made) / start.elapsed().as_secs_f64())
}

fn down(address: SocketAddr, process: u32) -> Result<Bulk> {
    let mut connection = connect(address, SEND)?;
    let mut buffer = vec![0; BULK_BYTES];
    // Lets the windows open first.
    let mut warm_up = 0;
    while warm_up < 8 << 20 {
        warm_up += read_some(&mut connection, &mut buffer)?;
    }
    bulk(process, || {
        let mut total = 0;
        let start = Instant::now();
        while start.elapsed() < TIME_BULK {
            total += read_some(&mut connection, &mut buffer)?;
        }
        Ok(total)
    })
}

fn up(address: SocketAddr, process: u32) -> Result<Bulk> {
    let mut connection = connect(address, COUNT)?;
    let buffer = vec![3; BULK_BYTES];
    bulk(process, || {
        let mut total = 0_usize;
        let start = Instant::now();
        while start.elapsed() < TIME_BULK {
            connection.write_all(&buffer)?;
            total += buffer.len();
        }
        // Counts what has arrived, not what is in buffers on the way.
        connection.shutdown(Shutdown::Write)?;
        let mut arrived = [0; 8];
        connection.read_exact(&mut arrived).context("no count")?;
        ensure!(
            u64::from_be_bytes(arrived) == total as u64,
            "bytes were lost on the way"
        );
        Ok(total)
    })
}

fn read_some(connection: &mut TcpStream, buffer: &mut [u8]) -> Result<usize> {
    let length = connection.read(buffer)?;
    ensure!(length > 0, "the stream ended");
    Ok(length)
}

fn bulk(process: u32, transfer: impl FnOnce() -> Result<usize>) -> Result<Bulk> {
    let (cpu, start) = (cpu_seconds(&[process]), Instant::now());
    let gib = transfer()? as f64 / f64::from(1 << 30);
    let (cpu, took) = (cpu_seconds(&[process]) - cpu, start.elapsed().as_secs_f64());
    Ok(Bulk {
        gib_per_second: gib / took,
        cpu_per_gib: cpu / gib,
    })
}

#[cfg(test)]
mod tests {
    use super::super::service::Service;
    use super::*;

    #[test]
    fn a_round_against_the_service_itself_has_every_figure() {
        let address = Service::start().unwrap().address();
        let round = round("127.0.0.1", address.port(), std::process::id()).unwrap();
        assert!(
            round.one_byte.p50_us > 0.0 && round.one_byte.p99_us >= round.one_byte.p50_us,
            "{round:?}"
        );
        assert!(round.connections_per_second > 1.0, "{round:?}");
        assert!(
            round.down.gib_per_second > 0.0 && round.up.gib_per_second > 0.0,
            "{round:?}"
        );
    }

    #[test]
    fn a_round_survives_the_pipe() {
        let latency = Latency {
            p50_us: 12.5,
            p99_us: 80.25,
        };
        let bulk = Bulk {
            gib_per_second: 1.5,
            cpu_per_gib: 0.75,
        };
        let (by_name, one_byte, sixteen_kib) = (latency, latency, latency);
        let round = Round {
            by_name,
            one_byte,
            sixteen_kib,
            connections_per_second: 4096.0,
            down: bulk,
            up: bulk,
        };
        assert_eq!(Round::from_json(&round.to_json().to_string()).unwrap(), round);
        assert!(Round::from_json("{}").is_err());
    }

    #[test]
    fn a_name_that_is_not_there_is_an_error_with_the_name() {
        // RFC 6761: `invalid` never resolves.
        let error = round("no-such-host.invalid", 1, 1).unwrap_err();
        assert!(format!("{error:#}").contains("no-such-host.invalid"), "{error:#}");
    }
}
