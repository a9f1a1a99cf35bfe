//! Two processes for one run: one that the caller waits for, and one that stays for as long as the command's tree does.

use std::fmt;

use crate::{Error, ExitOutcome, sys};

/// Which of the two processes this is after [`split`].
#[derive(Debug)]
pub enum Side {
    /// The process that the caller started and waits for.
    Front(Front),
    /// Its child, which does the work and may outlive it.
    Back(Back),
}

/// The process that the caller started: it passes signals on, and ends as the command ends.
#[derive(Debug)]
pub struct Front(pub(crate) sys::Front);

/// The process that does the work, in a process group of its own: what the terminal sends (Ctrl-C, Ctrl-Z) reaches the front and
/// the command, and leaves alone whoever keeps the names up.
#[derive(Debug)]
pub struct Back(pub(crate) sys::Back);

/// Goes on in two processes. Only while this one has no other thread, since a forked process has none of them.
///
/// The front stays what the caller sees: it has the caller's process id and process group, and it is stopped and
/// continued with its job. Everything else is the back's affair.
///
/// # Errors
/// - [`Error::Setup`] if there are other threads, or the system refuses a step;
/// - [`Error::Unsupported`]: not on this operating system.
pub fn split() -> Result<Side, Error> {
    sys::split()
}

impl Front {
    /// Waits until the back [releases](Back::release) this process or ends, and passes on to it the signals that are meant for the
    /// command. Gives what the back said, or how it ended.
    ///
    /// Ctrl-C and Ctrl-\ are passed on until the back says that [the command runs](Back::command_runs): from then on the terminal
    /// sends them to the command as well. Signals that were ignored when the program started stay so.
    ///
    /// # Errors
    /// [`Error::Setup`] if the system refuses a step.
    pub fn wait(self) -> Result<ExitOutcome, Error> {
        self.0.wait()
    }
}

impl Back {
    /// The front's process group, for [`ScopedCommand::group`](crate::ScopedCommand::group): the command belongs to the caller's
    /// job.
    #[must_use]
    pub fn job(&self) -> Group {
        Group(self.0.job())
    }

    /// Makes what the command starts and leaves behind a child of this process, so that [`Tree`](crate::Tree) sees its end.
    /// To be called before [`spawn`](crate::spawn).
    ///
    /// # Errors
    /// [`Error::Setup`] if the system refuses.
    pub fn adopt_orphans(&self) -> Result<(), Error> {
        self.0.adopt_orphans()
    }

    /// Tells the front that the command runs, in the terminal's foreground.
    ///
    /// # Errors
    /// [`Error::Setup`] if the front is gone.
    pub fn command_runs(&self) -> Result<(), Error> {
        self.0.command_runs()
    }

    /// Lets the front end as the command did. Standard input, output and error of this process become `/dev/null`, and the other
    /// descriptors that it was started with are closed, so that nobody waits for a pipe or a lock because of it.
    ///
    /// # Errors
    /// [`Error::Setup`] if the system refuses; the front waits for this process then.
    pub fn release(&mut self, outcome: ExitOutcome) -> Result<(), Error> {
        self.0.release(outcome)
    }

    /// A handle that waits for the front's end, for another thread.
    ///
    /// # Errors
    /// [`Error::Setup`] if there is no descriptor for it.
    pub fn watch(&self) -> Result<Watch, Error> {
        self.0.watch().map(Watch)
    }
}

/// Waits for the front's end.
#[derive(Debug)]
pub struct Watch(sys::Watch);

impl Watch {
    /// Blocks until the front has ended, released or killed.
    pub fn wait(self) {
        self.0.wait();
    }
}

/// A process group.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Group(pub(crate) sys::Group);

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
