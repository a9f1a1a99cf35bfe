//! One way to the service: its processes, and the load that uses it.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::load::{self, Round};

/// A round takes about three seconds; the first one includes starting the program.
const ROUND_LIMIT: Duration = Duration::from_secs(30);
const START_LIMIT: Duration = Duration::from_secs(10);

/// A way to the service that can be measured.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    load: Running,
    orders: ChildStdin,
    answers: Receiver<String>,
    /// Stopped after the load.
    _between: Vec<Running>,
}

impl Subject {
    /// Runs the load for `host` and `port` with the words of `inside` before it (nothing, or `devbox exec … --`).
    pub(crate) fn start(
        name: &'static str,
        inside: Option<Command>,
        (host, port): (&str, u16),
        between: Vec<Running>,
        scratch: &Path,
    ) -> Result<Self> {
        let this = std::env::current_exe()?;
        let mut command = match inside {
            Some(mut inside) => {
                inside.arg(this);
                inside
            }
            None => Command::new(this),
        };
        command.args([
            load::ARGUMENT,
            host,
            &port.to_string(),
            &std::process::id().to_string(),
        ]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut load = Running::start(&mut command, &scratch.join(format!("{name}.load.log")))?;
        let (Some(orders), Some(answers)) = (load.child.stdin.take(), load.child.stdout.take()) else {
            bail!("the load has no pipes");
        };
        let (sender, receiver) = channel();
        // This thread ends with the load, whose standard output it reads.
        thread::spawn(move || {
            for line in BufReader::new(answers).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            name,
            load,
            orders,
            answers: receiver,
            _between: between,
        })
    }

    pub(crate) fn round(&mut self) -> Result<Round> {
        let asked = writeln!(self.orders, "round").and_then(|()| self.orders.flush());
        let deadline = Instant::now() + ROUND_LIMIT;
        // Ignores what a program around the load prints.
        while let Ok(line) = self
            .answers
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            if line.starts_with('{') {
                return Round::from_json(&line);
            }
        }
        asked.with_context(|| self.load.last_words())?;
        bail!("no round within {ROUND_LIMIT:?}: {}", self.load.last_words())
    }
}

/// A process that ends with its owner. What it prints to standard error is kept in case it fails.
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        command.stderr(std::fs::File::create(log)?);
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().with_context(|| format!("cannot run {program}"))?;
        Ok(Self {
            child,
            log: log.to_owned(),
        })
    }

    /// Waits until the process listens there.
    pub(crate) fn listening(mut self, address: SocketAddr) -> Result<Self> {
        let deadline = Instant::now() + START_LIMIT;
        while TcpStream::connect_timeout(&address, START_LIMIT).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("ended with {status}: {}", self.last_words());
            }
            if Instant::now() > deadline {
                bail!("does not listen on {address}: {}", self.last_words());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(self)
    }

    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(3)..].join(" / ")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// An address that nobody listens on. If someone takes it before our program does, the bench reports that.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
