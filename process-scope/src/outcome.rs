//! How a command ended, and ending in the same way.

use std::process::ExitStatus;

use crate::sys;

/// How a command ended.
///
/// ```
/// use process_scope::ExitOutcome;
///
/// assert_eq!(ExitOutcome::Code(3).exit_code(), 3);
/// assert_eq!(ExitOutcome::Signal(15).exit_code(), 143);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitOutcome {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl ExitOutcome {
    /// The code that a shell would show for it: the code itself, or 128 and the signal's number.
    pub fn exit_code(self) -> i32 {
        match self {
            ExitOutcome::Code(code) => code,
            ExitOutcome::Signal(signal) => 128 + signal,
        }
    }
}

impl From<ExitStatus> for ExitOutcome {
    fn from(status: ExitStatus) -> ExitOutcome {
        match status.code() {
            Some(code) => ExitOutcome::Code(code),
            None => ExitOutcome::Signal(sys::signal_of(status)),
        }
    }
}

/// Ends this process as the command ended: with the same exit code, or by the same signal, so that a shell
/// above sees what it would have seen without us (it stops a loop for a SIGINT, for one). Writes no core file of its own.
///
/// Destructors do not run: to be called last. Where the signal does not end the process (an init process), it
/// exits with 128 and the signal's number.
pub fn die_like(outcome: ExitOutcome) -> ! {
    if let ExitOutcome::Signal(signal) = outcome {
        sys::die_by(signal);
    }
    std::process::exit(outcome.exit_code())
}
