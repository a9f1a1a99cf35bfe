//! The command's life as its parent sees it: waiting, signals, the end.

use std::fs;
use std::io::{self, IsTerminal};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, raise, sigaction};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus, getpgid,
    getpgrp, getpid, kill_process, kill_process_group, pidfd_open, pidfd_send_signal, setrlimit, waitid,
};

use super::split::{Back, is_parent};
use crate::{Error, ExitOutcome};

/// Blocks until the process has ended, and leaves it to be reaped by whoever owns it.
pub(super) fn until_ended(pid: u32) {
    let Some(pid) = pid_of(pid) else { return };
    // ECHILD: it was reaped meanwhile, so it has ended.
    while let Err(Errno::INTR) = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {}
}

pub(crate) fn wait(child: &mut Child) -> Result<ExitOutcome, Error> {
    let failed = |source: io::Error| Error::Setup {
        step: "wait for the command",
        source,
    };
    if let Some(pid) = pid_of(child.id()) {
        let look = WaitIdOptions::EXITED | WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT;
        let take = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
        loop {
            let status = match retry_on_intr(|| waitid(WaitId::Pid(pid), look)) {
                Ok(status) => status,
                // Reaped before: `Child` has its status then.
                Err(Errno::CHILD) => break,
                Err(error) => return Err(failed(error.into())),
            };
            if !status.is_some_and(|status| status.stopped()) {
                break;
            }
            // Taken out of the queue, so that the next look waits for the next event.
            let taken = waitid(WaitId::Pid(pid), take).map_err(|error| failed(error.into()))?;
            if taken.is_some() && is_alone(pid, getpgrp()).map_err(failed)? {
                kill_process(getpid(), Signal::STOP).map_err(|error| failed(error.into()))?;
                // Stopped here, until somebody says `fg`. The command may have been ended meanwhile.
                resume(pid).map_err(failed)?;
            }
        }
    }
    child.wait().map(ExitOutcome::from).map_err(failed)
}

/// The command has stopped. Ctrl-Z reaches its whole process group, so that its job stops too without any doing; a shell that
/// has a group of its own and suspends itself stops alone, and nobody would have the terminal.
fn is_alone(command: Pid, job: Pid) -> io::Result<bool> {
    Ok(getpgid(Some(command))? != job && io::stdin().is_terminal())
}

/// A command that leads a process group is continued together with that group.
fn resume(command: Pid) -> io::Result<()> {
    let resumed = match getpgid(Some(command)) {
        Ok(group) if group == command => kill_process_group(group, Signal::CONT),
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    };
    match resumed {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The command and what it has started, as far as that is this process's to reap.
#[derive(Debug)]
pub(crate) struct Tree {
    command: Pid,
    front: Pid,
    job: Pid,
}

impl Tree {
    pub(crate) fn of(child: &Child, back: &Back) -> Result<Tree, Error> {
        let gone = || Error::Setup {
            step: "wait for the command",
            source: io::ErrorKind::NotFound.into(),
        };
        Ok(Tree {
            command: pid_of(child.id()).ok_or_else(gone)?,
            front: back.front(),
            job: back.job(),
        })
    }

    pub(crate) fn wait(&mut self) -> Result<ExitOutcome, Error> {
        let failed = |source: io::Error| Error::Setup {
            step: "wait for the command",
            source,
        };
        loop {
            let ended = retry_on_intr(|| rustix::process::wait(WaitOptions::UNTRACED));
            let Some((pid, status)) = ended.map_err(|error| failed(error.into()))? else {
                continue;
            };
            if pid != self.command {
                continue;
            }
            if !status.stopped() {
                return Ok(outcome_of(status));
            }
            if is_parent(self.front) && is_alone(pid, self.job).map_err(failed)? {
                kill_process(self.front, Signal::STOP).map_err(|error| failed(error.into()))?;
            }
        }
    }

    pub(crate) fn wait_for_rest(&mut self) {
        // ECHILD: nobody is left.
        while let Ok(_) | Err(Errno::INTR) = rustix::process::wait(WaitOptions::empty()) {}
    }

    pub(crate) fn is_over(&mut self) -> bool {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
    }
}

pub(super) fn outcome_of(status: WaitStatus) -> ExitOutcome {
    match status.exit_status() {
        Some(code) => ExitOutcome::Code(code),
        None => ExitOutcome::Signal(status.terminating_signal().unwrap_or(0)),
    }
}

fn pid_of(id: u32) -> Option<Pid> {
    i32::try_from(id).ok().and_then(Pid::from_raw)
}

pub(crate) fn signal_of(status: ExitStatus) -> i32 {
    status.signal().unwrap_or(0)
}

/// A pidfd: it means this process, and no later one with its number (pidfd_open(2)).
#[derive(Debug)]
pub(crate) struct Signaller {
    pid: Pid,
    process: OwnedFd,
}

impl Signaller {
    pub(crate) fn of(child: &Child) -> Result<Signaller, Error> {
        let failed = |source| Error::Setup {
            step: "get a handle of the command",
            source,
        };
        let pid = pid_of(child.id()).ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        let process = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| failed(error.into()))?;
        Ok(Signaller { pid, process })
    }

    pub(crate) fn send(&self, signal: i32) -> Result<bool, Error> {
        let failed = |source| Error::Setup {
            step: "signal the command",
            source,
        };
        let signal =
            Signal::from_named_raw(signal).ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        match pidfd_send_signal(&self.process, signal) {
            Ok(()) if signal == Signal::CONT => resume(self.pid).map(|()| true).map_err(failed),
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(error) => Err(failed(error.into())),
        }
    }
}

/// Ends the process by `signal`; returns where that does not end it.
pub(crate) fn die_by(signal: i32) {
    let Ok(signal) = nix::sys::signal::Signal::try_from(signal) else {
        return;
    };
    // Whatever of this is refused, the caller still exits with the signal's code.
    let no_core = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let quiet = setrlimit(Resource::Core, no_core).is_ok();
    let default = set_default(signal);
    let mut set = SigSet::empty();
    set.add(signal);
    if quiet && default && set.thread_unblock().is_ok() {
        // To this very thread: delivered before raise(3) returns.
        raise(signal).ok();
    }
}

/// Gives `signal` its default action; `true` also for those that have no other (SIGKILL).
fn set_default(signal: nix::sys::signal::Signal) -> bool {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    #[expect(
        unsafe_code,
        reason = "sigaction(2) has no safe wrapper; the process is about to end"
    )]
    // SAFETY: the default action runs no code of ours.
    let set = unsafe { sigaction(signal, &default) };
    set.is_ok() || signal == nix::sys::signal::Signal::SIGKILL
}

pub(crate) fn signal_ignored(signal: i32) -> bool {
    status_field("SigIgn").is_some_and(|mask| mask_has(&mask, signal))
}

/// Is `signal` in a mask as proc(5) writes them: hexadecimal, the lowest bit for signal 1?
pub(super) fn mask_has(mask: &str, signal: i32) -> bool {
    let Ok(mask) = u64::from_str_radix(mask, 16) else {
        return false;
    };
    (1..=64).contains(&signal) && mask >> (signal - 1) & 1 == 1
}

/// A field of `/proc/self/status`.
pub(super) fn status_field(name: &str) -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_read_from_their_lowest_bit() {
        assert!(mask_has("0000000000000001", 1));
        assert!(mask_has("0000000000001000", 13));
        assert!(!mask_has("0000000000001000", 12));
        assert!(mask_has("8000000000000000", 64));
        assert!(!mask_has("ffffffffffffffff", 0));
        assert!(!mask_has("", 1));
    }

    #[test]
    fn a_rust_program_ignores_sigpipe() {
        assert!(signal_ignored(13));
        assert!(!signal_ignored(15));
    }
}
