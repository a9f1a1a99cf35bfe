//! Two processes for one run; see [`crate::split`].

use std::io::{self, Read, Write};
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;

use nix::libc::{SI_KERNEL, SIGINT, SIGQUIT, signalfd_siginfo};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{ForkResult, fork};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Pid, WaitOptions, getpgrp, getpid, getppid, kill_process, setpgid, waitpid};

use super::life::{mask_has, status_field};
use crate::{Error, ExitOutcome, Side};

pub(crate) type Group = Pid;

#[derive(Debug)]
pub(crate) struct Front {
    back: Pid,
    socket: UnixStream,
    signals: SignalFd,
    /// The command runs, and is in the terminal's foreground.
    running: bool,
}

#[derive(Debug)]
pub(crate) struct Back {
    front: Pid,
    job: Pid,
    socket: UnixStream,
    /// Descriptors that this process was started with, beside the standard ones.
    inherited: Vec<RawFd>,
}

/// What the front passes on. SIGCONT says that its job goes on.
const PASSED: [Signal; 7] = [
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGCONT,
];

fn failed<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> Error {
    move |error| Error::Setup {
        step,
        source: error.into(),
    }
}

pub(crate) fn split() -> Result<Side, Error> {
    const STEP: &str = "go on in two processes";
    if status_field("Threads").as_deref() != Some("1") {
        return Err(failed(STEP)(io::Error::other("this process has other threads")));
    }
    let inherited = inherited().map_err(failed(STEP))?;
    let (ours, theirs) = UnixStream::pair().map_err(failed(STEP))?;
    let (front, job) = (getpid(), getpgrp());
    let mut passed = SigSet::empty();
    let ignored = status_field("SigIgn").unwrap_or_default();
    for signal in PASSED
        .into_iter()
        .filter(|signal| !mask_has(&ignored, *signal as i32))
    {
        passed.add(signal);
    }
    let signals = SignalFd::with_flags(&passed, SfdFlags::SFD_CLOEXEC).map_err(failed(STEP))?;
    // From here on a signal waits until somebody can pass it on.
    let before = passed
        .thread_swap_mask(SigmaskHow::SIG_BLOCK)
        .map_err(failed(STEP))?;
    #[expect(unsafe_code, reason = "fork(2) has no safe wrapper")]
    // SAFETY: this process has one thread, as was just seen, so that the child may do whatever this one may (fork(2)).
    let forked = unsafe { fork() }.map_err(failed(STEP))?;
    match forked {
        ForkResult::Parent { child } => {
            drop(theirs);
            let back = Pid::from_raw(child.as_raw()).ok_or_else(|| failed(STEP)(Errno::SRCH))?;
            Ok(Side::Front(crate::Front(Front {
                back,
                socket: ours,
                signals,
                running: false,
            })))
        }
        ForkResult::Child => {
            drop((ours, signals));
            setpgid(None, None).map_err(failed(STEP))?;
            before.thread_set_mask().map_err(failed(STEP))?;
            // It is outside the terminal's foreground: `stty tostop` would stop it for a warning, and nobody would continue it.
            unstoppable().thread_block().map_err(failed(STEP))?;
            Ok(Side::Back(crate::Back(Back {
                front,
                job,
                socket: theirs,
                inherited,
            })))
        }
    }
}

/// The open descriptors above 2.
fn inherited() -> io::Result<Vec<RawFd>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        // The one that reads this folder leads to it.
        let is_own = std::fs::read_link(entry.path())
            .is_ok_and(|target| target.ends_with("fd") && target.starts_with("/proc"));
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<RawFd>().ok());
        found.extend(number.filter(|number| *number > 2 && !is_own));
    }
    Ok(found)
}

fn unstoppable() -> SigSet {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTTOU);
    signals
}

/// Before a thread starts the command, which inherits what the thread blocks.
pub(super) fn give_back_signals() {
    if let Err(error) = unstoppable().thread_unblock() {
        // It fails for an argument only that it was not given.
        debug_assert!(false, "{error}");
    }
}

impl Front {
    pub(crate) fn wait(mut self) -> Result<ExitOutcome, Error> {
        const STEP: &str = "wait for the command";
        loop {
            let mut sources = [
                PollFd::new(&self.signals, PollFlags::IN),
                PollFd::new(&self.socket, PollFlags::IN),
            ];
            retry_on_intr(|| poll(&mut sources, None)).map_err(failed(STEP))?;
            let [signalled, said] = sources.map(|source| !source.revents().is_empty());
            if signalled && let Some(signal) = self.signals.read_signal().map_err(failed(STEP))? {
                self.pass(&signal).map_err(failed(STEP))?;
            }
            if said {
                let mut message = [0; MESSAGE_BYTES];
                match self.socket.read_exact(&mut message) {
                    Ok(()) if message == RUNNING => self.running = true,
                    Ok(()) => return Ok(decode(message)),
                    Err(_) => return self.reap(),
                }
            }
        }
    }

    fn pass(&self, signal: &signalfd_siginfo) -> io::Result<()> {
        let number = i32::try_from(signal.ssi_signo).unwrap_or(0);
        // The kernel sends those of the keyboard to the whole job: to the command as well, once there is one.
        let by_keyboard = self.running && signal.ssi_code == SI_KERNEL && matches!(number, SIGINT | SIGQUIT);
        let Some(signal) = rustix::process::Signal::from_named_raw(number).filter(|_| !by_keyboard) else {
            return Ok(());
        };
        match kill_process(self.back, signal) {
            // Its end shows at the socket.
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The back has ended, or is about to: it ends as the command did.
    fn reap(&self) -> Result<ExitOutcome, Error> {
        let ended = retry_on_intr(|| waitpid(Some(self.back), WaitOptions::empty()))
            .map_err(failed("wait for the command"))?;
        let (_, status) = ended.ok_or_else(|| failed("wait for the command")(Errno::CHILD))?;
        Ok(super::life::outcome_of(status))
    }
}

impl Back {
    pub(crate) fn job(&self) -> Pid {
        self.job
    }

    pub(crate) fn front(&self) -> Pid {
        self.front
    }

    pub(crate) fn adopt_orphans(&self) -> Result<(), Error> {
        set_child_subreaper(true).map_err(failed("adopt what the command leaves behind"))
    }

    pub(crate) fn command_runs(&self) -> Result<(), Error> {
        (&self.socket)
            .write_all(&RUNNING)
            .map_err(failed("tell the caller's process"))
    }

    pub(crate) fn release(&mut self, outcome: ExitOutcome) -> Result<(), Error> {
        // A lock or a pipe of the caller's must not wait for this process.
        for descriptor in self.inherited.drain(..) {
            // Whoever closed it before has done what is wanted.
            nix::unistd::close(descriptor).ok();
        }
        let released = || {
            let nowhere = std::fs::File::options()
                .read(true)
                .write(true)
                .open("/dev/null")?;
            rustix::stdio::dup2_stdin(&nowhere)?;
            rustix::stdio::dup2_stdout(&nowhere)?;
            rustix::stdio::dup2_stderr(&nowhere)?;
            (&self.socket).write_all(&encode(outcome))
        };
        released().map_err(failed("let the caller go"))
    }

    pub(crate) fn watch(&self) -> Result<Watch, Error> {
        let socket = self
            .socket
            .try_clone()
            .map_err(failed("watch the caller's process"))?;
        Ok(Watch(socket))
    }
}

#[derive(Debug)]
pub(crate) struct Watch(UnixStream);

impl Watch {
    pub(crate) fn wait(mut self) {
        // It says nothing: what can be read is its end.
        while let Ok(1..) = self.0.read(&mut [0]) {}
    }
}

/// Whether the process that this one was forked from is still its parent.
pub(super) fn is_parent(front: Pid) -> bool {
    getppid() == Some(front)
}

const MESSAGE_BYTES: usize = 5;
/// The back's first message, before the outcome: the command runs.
const RUNNING: [u8; MESSAGE_BYTES] = [2, 0, 0, 0, 0];

fn encode(outcome: ExitOutcome) -> [u8; MESSAGE_BYTES] {
    let (kind, number) = match outcome {
        ExitOutcome::Code(code) => (0, code),
        ExitOutcome::Signal(signal) => (1, signal),
    };
    let [a, b, c, d] = number.to_le_bytes();
    [kind, a, b, c, d]
}

fn decode([kind, number @ ..]: [u8; MESSAGE_BYTES]) -> ExitOutcome {
    let number = i32::from_le_bytes(number);
    match kind {
        0 => ExitOutcome::Code(number),
        _ => ExitOutcome::Signal(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_survives_its_way_to_the_front() {
        for outcome in [
            ExitOutcome::Code(0),
            ExitOutcome::Code(255),
            ExitOutcome::Code(i32::MIN),
            ExitOutcome::Signal(9),
        ] {
            assert_eq!(decode(encode(outcome)), outcome);
            assert_ne!(encode(outcome), RUNNING);
        }
    }

    #[test]
    fn a_process_with_threads_is_not_forked() {
        // The test runner's own are there.
        assert!(matches!(split(), Err(Error::Setup { .. })));
    }
}
