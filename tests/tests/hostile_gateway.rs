//! A gateway that is replaced while programs connect, and one whose neighbours are hostile.
#![cfg(target_os = "linux")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::ensure;
use devbox_tests::peers::Echo;
use devbox_tests::{Caller, Gateway, Outcome, Result, Up, scenario, wait};

const PORT: u16 = 7230;

/// Programs that connect at a steady rate, each for a line there and back.
struct Programs {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    failed: Arc<Mutex<Vec<String>>>,
    pace: std::thread::JoinHandle<()>,
}

impl Programs {
    fn start(address: SocketAddr, every: Duration) -> Programs {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicUsize::new(0));
        let failed = Arc::new(Mutex::new(Vec::new()));
        let (stopped, count, faults) = (Arc::clone(&stop), Arc::clone(&done), Arc::clone(&failed));
        let pace = std::thread::spawn(move || {
            let mut programs = Vec::new();
            let mut next = Instant::now();
            while !stopped.load(Ordering::Acquire) {
                let (count, faults) = (Arc::clone(&count), Arc::clone(&faults));
                programs.push(std::thread::spawn(move || match line_there_and_back(address) {
                    Ok(()) => {
                        count.fetch_add(1, Ordering::AcqRel);
                    }
                    Err(error) => faults
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(format!("{error:#}")),
                }));
                programs.retain(|program| !program.is_finished());
                // A pace, not a wait: late turns are made up for.
                next += every;
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            for program in programs {
                // What it found is in the list.
                program.join().ok();
            }
        });
        Programs {
            stop,
            done,
            failed,
            pace,
        }
    }

    fn done(&self) -> usize {
        self.done.load(Ordering::Acquire)
    }

    /// Waits until this many more have finished.
    fn more(&self, count: usize) -> Result {
        let enough = self.done() + count;
        wait::until("programs that finish", 2 * wait::SOON, || {
            (self.done() >= enough).then_some(())
        })
    }

    /// How many finished, and what the others met with.
    fn end(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Release);
        self.pace.join().ok();
        let failed = std::mem::take(&mut *self.failed.lock().unwrap_or_else(PoisonError::into_inner));
        (self.done.load(Ordering::Acquire), failed)
    }
}

fn line_there_and_back(address: SocketAddr) -> Result {
    let mut stream = TcpStream::connect_timeout(&address, wait::SOON)?;
    stream.set_read_timeout(Some(wait::SOON))?;
    stream.write_all(b"hello")?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(answer == b"hello", "{} came back", answer.escape_ascii());
    Ok(())
}

#[test]
fn programs_do_not_notice_that_the_gateway_is_replaced_twenty_times() -> Outcome {
    const REPLACED: usize = 20;
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let port = scene.port_like(PORT)?;
        let mut gateway = Gateway::of_echo(scene, &echo, port)?;
        let up = Up::start(&gateway, Caller::Ordinary)?;
        let address = SocketAddr::new(up.address_of("echo.demo")?, port);
        let programs = Programs::start(address, Duration::from_millis(10));
        for _ in 0..REPLACED {
            programs.more(50)?;
            gateway.replace()?;
        }
        programs.more(50)?;
        let (done, failed) = programs.end();
        ensure!(
            failed.is_empty(),
            "{} of {} connections failed over {REPLACED} restarts: {:?}",
            failed.len(),
            done + failed.len(),
            failed.iter().take(5).collect::<Vec<_>>()
        );
        Ok(())
    })
}
