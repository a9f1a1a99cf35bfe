//! The public face: what is asked for, what comes back, and the calls that do it.

use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, ExitCode};

use crate::split::{Back, Group};
use crate::{Error, ExitOutcome, sys};

/// The first argument with which [`Scope::program`] is run again; its `main` then calls [`enter`].
pub const HIDDEN_ARGUMENT: &str = "__scope";

/// What the command sees differently from everybody else.
///
/// ```
/// let scope = process_scope::Scope::new("127.0.0.1 localhost\n127.77.3.4 orders.backend\n");
/// assert!(scope.hosts.ends_with(b"orders.backend\n"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The whole content of the private hosts file, normally the system's own and the names to add.
    pub hosts: Vec<u8>,
    /// The program that is run again with [`HIDDEN_ARGUMENT`]. Default `/proc/self/exe`, the running program even
    /// where its file has been replaced since. Its `main` must call [`enter`] then.
    pub program: PathBuf,
}

impl Scope {
    /// A scope with this hosts file, entered by the running program itself.
    pub fn new(hosts: impl Into<Vec<u8>>) -> Scope {
        Scope {
            hosts: hosts.into(),
            program: PathBuf::from("/proc/self/exe"),
        }
    }

    /// Does everything but run a command, in a process that ends at once: can it be done on this system?
    ///
    /// # Errors
    /// As for [`spawn`], except those about the command.
    pub fn probe(&self) -> Result<(), Error> {
        sys::probe(self)
    }
}

/// A command line, and what is different in its environment.
///
/// ```
/// use process_scope::ScopedCommand;
///
/// let command = ScopedCommand::new(["psql", "-h", "orders.backend"]).env("NO_PROXY", "orders.backend");
/// assert_eq!(command.argv.len(), 3);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScopedCommand {
    /// The program and its arguments. A program without a `/` is searched as `execvp` does, in the `PATH` that the
    /// command itself will have.
    pub argv: Vec<OsString>,
    /// Variables to set on top of the caller's environment.
    pub env: Vec<(OsString, OsString)>,
    /// The command's soft limit of open files (`ulimit -n`). `None`, the default, is the caller's own; a caller that
    /// raised its own gives the one that it was started with, for programs that close every descriptor up to the limit.
    pub open_files: Option<u64>,
    /// The process group that the command joins; `None`, the default, is the caller's own.
    pub group: Option<Group>,
}

impl ScopedCommand {
    /// A command with the caller's environment.
    pub fn new(argv: impl IntoIterator<Item = impl Into<OsString>>) -> ScopedCommand {
        ScopedCommand {
            argv: argv.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            open_files: None,
            group: None,
        }
    }

    /// Sets [`ScopedCommand::open_files`].
    #[must_use]
    pub fn open_files(mut self, soft_limit: Option<u64>) -> ScopedCommand {
        self.open_files = soft_limit;
        self
    }

    /// Sets [`ScopedCommand::group`].
    #[must_use]
    pub fn group(mut self, group: Group) -> ScopedCommand {
        self.group = Some(group);
        self
    }

    /// Sets one variable in the command's environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> ScopedCommand {
        self.env.push((name.into(), value.into()));
        self
    }
}

/// A command that runs in its scope. Dropping this does not end the command, which runs until it exits or this process does.
#[derive(Debug)]
pub struct Scoped {
    /// The command. Its standard streams are the caller's own, so `stdin`, `stdout` and `stderr` are `None`.
    pub child: Child,
    /// The hosts file that it sees.
    pub hosts: PrivateHosts,
}

impl Scoped {
    /// The command's process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// [`PrivateHosts::update`] of this command's file.
    ///
    /// # Errors
    /// [`Error::UpdateHosts`].
    pub fn update_hosts(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.hosts.update(bytes)
    }

    /// A handle to send signals to the command from another thread.
    ///
    /// # Errors
    /// [`Error::Setup`] if the system gives no handle for the process.
    pub fn signaller(&self) -> Result<Signaller, Error> {
        sys::Signaller::of(&self.child).map(Signaller)
    }

    /// The command with everything that it starts, where [`split`](crate::split) made this process.
    ///
    /// # Errors
    /// [`Error::Setup`] if the system gives no handle for the process.
    pub fn tree(&self, back: &Back) -> Result<Tree, Error> {
        sys::Tree::of(&self.child, &back.0).map(Tree)
    }

    /// Waits for the command's end; see [`wait()`].
    ///
    /// # Errors
    /// [`Error::Setup`] if it was waited for elsewhere already.
    pub fn wait(&mut self) -> Result<ExitOutcome, Error> {
        wait(&mut self.child)
    }
}

/// A command and what it has started. It waits for every child of this process: whoever uses it starts no others.
#[derive(Debug)]
pub struct Tree(sys::Tree);

impl Tree {
    /// Waits until the command itself has ended, and says how it did. Blocks: call it on a thread of its own.
    ///
    /// If standard input is a terminal and the command, in its own process group, stops itself (`suspend` in an interactive
    /// shell), the front is stopped too, so that the shell that started it gets the terminal back.
    ///
    /// # Errors
    /// [`Error::Setup`] if the command was waited for elsewhere.
    pub fn wait(&mut self) -> Result<ExitOutcome, Error> {
        self.0.wait()
    }

    /// Whether nothing of it is left that [`adopt_orphans`](Back::adopt_orphans) was asked to wait for.
    pub fn is_over(&mut self) -> bool {
        self.0.is_over()
    }

    /// Waits until nothing of it is left. Blocks.
    pub fn wait_for_rest(&mut self) {
        self.0.wait_for_rest();
    }
}

/// The private hosts file of a running command, seen from outside. The command cannot write to it; this can.
#[derive(Debug)]
pub struct PrivateHosts {
    pub(crate) file: File,
}

impl PrivateHosts {
    /// Makes `bytes` the content of the file, in place: the command's mount refers to this very file, so a file renamed over it
    /// would not be seen.
    ///
    /// Only what follows the first difference is written, and a file that gets shorter is truncated only after the rest has
    /// been blanked. A concurrent lookup never sees an empty file, nor part of a former line as a line.
    ///
    /// # Errors
    /// [`Error::UpdateHosts`] if the system refuses, for example because it is out of memory.
    pub fn update(&mut self, bytes: &[u8]) -> Result<(), Error> {
        sys::rewrite(&self.file, bytes).map_err(|source| Error::UpdateHosts { source })
    }
}

/// Sends signals to one command, never to another process that gets its pid later.
#[derive(Debug)]
pub struct Signaller(sys::Signaller);

impl Signaller {
    /// Sends `signal` (a number, e.g. 15) to the command. Returns `false` if the command has already ended. SIGCONT goes to
    /// the whole process group of a command that leads one.
    ///
    /// # Errors
    /// [`Error::Setup`] if there is no such signal or the command may not be signalled.
    pub fn send(&self, signal: i32) -> Result<bool, Error> {
        self.0.send(signal)
    }
}

/// Starts `command` in `scope` and returns once it is running: the program was found and `execvp` has succeeded.
///
/// May be called from any thread: the process is forked by a thread that lives as long as the command does, and
/// so the command is killed (SIGKILL) when this *process* dies, and only then.
///
/// # Errors
/// - [`Error::CommandNotFound`], [`Error::CommandNotExecutable`], [`Error::BadCommand`]: about the command;
/// - [`Error::UserNamespacesForbidden`], [`Error::MountNamespaceForbidden`]: the system forbids what is needed;
/// - [`Error::NoHostsFile`], [`Error::Mount`], [`Error::Setup`]: a step failed;
/// - [`Error::Start`], [`Error::NoAnswer`]: [`Scope::program`] cannot be run, or does not call [`enter`];
/// - [`Error::Unsupported`]: not on this operating system.
pub fn spawn(scope: &Scope, command: &ScopedCommand) -> Result<Scoped, Error> {
    sys::spawn(scope, command)
}

/// Checks whether this system can run a command in a scope, by trying it with the running program in a process that exits at
/// once and leaves nothing behind.
///
/// # Errors
/// As for [`spawn`], but for those about the command.
pub fn probe() -> Result<(), Error> {
    Scope::new(Vec::new()).probe()
}

/// Becomes the command that [`spawn`] was asked for. `main` calls it when the program's first argument is
/// [`HIDDEN_ARGUMENT`], with the arguments after it (there are none), **before any thread exists**: a process with threads cannot
/// create a user namespace (unshare(2), `EINVAL`).
///
/// Returns only if it could not become the command; the caller of [`spawn`] gets the reason.
pub fn enter(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    sys::enter(arguments.into_iter().next().is_none())
}

/// Waits until the command has ended, reaps it, and returns how it ended. Blocks: call it on a thread of its own.
///
/// If standard input is a terminal and the command, in its own process group, stops itself (`suspend` in an interactive
/// shell), this whole process stops too, so that the shell that started it gets the terminal back. When this process is
/// continued, so is the command.
///
/// # Errors
/// [`Error::Setup`] if the child was waited for elsewhere already.
pub fn wait(child: &mut Child) -> Result<ExitOutcome, Error> {
    sys::wait(child)
}

/// Whether `signal` (a number) is ignored in this process. Called before any handler is installed, it tells how the program was
/// started: `nohup` ignores SIGHUP, and the background job of a script ignores SIGINT and SIGQUIT. `false` if it cannot be
/// determined.
pub fn signal_ignored(signal: i32) -> bool {
    sys::signal_ignored(signal)
}
