//! A running program: collects its output as it comes, and ends it when the test ends.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::{PipeReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::scene::Scene;
use crate::wait;

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// With this exit code.
    Code(i32),
    /// Killed by this signal.
    Signal(i32),
}

impl Exit {
    /// The exit code `code`.
    pub fn code(code: i32) -> Exit {
        Exit::Code(code)
    }

    fn of(status: ExitStatus) -> Exit {
        match (status.code(), status.signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, signal) => Exit::Signal(signal.unwrap_or_default()),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit code {code}"),
            Exit::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// What [`Process::start`] starts.
#[derive(Debug)]
pub(crate) struct Spawn {
    pub(crate) label: String,
    pub(crate) argv: Vec<OsString>,
    pub(crate) environment: BTreeMap<OsString, OsString>,
    pub(crate) stdio: Stdio,
    /// In its own process group, whose id is the process id.
    pub(crate) own_group: bool,
}

#[derive(Debug)]
pub(crate) enum Stdio {
    /// Standard input from these bytes, output and error captured.
    Piped(Vec<u8>),
    /// No standard input; output and error go into pipes that nobody reads.
    Closed,
    /// No standard input; output and error go into a pipe that is never read and stays open.
    Unread,
    /// All three on this terminal.
    Terminal(OwnedFd),
}

/// A running program. Dropping it ends it: first with its own signal ([`Process::stop_with`]), then with a kill, both by its id.
#[derive(Debug)]
pub struct Process {
    log: Arc<Log>,
    child: Child,
    own_group: bool,
    stop: Signal,
    exit: Option<Exit>,
    _unread: Option<PipeReader>,
}

impl Process {
    pub(crate) fn start(scene: &Scene, spawn: Spawn) -> crate::Result<Process> {
        let Some((program, arguments)) = spawn.argv.split_first() else {
            bail!("no program")
        };
        let mut command = Command::new(program);
        command.args(arguments).env_clear().envs(&spawn.environment);
        if spawn.own_group {
            command.process_group(0);
        }
        let mut unread = None;
        let input = match spawn.stdio {
            Stdio::Piped(bytes) => {
                command.stdin(std::process::Stdio::piped());
                command
                    .stdout(std::process::Stdio::piped())
                    .stderr(std::process::Stdio::piped());
                bytes
            }
            Stdio::Closed | Stdio::Unread => {
                let (reader, writer) = std::io::pipe()?;
                command
                    .stdin(std::process::Stdio::null())
                    .stdout(writer.try_clone()?)
                    .stderr(writer);
                unread = matches!(spawn.stdio, Stdio::Unread).then_some(reader);
                Vec::new()
            }
            Stdio::Terminal(terminal) => {
                command
                    .stdin(terminal.try_clone()?)
                    .stdout(terminal.try_clone()?)
                    .stderr(terminal);
                Vec::new()
            }
        };
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start `{}`", spawn.label))?;
        let log = Arc::new(Log::new(format!("{} (pid {})", spawn.label, child.id())));
        scene.keep_log(Arc::clone(&log));
        // Without input, closing the pipe here gives the program the end of file.
        if let Some(mut stdin) = child.stdin.take()
            && !input.is_empty()
        {
            // A program that ends before reading everything closes the pipe; that is not an error.
            std::thread::spawn(move || stdin.write_all(&input).ok());
        }
        if let Some(stdout) = child.stdout.take() {
            log.read(stdout, Stream::Output);
        }
        if let Some(stderr) = child.stderr.take() {
            log.read(stderr, Stream::Error);
        }
        Ok(Process {
            log,
            child,
            own_group: spawn.own_group,
            stop: Signal::KILL,
            exit: None,
            _unread: unread,
        })
    }

    /// Sends this signal when it is dropped (default `KILL`), and kills it only if it then takes longer than 5 s to end.
    #[must_use]
    pub fn stop_with(mut self, signal: Signal) -> Process {
        self.stop = signal;
        self
    }

    /// The command line and the process id, for messages.
    pub fn label(&self) -> &str {
        &self.log.label
    }

    /// The process id of the program itself, since each word before it replaces itself with the next.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn id(&self) -> crate::Result<Pid> {
        i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .context("no process id")
    }

    /// Sends `signal` to only this process.
    ///
    /// # Errors
    /// If it is gone.
    pub fn signal(&self, signal: Signal) -> crate::Result {
        kill_process(self.id()?, signal).with_context(|| format!("signal to `{}`", self.label()))
    }

    /// Sends `signal` to the process's group.
    ///
    /// # Errors
    /// If it is gone.
    pub fn signal_group(&self, signal: Signal) -> crate::Result {
        kill_process_group(self.id()?, signal)
            .with_context(|| format!("signal to the group of `{}`", self.label()))
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// Those of waitpid(2).
    pub fn ended(&mut self) -> crate::Result<Option<Exit>> {
        if self.exit.is_none() {
            self.exit = self.child.try_wait()?.map(Exit::of);
        }
        Ok(self.exit)
    }

    /// Waits for its end, and for the rest of its output.
    ///
    /// # Errors
    /// If it still runs after `within`; it is then killed.
    pub fn wait(&mut self, within: Duration) -> crate::Result<Exit> {
        let what = format!("end of `{}`", self.label());
        let waited = wait::until(&what, within, || self.ended().transpose());
        match waited {
            Ok(exit) => {
                self.drain();
                exit
            }
            Err(error) => {
                self.end_by_force();
                Err(error)
            }
        }
    }

    /// Waits for a complete line of its output or error output that satisfies `wanted`; earlier lines count too.
    ///
    /// # Errors
    /// If there is none after `within`, or its output ended without one.
    pub fn wait_for_line(
        &self,
        what: &str,
        within: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> crate::Result<String> {
        self.log.wait_for_line(what, within, wanted)
    }

    /// Standard output so far, as text.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&self.stdout_bytes()).into_owned()
    }

    /// Standard error so far, as text.
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr_bytes()).into_owned()
    }

    /// Standard output, then standard error, so far.
    pub fn everything(&self) -> String {
        self.output() + &self.errors()
    }

    pub(crate) fn stdout_bytes(&self) -> Vec<u8> {
        self.log.lock().output.clone()
    }

    pub(crate) fn stderr_bytes(&self) -> Vec<u8> {
        self.log.lock().errors.clone()
    }

    /// Waits briefly for the rest of an ended program's output. Not forever: a program that it left behind may hold the pipe.
    fn drain(&self) {
        let deadline = Instant::now() + Duration::from_secs(2);
        let mut state = self.log.lock();
        while state.open_streams > 0 && Instant::now() < deadline {
            state = self.log.wait(state, deadline);
        }
    }

    /// Kills it and everything in its process group.
    pub(crate) fn end_by_force(&mut self) {
        // Until it has been waited for, neither its id nor its group's can be reused. After that, the group's id is safe only while
        // the group still has members.
        if let (true, Ok(id), None) = (self.own_group, self.id(), self.exit) {
            // It is already gone.
            kill_process_group(id, Signal::KILL).ok();
        }
        self.child.kill().ok();
        if let Ok(status) = self.child.wait() {
            self.exit = Some(Exit::of(status));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(Some(_)) = self.ended() {
            return;
        }
        if self.stop != Signal::KILL && self.signal(self.stop).is_ok() {
            // After the time limit this kills it.
            self.wait(Duration::from_secs(5)).ok();
        }
        if self.exit.is_none() {
            self.end_by_force();
        }
    }
}

/// Everything that a program has printed.
#[derive(Debug)]
pub(crate) struct Log {
    label: String,
    state: Mutex<LogState>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct LogState {
    output: Vec<u8>,
    errors: Vec<u8>,
    open_streams: u32,
}

#[derive(Debug, Clone, Copy)]
enum Stream {
    Output,
    Error,
}

impl Log {
    pub(crate) fn new(label: String) -> Log {
        Log {
            label,
            state: Mutex::default(),
            more: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, LogState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, LogState>, deadline: Instant) -> MutexGuard<'a, LogState> {
        let rest = deadline.saturating_duration_since(Instant::now());
        self.more
            .wait_timeout(state, rest)
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }

    pub(crate) fn add(&self, bytes: &[u8]) {
        self.lock().output.extend_from_slice(bytes);
        self.more.notify_all();
    }

    /// What it printed to standard output, or to the terminal, as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.lock().output).into_owned()
    }

    fn read(self: &Arc<Log>, mut from: impl Read + Send + 'static, stream: Stream) {
        let log = Arc::clone(self);
        self.lock().open_streams += 1;
        // Ends when the last holder of the pipe's other end closes it.
        std::thread::spawn(move || {
            let mut buffer = [0; 16 * 1024];
            loop {
                let count = from.read(&mut buffer).unwrap_or(0);
                let mut state = log.lock();
                match (count, stream) {
                    (0, _) => state.open_streams -= 1,
                    (_, Stream::Output) => state.output.extend_from_slice(&buffer[..count]),
                    (_, Stream::Error) => state.errors.extend_from_slice(&buffer[..count]),
                }
                drop(state);
                log.more.notify_all();
                if count == 0 {
                    return;
                }
            }
        });
    }

    fn wait_for_line(
        &self,
        what: &str,
        within: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> crate::Result<String> {
        let deadline = Instant::now() + within;
        let mut state = self.lock();
        loop {
            // Check for the end before looking at the lines, so that no last line is missed.
            let at_end = state.open_streams == 0;
            for bytes in [&state.output, &state.errors] {
                let text = String::from_utf8_lossy(bytes);
                let whole = text.rfind('\n').map_or("", |end| &text[..end]);
                if let Some(line) = whole.lines().find(|line| wanted(line)) {
                    return Ok(line.to_owned());
                }
            }
            if at_end {
                bail!("`{}` ended without {what}", self.label);
            }
            if Instant::now() >= deadline {
                bail!("`{}`: gave up after {within:?}, waiting for {what}", self.label);
            }
            state = self.wait(state, deadline);
        }
    }
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 16 * 1024;
        let state = self.lock();
        for (name, bytes) in [("output", &state.output), ("errors", &state.errors)] {
            if !bytes.is_empty() {
                let tail = &bytes[bytes.len().saturating_sub(SHOWN)..];
                writeln!(f, "--- {name} of {}", self.label)?;
                writeln!(f, "{}", String::from_utf8_lossy(tail).trim_end())?;
            }
        }
        Ok(())
    }
}
