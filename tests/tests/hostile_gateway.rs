//! A gateway that is replaced while programs connect, and one whose neighbours are hostile.
#![cfg(target_os = "linux")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::ensure;
use devbox_tests::peers::Echo;
use devbox_tests::{Caller, Gateway, Outcome, Process, Result, Signal, TOKEN, Up, scenario, wait};

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

/// Strangers without a token, each of which holds a connection and sends a byte of a request now and then. Who is cut
/// connects again at once.
struct Strangers {
    stop: Arc<AtomicBool>,
    opened: Arc<AtomicUsize>,
    thread: std::thread::JoinHandle<()>,
}

impl Strangers {
    fn start(gateway: SocketAddr, count: usize) -> Strangers {
        let (stop, opened) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, sum) = (Arc::clone(&stop), Arc::clone(&opened));
        let thread = std::thread::spawn(move || {
            let mut streams: Vec<Option<TcpStream>> = (0..count).map(|_| None).collect();
            while !stopped.load(Ordering::Acquire) {
                for place in &mut streams {
                    if place.as_mut().is_none_or(|stream| !trickle(stream)) {
                        *place = begin(gateway).ok();
                        sum.fetch_add(usize::from(place.is_some()), Ordering::AcqRel);
                    }
                }
                // Their pace: a byte each every 20 ms or so.
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Strangers { stop, opened, thread }
    }

    fn opened(&self) -> usize {
        self.opened.load(Ordering::Acquire)
    }

    fn end(self) {
        self.stop.store(true, Ordering::Release);
        self.thread.join().ok();
    }
}

fn begin(gateway: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&gateway, Duration::from_secs(1))?;
    stream.write_all(b"GET /kube/devbox/tunnel/client/x HTTP/1.1\r\nX: ")?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Whether the connection is still there.
fn trickle(stream: &mut TcpStream) -> bool {
    let would_block = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
    matches!(stream.read(&mut [0]), Err(error) if would_block(&error)) && stream.write_all(b"x").is_ok()
}

/// Asks the gateway for a tunnel: the status line of its answer, and the connection.
fn ask(gateway: SocketAddr, session: &str, token: &str) -> Result<(String, TcpStream)> {
    let mut stream = TcpStream::connect_timeout(&gateway, wait::SOON)?;
    stream.set_read_timeout(Some(wait::SOON))?;
    let request = format!(
        "GET /kube/devbox/tunnel/client/{session} HTTP/1.1\r\nHost: {gateway}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: devbox-tunnel.1\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = [0; 512];
    let count = stream.read(&mut answer)?;
    let text = String::from_utf8_lossy(answer.get(..count).unwrap_or_default()).into_owned();
    Ok((text.lines().next().unwrap_or_default().to_owned(), stream))
}

/// Three clients that come one after the other, each within a second, with room for a busy machine.
fn three_get_in_at_once(gateway: SocketAddr) -> Result {
    for session in ["fresh-1", "fresh-2", "fresh-3"] {
        let asked = Instant::now();
        let (status, _stream) = ask(gateway, session, TOKEN)?;
        let took = asked.elapsed();
        ensure!(
            status.contains(" 101 ") && took < Duration::from_secs(3),
            "{session}: {status:?} after {took:?}"
        );
    }
    Ok(())
}

fn count(process: &Process, word: &str) -> usize {
    process.errors().matches(word).count()
}

#[test]
fn strangers_that_hold_places_keep_nobody_out_and_are_logged_once() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, scene.port_like(PORT)?)?;
        let strangers = Strangers::start(gateway.address(), 600);
        wait::until("six hundred strangers", wait::SOON, || {
            (strangers.opened() >= 600).then_some(())
        })?;
        three_get_in_at_once(gateway.address())?;
        let up = Up::start(&gateway, Caller::Ordinary)?;
        strangers.end();
        drop(up);
        let process = gateway.process()?;
        let begun = count(process, "many connections that show no token");
        ensure!(begun == 1, "logged {begun} times");
        Ok(())
    })
}

#[test]
fn strangers_that_take_the_last_descriptor_make_room_for_others() -> Outcome {
    scenario(|scene| {
        let catalog = scene.write("catalog.yaml", "environment: dev\nservices: []\n")?;
        let tokens = scene.write_secret("tokens", format!("{TOKEN}\n"), Caller::Ordinary)?;
        let address = scene.free_address()?;
        let gateway = scene
            .command(["sh", "-c", "ulimit -n 100 && exec \"$@\"", "sh"])
            .args([scene.devbox_program()?])
            .args(["gateway", "serve", "--listen", &address.to_string(), "--catalog"])
            .args([catalog])
            .args(["--token-file"])
            .args([tokens])
            .by(Caller::Ordinary)
            .start()?
            .stop_with(Signal::TERM);
        gateway.wait_for_line("its address", wait::SOON, |line| line.starts_with("listening"))?;
        let mut strangers = Vec::new();
        for _ in 0..300 {
            strangers.push(TcpStream::connect_timeout(&address, wait::SOON)?);
        }
        three_get_in_at_once(address)?;
        let told = count(&gateway, "connections cannot be accepted");
        ensure!(told == 1, "logged {told} times");
        Ok(())
    })
}

#[test]
fn a_revoked_token_ends_its_session_which_is_told_why() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let mut gateway = Gateway::of_echo(scene, &echo, scene.port_like(PORT)?)?;
        let up = Up::start(&gateway, Caller::Ordinary)?;
        let tokens = scene.folder().join("gateway-tokens");
        let list = "revoke: true\ntokens:\n  - {name: another, token: another-token}\n";
        std::fs::write(&tokens, list)?;
        up.process()
            .wait_for_line("a refused token", wait::SOON, |line| {
                line.contains("refused the token")
            })?;
        let told = up.process().errors();
        ensure!(told.contains("the token of this session was revoked"), "{told}");
        // With a token that is taken it goes on.
        std::fs::write(gateway.token_file(Caller::Ordinary)?, "another-token\n")?;
        up.process().wait_for_line("a new link", 2 * wait::SOON, |line| {
            line.contains("connected again")
        })?;
        drop(up);
        gateway.kill()
    })
}

#[test]
fn guessers_are_logged_once_and_slowed_down_and_hold_up_nobody() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, scene.port_like(PORT)?)?;
        let address = gateway.address();
        let over = Arc::new(AtomicBool::new(false));
        let guesses = Arc::new(AtomicUsize::new(0));
        let mut guessers = Vec::new();
        for number in 0..8 {
            let (over, guesses) = (Arc::clone(&over), Arc::clone(&guesses));
            guessers.push(std::thread::spawn(move || {
                while !over.load(Ordering::Acquire) {
                    if let Ok((status, _)) = ask(address, &format!("guesser-{number}"), "wrong-horse") {
                        guesses.fetch_add(usize::from(status.contains(" 401 ")), Ordering::AcqRel);
                    }
                }
            }));
        }
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3) {
            three_get_in_at_once(address)?;
        }
        over.store(true, Ordering::Release);
        let answered = guesses.load(Ordering::Acquire);
        for guesser in guessers {
            guesser.join().ok();
        }
        // Three at once, three more while the delay grows to 1 s, and hardly any after that.
        ensure!(
            (3..=10).contains(&answered),
            "{answered} guesses were answered in 3 s"
        );
        let process = gateway.process()?;
        let told = count(process, "token refused");
        ensure!(told == 1, "logged {told} times");
        let errors = process.errors();
        ensure!(
            errors.contains("peer=127.0.0.1:") && !errors.contains("wrong-horse"),
            "{errors}"
        );
        Ok(())
    })
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
