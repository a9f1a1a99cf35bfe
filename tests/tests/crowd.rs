//! Many connections at once, and programs that do not read what they asked for.
#![cfg(target_os = "linux")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use devbox_tests::{Caller, Gateway, Outcome, Result, Scene, Service, Skip, Up, scenario, wait};

/// A service that answers the first byte of each connection with one byte, or with bytes without end, and keeps all open.
struct Target {
    address: SocketAddr,
    held: Arc<Mutex<Vec<TcpStream>>>,
}

impl Target {
    fn start(scene: &Scene, endless: bool) -> Result<Target> {
        let socket = TcpListener::bind((scene.address(), 0))?;
        let address = socket.local_addr()?;
        let held = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&held);
        // Ends with the test's program: nothing waits for it.
        std::thread::spawn(move || {
            for mut stream in socket.incoming().flatten() {
                let mut byte = [0];
                if stream.read_exact(&mut byte).is_err() {
                    continue;
                }
                let other = stream.try_clone();
                kept.lock().unwrap_or_else(PoisonError::into_inner).extend(other);
                if endless {
                    // What the far side's kernel holds is not what is tested.
                    if rustix::net::sockopt::set_socket_send_buffer_size(&stream, 64 * 1024).is_err() {
                        continue;
                    }
                    std::thread::spawn(move || while stream.write_all(&[7; 64 * 1024]).is_ok() {});
                } else {
                    drop(stream.write_all(&byte));
                }
            }
        });
        Ok(Target { address, held })
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        for stream in self.held.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

/// A program's connection, past its first byte each way.
fn asked(up: &Up<'_>, port: u16) -> Result<TcpStream> {
    let mut stream = up.connect("target.demo", port)?;
    stream.set_read_timeout(Some(4 * wait::SOON))?;
    stream.write_all(b"?")?;
    stream.read_exact(&mut [0]).context("the first byte")?;
    Ok(stream)
}

fn resident_mib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.context("no VmRSS")?.parse::<u64>()? / 1024)
}

#[test]
fn five_thousand_connections_are_open_at_once_and_none_is_reset() -> Outcome {
    const CONNECTIONS: usize = 5000;
    scenario(|scene| {
        // This program has both ends of each.
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        if limit
            .maximum
            .is_some_and(|most| most < 2 * CONNECTIONS as u64 + 500)
        {
            return Err(Skip::new("the limit of open files is too low").into());
        }
        let raised = rustix::process::Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, raised)?;
        let target = Target::start(scene, false)?;
        let port = scene.port_like(7000)?;
        let catalog = scene.catalog(&[Service::new("target", "demo", port, target.address)])?;
        let gateway = Gateway::start(scene, &catalog)?;
        let up = Up::start(&gateway, Caller::Ordinary)?;
        let mut open = Vec::new();
        for number in 0..CONNECTIONS {
            open.push(asked(&up, port).with_context(|| format!("connection {number}"))?);
        }
        // All of them are still there.
        for stream in &open {
            stream.set_nonblocking(true)?;
            let read = (&mut &*stream).read(&mut [0]);
            let waits = matches!(&read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
            ensure!(waits, "{read:?}");
        }
        Ok(())
    })
}

#[test]
fn programs_that_do_not_read_cost_a_bounded_amount_and_slow_nobody_down() -> Outcome {
    const STALLED: usize = 400;
    const HEALTHY_BYTES: usize = 100_000_000;
    scenario(|scene| {
        let target = Target::start(scene, true)?;
        let port = scene.port_like(7000)?;
        let catalog = scene.catalog(&[Service::new("target", "demo", port, target.address)])?;
        let gateway = Gateway::start(scene, &catalog)?;
        let up = Up::start(&gateway, Caller::Ordinary)?;
        let pids = [up.process().pid(), gateway.process()?.pid()];
        let before = pids.map(resident_mib);
        let mut stalled = Vec::new();
        for _ in 0..STALLED {
            stalled.push(asked(&up, port)?);
        }
        let mut healthy = asked(&up, port)?;
        let started = Instant::now();
        let mut block = vec![0; 1 << 20];
        let mut read = 0;
        while read < HEALTHY_BYTES {
            read += healthy.read(&mut block)?;
            ensure!(
                started.elapsed() < Duration::from_secs(60),
                "{read} bytes came beside {STALLED} programs that do not read"
            );
        }
        for (pid, before) in pids.into_iter().zip(before) {
            let grown = resident_mib(pid)?.saturating_sub(before?);
            ensure!(grown < 128, "process {pid} has grown by {grown} MiB");
        }
        drop(stalled);
        Ok(())
    })
}
