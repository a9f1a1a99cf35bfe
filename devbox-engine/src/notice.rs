//! What the engine has to tell beside the session's own events, and the stream that carries both.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use devbox_session::Event;
use netif::conflict::Conflict;
use service_catalog::Label;
use tokio::sync::watch;

/// Something about this machine that the user would want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// What sessions had before cannot be read: addresses follow from the names alone, and are not remembered.
    AddressesInMemory {
        /// Why.
        reason: String,
    },
    /// Addresses can no longer be written to the store, and are not remembered.
    AddressesNotKept {
        /// Why.
        reason: String,
    },
    /// Any certificate of a gateway is accepted, because the configuration says so: who is on the way can read the token and
    /// change what is carried.
    AnyCertificate {
        /// The gateway.
        far_side: String,
    },
    /// The user may not do everything in a cluster that was asked for.
    Lacking {
        /// The cluster's provider.
        provider: String,
        /// What they lack, and what is so without it: a few clauses.
        what: String,
    },
    /// Something on this machine is in the session's way, or may be.
    Conflict(Conflict),
    /// What a session that was killed had left was removed.
    Swept {
        /// The hosts file.
        file: PathBuf,
        /// The tag of the block that was removed.
        tag: String,
    },
    /// An older session of this user for the same environment and hosts file was asked to leave, and is waited for.
    WaitingForOlder {
        /// The environment.
        environment: Label,
    },
    /// There is no control socket for an environment: other programs cannot find this session.
    NoControlSocket {
        /// The environment.
        environment: Label,
        /// Why.
        reason: String,
    },
    /// This system does not ask the session's DNS server for its suffix, although there is a helper that could have told it to.
    NotAsked {
        /// The suffix.
        suffix: String,
        /// Why.
        reason: String,
    },
    /// The installed helper has ended, and no other one serves at once. It is tried again for a minute.
    HelperAwaited {
        /// Why not.
        reason: String,
    },
    /// The helper was killed, and no other one took its place: the session ends.
    HelperGivenUp {
        /// Why not.
        reason: String,
    },
    /// The helper was killed. Another one has taken over what it did.
    HelperRestarted {
        /// The new one's process.
        pid: u32,
    },
}

/// One thing that happened to a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineEvent {
    /// To its services, its providers, its names.
    Session(Event),
    /// To the machine that it runs on.
    Notice(Notice),
}

/// Notices in the order in which they came; every reader sees all of them.
#[derive(Debug, Clone)]
pub(crate) struct Notices {
    log: Arc<Mutex<Log>>,
    /// How many there have been.
    count: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Log {
    first: u64,
    kept: VecDeque<Notice>,
}

/// Notices come a few at the start and one for each switch of the environment. Of more than this the oldest are forgotten.
const KEPT: usize = 256;

impl Notices {
    pub(crate) fn new() -> Self {
        Self {
            log: Arc::default(),
            count: watch::Sender::new(0),
        }
    }

    pub(crate) fn add(&self, notice: Notice) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.kept.push_back(notice);
        if log.kept.len() > KEPT {
            log.kept.pop_front();
            log.first += 1;
        }
        self.count.send_modify(|count| *count += 1);
    }

    /// All that were kept.
    pub(crate) fn all(&self) -> Vec<Notice> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.kept.iter().cloned().collect()
    }

    fn get(&self, number: u64) -> Option<(u64, Notice)> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let number = number.max(log.first);
        let index = usize::try_from(number - log.first).ok()?;
        log.kept.get(index).map(|notice| (number + 1, notice.clone()))
    }
}

/// A reader of what happens to a session. Dropping it is fine; so is having several.
#[derive(Debug)]
pub struct Events {
    session: devbox_session::Events,
    session_ended: bool,
    notices: Notices,
    count: watch::Receiver<u64>,
    next: u64,
}

impl Events {
    pub(crate) fn new(session: devbox_session::Events, notices: &Notices) -> Self {
        Self {
            session,
            session_ended: false,
            notices: notices.clone(),
            count: notices.count.subscribe(),
            next: 0,
        }
    }

    /// What happened next; `None` once the session has ended and everything was told.
    ///
    /// A reader that falls behind gets [`Event::Lagged`] with the state as it is then, in place of the events that it
    /// missed.
    ///
    /// # Cancel safety
    /// Safe: nothing is lost.
    pub async fn next(&mut self) -> Option<EngineEvent> {
        loop {
            self.count.mark_unchanged();
            if let Some((next, notice)) = self.notices.get(self.next) {
                self.next = next;
                return Some(EngineEvent::Notice(notice));
            }
            if self.session_ended {
                return None;
            }
            tokio::select! {
                event = self.session.next() => match event {
                    Some(event) => return Some(EngineEvent::Session(event)),
                    None => self.session_ended = true,
                },
                // This reader keeps a sender itself, so this ends with a notice only.
                changed = self.count.changed() => if changed.is_err() {
                    self.session_ended = true;
                },
            }
        }
    }
}
