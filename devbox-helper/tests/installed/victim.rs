//! A process that stops at each system call, and is killed at one of them: ptrace(2).

use std::process::Child;

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// In the environment of a process that is to [offer itself](offer).
pub(crate) const OFFERS: (&str, &str) = ("VICTIM", "1");

/// Has this process be traced from here on by the one that has started it, if that wants so.
pub(crate) fn offer() {
    if std::env::var_os(OFFERS.0).is_some() {
        ptrace::traceme().unwrap();
        raise(Signal::SIGSTOP).unwrap();
    }
}

/// Starts a process that [offers itself](offer), and kills it when its threads have begun or ended so many system calls. Returns how many
/// they were when it ended, or was killed by somebody else.
///
/// Call it on a thread without other children: it waits for all.
pub(crate) fn killed_at(calls: usize, start: impl FnOnce() -> Child) -> usize {
    let process = Pid::from_raw(start().id().try_into().unwrap());
    let own = Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD);
    // A thread of its own runs the test that offers the process.
    let first = match waitpid(None, own).unwrap() {
        WaitStatus::Stopped(thread, Signal::SIGSTOP) => thread,
        other => panic!("{other:?}"),
    };
    let options = ptrace::Options::PTRACE_O_TRACESYSGOOD
        | ptrace::Options::PTRACE_O_TRACECLONE
        | ptrace::Options::PTRACE_O_EXITKILL;
    ptrace::setoptions(first, options).unwrap();
    ptrace::syscall(first, None).unwrap();
    let mut seen = 0;
    loop {
        let (thread, signal) = match waitpid(None, own).unwrap() {
            WaitStatus::Exited(who, _) | WaitStatus::Signaled(who, ..) if who == process => return seen,
            WaitStatus::PtraceSyscall(thread) => {
                if seen == calls {
                    kill(process, Signal::SIGKILL).unwrap();
                }
                seen += 1;
                (thread, None)
            }
            // What a new thread begins with.
            WaitStatus::Stopped(thread, Signal::SIGSTOP) | WaitStatus::PtraceEvent(thread, ..) => {
                (thread, None)
            }
            WaitStatus::Stopped(thread, signal) => (thread, Some(signal)),
            _ => continue,
        };
        // Fails when it is dying.
        ptrace::syscall(thread, signal).ok();
    }
}
