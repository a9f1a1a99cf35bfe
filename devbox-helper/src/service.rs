//! The installed helper: one process for several users and sessions. One thread accepts, each caller has one that reads and writes,
//! and the first thread of the process owns the machine, which they ask one request at a time.

mod arguments;
mod desk;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use devbox_helper_client::{Channel, Descriptor, Handshake, HelperError, Reply, Request};
use netif::Backend;

use crate::admission::PolicyFile;
use crate::audit::{Entry, LogTo};
use crate::claims::{ClaimId, Claims, Limits};
use crate::error::{Error, with_sources};
use crate::journal::Journal;
use crate::machine::{Answer, Caller, Machine};
use crate::network::{self, Network, Undo};
use crate::peer::{self, Credentials};
use crate::policy::not_allowed;
use crate::sys;
use desk::Desk;

/// The first argument of the helper that serves everybody.
pub const SERVE: &str = "serve";
/// The first argument of the same helper where Windows' service control manager starts it.
pub const SERVICE: &str = "service";
/// The first argument of the helper that [serves nobody](Service::sweep).
pub const SWEEP: &str = "sweep";

/// A helper for all callers whom its policy file admits.
///
/// Everything it does for a caller is undone when that caller's connection ends, or after the grace that the caller has asked for.
#[non_exhaustive]
pub struct Service {
    /// Where callers connect; `None` for the socket that systemd passes.
    pub socket: Option<PathBuf>,
    /// Who may ask for what ([`PolicyFile`]).
    pub policy_file: PathBuf,
    /// The one hosts file that is edited.
    pub hosts_file: PathBuf,
    /// Where the journals are.
    pub state_dir: PathBuf,
    /// Where each request is logged.
    pub log: LogTo,
    /// How long a caller may take for a message that it has begun, or to read a reply. 10 s.
    pub patience: Duration,
    /// The machine's network.
    pub backend: Box<dyn Backend>,
}

impl Default for Service {
    /// The system's hosts file and network, with the policy of the installation.
    fn default() -> Self {
        Self {
            socket: None,
            policy_file: POLICY_FILE.into(),
            hosts_file: hostsfile::system_path(),
            state_dir: STATE_DIR.into(),
            log: LogTo::System,
            patience: PATIENCE,
            backend: network::system(),
        }
    }
}

impl Service {
    /// Undoes what a helper left that was killed, then serves callers until SIGTERM. Call it first thing in a process of its own,
    /// before there is a second thread.
    ///
    /// # Errors
    /// [`Error::PolicyFile`], [`Error::Listen`], [`Error::Replay`], [`Error::Owner`], [`Error::Detach`] when nothing was served;
    /// [`Error::Undo`] and [`Error::Network`] when something stays behind.
    pub fn run(mut self) -> Result<(), Error> {
        let policy = PolicyFile::load(&self.policy_file);
        let listener = match &self.socket {
            // A policy that is none is said at the start, too; afterwards it is read for each connection.
            Some(path) => sys::Listener::at(path, &policy?.names()),
            // Whoever connects is told. A helper that ended would be started anew, again and again, for as long as somebody waits there.
            None if !sys::LETS_IN_BY_NAME => sys::Listener::activated(&[]),
            None => sys::Listener::activated(&policy?.names()),
        };
        let listener = listener.map_err(Error::Listen)?;
        // A session of its own is for whoever starts it to give: systemd does, and somebody on a terminal wants Ctrl-C.
        sys::hold_signals().map_err(Error::Detach)?;
        let owner = crate::owner::current().map_err(Error::Owner)?;
        // Before the first request: what a helper left that was killed, on the network and in the hosts file.
        network::undo_journals(self.backend.as_mut(), &self.state_dir)?;
        // A file that is locked or read-only now is swept again by the first session.
        crate::sweep(&self.hosts_file).ok();
        let journal = Journal::new(&self.state_dir, &owner);
        let network = Network::new(self.backend, journal);
        let machine = Machine::new(owner, Claims::new(Limits::default()), network);
        // 64 requests wait; further callers wait for room.
        let (events, asked) = mpsc::sync_channel(64);
        let end = events.clone();
        sys::on_terminate_or_interrupt(move || drop(end.send(Event::End))).map_err(Error::Detach)?;
        let door = Door {
            policy_file: self.policy_file,
            hosts_file: self.hosts_file,
            log: Arc::new(self.log),
            patience: self.patience,
            events,
        };
        let accepting = thread::Builder::new()
            .name("accept".into())
            .stack_size(STACK_BYTES);
        accepting
            .spawn(move || door.accept(&listener))
            .map_err(Error::Listen)?;
        let served = own(machine, &asked);
        if let Some(socket) = &self.socket {
            // One that stays is replaced by the next helper.
            std::fs::remove_file(socket).ok();
        }
        served
    }

    /// Undoes what helpers left that were killed, and serves nobody: after a start of the machine, when nobody may ask for anything
    /// for long.
    ///
    /// # Errors
    /// [`Error::Replay`], [`Error::Network`], [`Error::Sweep`].
    pub fn sweep(mut self) -> Result<(), Error> {
        let Undo { left, .. } = network::undo_journals(self.backend.as_mut(), &self.state_dir)?;
        crate::sweep(&self.hosts_file).map_err(|source| Error::Sweep {
            file: self.hosts_file,
            source,
        })?;
        match left.is_empty() {
            true => Ok(()),
            false => Err(Error::Network { left }),
        }
    }
}

/// The user that this process runs as, as a [`PolicyFile`] names them: a number, or on Windows a security identifier.
///
/// # Errors
/// When the system does not tell.
pub fn own_account() -> std::io::Result<String> {
    sys::own_account()
}

enum Event {
    Enter(Caller, SyncSender<Result<ClaimId, HelperError>>),
    Ask(ClaimId, Request, SyncSender<(ClaimId, Answer)>),
    /// The sender is dropped once everything is undone.
    Leave(ClaimId, SyncSender<()>),
    End,
}

/// The one thread that changes the machine.
fn own(mut machine: Machine, asked: &mpsc::Receiver<Event>) -> Result<(), Error> {
    let mut busy = false;
    loop {
        let now = Instant::now();
        let event = match machine.next_tick(now) {
            Some(at) => asked.recv_timeout(at.saturating_duration_since(now)),
            None => asked.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match event {
            // Whoever asks and is gone when the answer comes has left, and is told so by its own thread.
            Ok(Event::Enter(caller, reply)) => drop(reply.send(machine.enter(caller))),
            Ok(Event::Ask(mut id, request, reply)) => {
                busy = true;
                let answer = machine.handle(&mut id, request);
                drop(reply.send((id, answer)));
            }
            Ok(Event::Leave(id, _done)) => machine.close(id, Instant::now()),
            Ok(Event::End) | Err(RecvTimeoutError::Disconnected) => return machine.finish(),
            Err(RecvTimeoutError::Timeout) => {}
        }
        machine.tick(Instant::now());
        if busy && machine.rest() {
            busy = false;
            sys::give_memory_back();
        }
    }
}

/// Lets callers in.
struct Door {
    policy_file: PathBuf,
    hosts_file: PathBuf,
    log: Arc<LogTo>,
    patience: Duration,
    events: SyncSender<Event>,
}

impl Door {
    fn accept(&self, listener: &sys::Listener) {
        loop {
            match listener.accept() {
                Ok(stream) => self.admit(stream),
                // Too many open files, or a caller that was gone at once: neither lasts.
                Err(_) => thread::sleep(ACCEPT_AGAIN),
            }
        }
    }

    /// Who is not admitted is told why, and leaves no thread behind.
    fn admit(&self, stream: Descriptor) {
        let Ok(peer) = peer::credentials(&stream) else {
            return;
        };
        let Ok(mut channel) = Channel::of(stream) else {
            return;
        };
        if channel.limit(self.patience).is_err() {
            return;
        }
        let (mut sender, mut receiver) = channel.split();
        let id = match self.enter(&peer) {
            Ok(id) => id,
            Err(error) => {
                let reason = error.to_string();
                self.log.write(&Entry {
                    peer: &peer,
                    verb: "connect",
                    refused: Some(&reason),
                });
                // A caller that does not wait for it does not want to know.
                sender.send(&Handshake::Error(error)).ok();
                return;
            }
        };
        let mut desk = Desk::new(id, peer, Arc::clone(&self.log), self.events.clone());
        let patience = self.patience;
        let serving = thread::Builder::new()
            .name("caller".into())
            .stack_size(STACK_BYTES);
        let served = serving.spawn(move || {
            // A stream that fails has ended.
            crate::conversation::converse(&mut receiver, &mut sender, Some(patience), &mut desk).ok();
            // Before the stream is closed: a caller who sees its end knows that everything is undone.
            desk.leave();
        });
        if served.is_err() {
            desk::leave(&self.events, id);
        }
    }

    fn enter(&self, peer: &Credentials) -> Result<ClaimId, HelperError> {
        let who = || format!("user {}", sys::user_text(peer.uid));
        let file = PolicyFile::load(&self.policy_file);
        let file = file.map_err(|error| not_allowed(who(), with_sources(&error)))?;
        let policy = file
            .admit(peer, &self.hosts_file)
            .map_err(|why| not_allowed(who(), why))?;
        let caller = Caller {
            uid: peer.uid,
            pid: peer.pid,
            policy,
        };
        let (reply, entered) = mpsc::sync_channel(1);
        let ending = not_allowed(who(), "the helper is ending");
        if self.events.send(Event::Enter(caller, reply)).is_err() {
            return Err(ending);
        }
        entered.recv().unwrap_or(Err(ending))
    }
}

/// For serde's frames and the edit of a file; pages that are not touched cost nothing.
const STACK_BYTES: usize = 256 << 10;
const PATIENCE: Duration = Duration::from_secs(10);
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// The policy file of an installation.
pub const POLICY_FILE: &str = sys::POLICY_FILE;
/// Where the journals of an installation are.
pub const STATE_DIR: &str = sys::STATE_DIR;
