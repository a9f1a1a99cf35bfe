#![doc = include_str!("../README.md")]
//!
//! # What this crate knows, and what it must not know
//!
//! It knows how to give one process tree its own view of the files that name resolution reads: user and mount namespaces,
//! the private files bound over the system's, and the parts of the command's life that this affects: its start, its signals
//! and its end. It does not know services, tunnels or the syntax of the hosts file: the content arrives as bytes.
//!
//! # How it works
//!
//! [`spawn`] runs [`Scope::program`] (normally the running program itself) again with [`HIDDEN_ARGUMENT`] as its first
//! argument. There, before any thread exists, `main` calls [`enter`], which makes the namespaces and the mounts and
//! then becomes the command by `execvp`. Until then a socket joins the two. It takes the place of the new process's standard
//! input, and the caller's own standard input is passed over it, so that no descriptor is ever inheritable and nothing leaks
//! into a child that another thread spawns at the same time.
//!
//! | what the command sees | how |
//! |---|---|
//! | `/etc/hosts` | [`Scope::hosts`], read-only; [`PrivateHosts::update`] changes it while the command runs |
//! | `/etc/nsswitch.conf` | `files` first on the `hosts` line (see [`render_nsswitch`]), where it is not so already |
//! | `/run/nscd` | empty, where an nscd listens: it would answer from the system's hosts file |
//! | files that ssh includes from its configuration | copies owned by the caller, where root owns them and the caller is not root |
//! | mounts made outside later | visible, as before; mounts made inside stay inside |
//!
//! Uid, gid, groups, working directory, environment, standard streams, terminal and process group are the caller's.
//! Root keeps its privileges and gets no user namespace. For everybody else the capabilities are gone when the command
//! starts, and setuid programs (`sudo`, `su`) run without their privileges, because root is not mapped into that user
//! namespace. For the same reason files of other users appear to belong to the overflow user (65534).
//!
//! # The recipe for a program's `main`
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! fn main() -> ExitCode {
//!     let mut arguments = std::env::args_os().skip(1);
//!     if arguments.next().is_some_and(|first| first == process_scope::HIDDEN_ARGUMENT) {
//!         return process_scope::enter(arguments); // before any thread exists
//!     }
//!     // … the program proper, with its runtime and threads
//! #   ExitCode::SUCCESS
//! }
//! ```
//!
//! # Signals and the terminal
//!
//! The command stays in the caller's process group, so the terminal sends Ctrl-C, Ctrl-\ and Ctrl-Z to both. A
//! parent that outlives the command:
//!
//! 1. installs handlers for SIGINT and SIGQUIT that do nothing (the command decides what they mean). A handler, not
//!    `SIG_IGN`: the command would inherit that;
//! 2. installs handlers for SIGTERM and SIGHUP that pass the signal on with [`Signaller::send`];
//! 3. installs neither where [`signal_ignored`] says that the signal was ignored when the program started (`nohup`);
//! 4. leaves SIGTSTP, SIGCONT, SIGTTIN, SIGTTOU and SIGWINCH alone, and never calls `tcsetpgrp`: an interactive shell
//!    makes itself the foreground process group, and gives the terminal back when it ends;
//! 5. waits with [`wait()`] on a thread of its own (which also stops the parent when a shell in its own process group
//!    suspends itself), cleans up, and ends with [`die_like`].
//!
//! # What the command leaves behind
//!
//! A command may end before what it has started: `sh -c '(sleep 3; curl …) & exit 7'`. A program whose work must last until
//! the end of all that calls [`split`] first. The front is the process that the caller waits for, and it ends as soon as
//! the command has; the back runs the command, adopts what it leaves behind, and has a [`Tree`] to wait for the last of it.
//! Handlers and waiting as above are not needed then: the front passes signals on to the back, which sends each of them to the
//! command.
//!
//! # Death
//!
//! The command gets SIGKILL when the parent *process* dies, however it dies. The kernel ties that signal to the
//! *thread* that forked; [`spawn`] forks on a thread that it keeps until the command has ended, so it may be called from any
//! thread. Only the command itself is killed this way, not what it has started; and a command that changes its ids
//! (`su` as root) loses the tie.

#![deny(unsafe_code)]

mod error;
#[cfg(any(target_os = "linux", test))]
mod facts;
#[cfg(any(target_os = "linux", test))]
mod lookup;
mod no_proxy;
mod nsswitch;
mod outcome;
mod scope;
mod split;
#[cfg(any(target_os = "linux", test))]
mod ssh_config;
mod sys;
#[cfg(any(target_os = "linux", test))]
mod wire;

pub use error::{Error, Restriction};
pub use no_proxy::no_proxy;
pub use nsswitch::render_nsswitch;
pub use outcome::{ExitOutcome, die_like};
pub use scope::{
    HIDDEN_ARGUMENT, PrivateHosts, Scope, Scoped, ScopedCommand, Signaller, Tree, enter, probe,
    signal_ignored, spawn, wait,
};
pub use split::{Back, Front, Group, Side, Watch, split};
