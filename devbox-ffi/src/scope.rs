//! Commands that see a hosts file of their own, for other languages: the `process-scope` crate.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use process_scope::{ExitOutcome, PrivateHosts, Scope, Signaller};
use tokio::sync::watch;

use crate::cancel::{Cancellation, end_of};
use crate::error::DevboxError;
use crate::runtime::on_runtime;

/// A command, and the hosts file that it sees in place of the system's. Linux has that; elsewhere it is `Unsupported`.
#[derive(Debug, Clone, uniffi::Record)]
pub struct ScopedCommandConfig {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// The whole content of the hosts file: normally the system's own, and the names to add (`HostsDocument`).
    pub hosts: Vec<u8>,
    /// The program that makes the namespaces and becomes the command: `devbox`.
    pub devbox: String,
    /// Variables to set on top of this process's environment.
    #[uniffi(default)]
    pub env: HashMap<String, String>,
}

/// A command that runs in its scope. It runs until it exits or this process does, also when nobody refers to it any more.
#[derive(uniffi::Object)]
pub struct ScopedCommand {
    pid: u32,
    hosts: Mutex<PrivateHosts>,
    signaller: Signaller,
    ended: watch::Receiver<Option<Result<CommandEnd, DevboxError>>>,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum CommandEnd {
    /// By itself.
    Exited {
        /// Its exit code.
        code: i32,
    },
    /// By a signal.
    Killed {
        /// Its number.
        signal: i32,
    },
}

impl fmt::Debug for ScopedCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScopedCommand")
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

#[uniffi::export]
impl ScopedCommand {
    /// Starts a command, whose standard streams are this process's own, and returns once it runs.
    #[uniffi::constructor]
    pub async fn start(config: ScopedCommandConfig) -> Result<Arc<Self>, DevboxError> {
        on_runtime(async move {
            let started = tokio::task::spawn_blocking(move || spawn(config)).await;
            started.map_err(|_| DevboxError::Crashed)?
        })
        .await
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Changes the hosts file that it sees, in place. No lookup sees an empty file, or half of a line.
    pub fn update_hosts(&self, hosts: Vec<u8>) -> Result<(), DevboxError> {
        let mut file = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(file.update(&hosts)?)
    }

    /// Sends it a signal by its number, never to another process that got its id later; says whether it still ran.
    pub fn signal(&self, signal: i32) -> Result<bool, DevboxError> {
        Ok(self.signaller.send(signal)?)
    }

    /// Waits until it has ended.
    #[uniffi::method(default(cancellation = None))]
    pub async fn wait(&self, cancellation: Option<Arc<Cancellation>>) -> Result<CommandEnd, DevboxError> {
        end_of(self.ended.clone(), cancellation).await
    }
}

fn spawn(config: ScopedCommandConfig) -> Result<Arc<ScopedCommand>, DevboxError> {
    let mut scope = Scope::new(config.hosts);
    scope.program = config.devbox.into();
    let mut command = process_scope::ScopedCommand::new(config.argv);
    for (name, value) in config.env {
        command = command.env(name, value);
    }
    let scoped = process_scope::spawn(&scope, &command)?;
    let (pid, signaller) = (scoped.id(), scoped.signaller()?);
    let (told, ended) = watch::channel(None);
    let (mut child, hosts) = (scoped.child, scoped.hosts);
    // A thread of its own for as long as the command runs: those of the runtime are for what is soon over.
    let waiting = thread::Builder::new().name("devbox-command".to_owned());
    let waited = waiting.spawn(move || {
        let end = process_scope::wait(&mut child).map(CommandEnd::from);
        told.send_replace(Some(end.map_err(Into::into)));
    });
    waited.map_err(|error| DevboxError::runtime(&error))?;
    Ok(Arc::new(ScopedCommand {
        pid,
        hosts: Mutex::new(hosts),
        signaller,
        ended,
    }))
}

impl From<ExitOutcome> for CommandEnd {
    fn from(outcome: ExitOutcome) -> Self {
        match outcome {
            ExitOutcome::Code(code) => Self::Exited { code },
            ExitOutcome::Signal(signal) => Self::Killed { signal },
        }
    }
}
