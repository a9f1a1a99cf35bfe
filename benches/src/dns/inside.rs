//! What no other server has to compare with: the registry's memory, its updates, the forwarder.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nameserver::{Answering, Forwarding, Listening, Record, Registry, Responder, Server, Zone};

use super::name;
use super::prober::Prober;
use crate::measure::{median, memory_kib};
use crate::{FLOOR, OURS, Report, Unit};

const MANY: u32 = 1_000_000;
const CHANGED: u32 = 10_000;
const IN_FLIGHT: u32 = 50_000;
const TIME: Duration = Duration::from_secs(4);
/// A new server's first answers are slower.
const WARM_UP: Duration = Duration::from_secs(1);
/// Rounds without and with what is measured, each in turn.
const ROUNDS: u32 = 3;
const HERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

pub(super) fn run(report: &mut Report) -> Result<()> {
    let registry = Registry::default();
    memory(report, &registry)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    updates(report, &registry, &runtime)?;
    forwarded(report, &runtime)?;
    dead_upstream(report, &runtime)
}

fn record(number: u32, generation: u32) -> Result<Record> {
    let address = Ipv4Addr::from(0x0A00_0000 + number.wrapping_add(generation) % 0x00FF_0000);
    Ok(Record::addresses(name(number).parse()?, [address.into()]))
}

fn memory(report: &mut Report, registry: &Registry) -> Result<()> {
    let before = memory_kib(std::process::id()).context("/proc")?;
    for part in 0..MANY / CHANGED {
        let records: Result<Vec<_>> = (part * CHANGED..(part + 1) * CHANGED)
            .map(|number| record(number, 0))
            .collect();
        registry.update("bench", &records?, &[]);
    }
    let after = memory_kib(std::process::id()).context("/proc")?;
    report.figure(
        "1,000,000 names",
        OURS,
        (after.saturating_sub(before)) as f64,
        Unit::KIB,
    );
    report.wanted("1,000,000 names", "204800");
    Ok(())
}

fn serve(
    registry: &Registry,
    runtime: &tokio::runtime::Runtime,
    upstream: Option<SocketAddr>,
) -> Result<Server> {
    let settings = Answering {
        zones: vec![Zone::new("devbox.test".parse()?)],
        forwarding: upstream.is_some(),
        ..Answering::default()
    };
    let listening = Listening {
        forwarding: upstream.map(|upstream| Forwarding::new([upstream])),
        ..Listening::on([HERE])
    };
    Ok(runtime.block_on(Server::start(
        Responder::new(registry.clone(), settings),
        listening,
    ))?)
}

fn port(server: &Server) -> Result<u16> {
    Ok(server.addresses().first().context("an address")?.port())
}

fn updates(report: &mut Report, registry: &Registry, runtime: &tokio::runtime::Runtime) -> Result<()> {
    let server = serve(registry, runtime, None)?;
    let prober = Prober::new(port(&server)?)?;
    prober.run(WARM_UP, &name(77))?;
    let (mut still, mut moving) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        still.push(prober.run(TIME, &name(77))?.p99());
        let stop = Arc::new(AtomicBool::new(false));
        let writer = thread::spawn({
            let (registry, stop) = (registry.clone(), Arc::clone(&stop));
            move || -> Result<()> {
                for generation in (1 + round * 1_000).. {
                    if stop.load(Relaxed) {
                        break;
                    }
                    let step = MANY / CHANGED;
                    let records: Result<Vec<_>> = (0..CHANGED)
                        .map(|number| record(number * step, generation))
                        .collect();
                    registry.update("bench", &records?, &[]);
                    thread::sleep(Duration::from_secs(1));
                }
                Ok(())
            }
        });
        let probed = prober.run(TIME, &name(77));
        stop.store(true, Relaxed);
        if let Ok(written) = writer.join() {
            written?;
        }
        moving.push(probed?.p99());
    }
    let row = "p99 while 10,000 of 1,000,000 names change each second";
    report.wanted(row, "1.2 of the floor");
    report.figure(row, OURS, median(&moving), Unit::MICROSECONDS);
    report.figure(row, FLOOR, median(&still), Unit::MICROSECONDS);
    runtime.block_on(server.stop());
    Ok(())
}

fn forwarded(report: &mut Report, runtime: &tokio::runtime::Runtime) -> Result<()> {
    let socket = UdpSocket::bind(HERE)?;
    let upstream = socket.local_addr()?;
    thread::spawn(move || {
        let mut buffer = [0; 1500];
        // Until the bench ends.
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            buffer[2] |= 0x80;
            if socket.send_to(&buffer[..len], from).is_err() {
                return;
            }
        }
    });
    let server = serve(&Registry::default(), runtime, Some(upstream))?;
    let direct = Prober::new(upstream.port())?.run(TIME, "n*.example.com")?;
    let through = Prober::new(port(&server)?)?.run(TIME, "n*.example.com")?;
    let row = "a question and its answer, forwarded; the floor is the upstream alone";
    report.wanted(row, "floor + 100");
    report.figure(row, OURS, through.median(), Unit::MICROSECONDS);
    report.figure(row, FLOOR, direct.median(), Unit::MICROSECONDS);
    runtime.block_on(server.stop());
    Ok(())
}

fn dead_upstream(report: &mut Report, runtime: &tokio::runtime::Runtime) -> Result<()> {
    // Bound and never read.
    let dead = UdpSocket::bind(HERE)?;
    let registry = Registry::default();
    registry.publish("bench", &[record(77, 0)?]);
    let server = serve(&registry, runtime, Some(dead.local_addr()?))?;
    let port = port(&server)?;
    let prober = Prober::new(port)?;
    prober.run(WARM_UP, &name(77))?;
    let quiet = prober.run(TIME, &name(77))?;
    let flood = thread::spawn(move || -> Result<()> {
        let socket = UdpSocket::bind(HERE)?;
        socket.connect((Ipv4Addr::LOCALHOST, port))?;
        for number in 0..IN_FLIGHT {
            let query = nameserver::query(1, &format!("n{number}.example.com").parse()?, "A")?;
            socket.send(&query)?;
            if number % 50 == 0 {
                thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    });
    if let Ok(sent) = flood.join() {
        sent?;
    }
    let busy = prober.run(TIME, &name(77))?;
    let asked = server.metrics().forward.questions;
    report.note(format!("{asked} questions were in flight to the dead upstream"));
    let row = "p99 with 50,000 questions in flight to a dead upstream";
    report.wanted(row, "as the floor");
    report.figure(row, OURS, busy.p99(), Unit::MICROSECONDS);
    report.figure(row, FLOOR, quiet.p99(), Unit::MICROSECONDS);
    runtime.block_on(server.stop());
    Ok(())
}
