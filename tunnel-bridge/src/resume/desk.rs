//! The server's side: which new connection begins a link, and which takes one up again.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot};
use tunnel_proto::{
    Config, Connection, Features, FirstFrame, NotResumedReason, ResumeAnswer, ResumeToken, Role,
};

use super::REPLAY_BYTES;
use super::handshake::{self, Unread};
use crate::driver::{self, Adopt};
use crate::link::WeakLink;
use crate::{Carrier, CarrierEnd, Link, LinkOptions};

/// Limits of a [`Desk`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeskOptions {
    /// For how long a link whose connection was lost is kept for its client. Default 60 s; at most 18 h.
    pub window: Duration,
    /// Most bytes of a link that are kept for sending again, until the client has them. When they are used up, the link's streams wait.
    /// Default 16 MiB; at least 1 MiB: a client acknowledges only after each 256 KiB.
    pub replay_bytes: u32,
    /// Links without a connection that are kept at once. Of more, those whose connection is lost end at once. Default 1024.
    pub max_detached: usize,
    /// How many of these one owner may have. When another one of its links loses its connection, the one that has waited longest ends.
    /// Default 16.
    pub max_detached_per_owner: usize,
    /// What all of these together may hold, in bytes: what is kept for sending again, what waits to be sent and what was received and
    /// not read, at the time when the connection was lost. Default 1 GiB.
    pub max_detached_bytes: u64,
    /// How long the first frame of a new connection may take. Default 10 s.
    pub first_frame_within: Duration,
    /// The limits of each link.
    pub link: LinkOptions,
}

impl Default for DeskOptions {
    fn default() -> DeskOptions {
        DeskOptions {
            window: Duration::from_secs(60),
            replay_bytes: 16 * 1024 * 1024,
            max_detached: 1024,
            max_detached_per_owner: 16,
            max_detached_bytes: 1024 * 1024 * 1024,
            first_frame_within: Duration::from_secs(10),
            link: LinkOptions::default(),
        }
    }
}

/// Where a server takes its clients' connections: knows the links that may be taken up again. Cloning is cheap; all clones
/// are the same desk.
#[derive(Debug, Clone)]
pub struct Desk {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: DeskOptions,
    config: Config,
    /// The links there are, by the owners that may take them up again.
    links: Mutex<HashMap<String, Vec<Entry>>>,
    next_number: AtomicU64,
    waiting: Mutex<Waiting>,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    token: ResumeToken,
    link: WeakLink,
    adopt: mpsc::Sender<Adopt>,
}

/// The links without a connection.
#[derive(Debug, Default)]
struct Waiting {
    links: usize,
    bytes: u64,
    /// Those of each owner, the one that has waited longest first.
    by_owner: HashMap<String, VecDeque<Place>>,
}

/// What a link that waits takes up.
#[derive(Debug)]
struct Place {
    number: u64,
    bytes: u64,
    /// Tells the link that it has lost its place.
    end: oneshot::Sender<()>,
}

impl Waiting {
    /// Takes the place away, if it is there still.
    fn leave(&mut self, owner: &str, number: u64) -> Option<Place> {
        let places = self.by_owner.get_mut(owner)?;
        let at = places.iter().position(|place| place.number == number)?;
        let place = places.remove(at)?;
        if places.is_empty() {
            self.by_owner.remove(owner);
        }
        self.links -= 1;
        self.bytes -= place.bytes;
        Some(place)
    }
}

/// What came of a connection.
#[derive(Debug)]
pub enum Received {
    /// It began this link.
    New(Link),
    /// It took this link up again, which goes on with all its streams; the link's former connection, if it still had one, is closed.
    /// The handle is a clone of the one that [`Received::New`] gave out.
    Resumed(Link),
}

/// Why a connection led to no link. It is closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeskError {
    /// It failed, or ended, before its first frame.
    #[error("the connection ended before its first frame")]
    Ended(#[source] CarrierEnd),
    /// Its first frame took too long.
    #[error("no first frame within {} s", .after.as_secs())]
    TimedOut {
        /// How long was waited.
        after: Duration,
    },
    /// Its first frame is neither HELLO nor RESUME, or is malformed.
    #[error("the first frame is neither HELLO nor RESUME: {message}")]
    BadFirstFrame {
        /// What is wrong with it.
        message: String,
    },
    /// A link cannot be made here.
    #[error("no link can be made: {message}")]
    Setup {
        /// Why.
        message: String,
    },
    /// It asked for a link that is not, or no longer, kept for this owner. It was told.
    #[error("no such link: {message}")]
    NotResumed {
        /// What it was told.
        message: String,
    },
}

impl Desk {
    /// A desk that keeps no link yet. An option that is out of its range counts as the nearest one that is not.
    #[must_use]
    pub fn new(options: DeskOptions) -> Desk {
        let config = Config {
            features: Features::RESUME | Features::DATAGRAMS,
            replay_bytes: options
                .replay_bytes
                .clamp(*REPLAY_BYTES.start(), *REPLAY_BYTES.end()),
            resume_window: options.window.clamp(WINDOW.0, WINDOW.1),
            ..Config::default()
        };
        let config = options.link.apply(config);
        Desk {
            shared: Arc::new(Shared {
                options,
                config,
                links: Mutex::default(),
                next_number: AtomicU64::new(0),
                waiting: Mutex::default(),
            }),
        }
    }

    /// Takes a new connection of a client, who was admitted as `owner`: only who has the same owner's name takes a link up
    /// again, so it should hold all that the client was admitted by.
    ///
    /// Waits for the first frame, and where it asks for a link, for what that makes of the connection, which takes no longer than a turn of
    /// its task. A link that is taken up again leaves its former connection for this one, even when that still
    /// seems to be alive.
    ///
    /// # Errors
    /// [`DeskError`].
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection, unless a link has gone on over it already.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn receive<C: Carrier>(&self, carrier: C, owner: &str) -> Result<Received, DeskError> {
        let after = self.shared.options.first_frame_within;
        // A link that goes on has gone on, whatever the time: only what comes before is given up.
        let opened = tokio::time::timeout(after, self.open(Box::new(carrier)))
            .await
            .unwrap_or(Err(DeskError::TimedOut { after }))?;
        let Opened {
            connection,
            token,
            carrier,
            first,
            rest,
        } = opened;
        match first {
            FirstFrame::Hello => Ok(Received::New(self.begin(connection, carrier, rest, owner, token))),
            FirstFrame::Resume { token, received } => self.go_on(carrier, received, rest, owner, token).await,
        }
    }

    /// How many links wait for their client without a connection.
    #[must_use]
    pub fn detached_count(&self) -> usize {
        self.shared.waiting().links
    }

    /// Says HELLO and reads the first frame.
    async fn open(&self, mut carrier: Box<dyn Carrier>) -> Result<Opened, DeskError> {
        // Its HELLO goes out before it is known whether it is wanted: most often it is, and nobody has to wait for it.
        let mut connection = Connection::new(Role::Server, self.shared.config.clone(), driver::clock())
            .map_err(|error| DeskError::Setup {
                message: error.to_string(),
            })?;
        let token = new_token()?;
        connection.set_resume_token(token);
        let mut hello = BytesMut::new();
        connection.poll_transmit(&mut hello, 0);
        handshake::send(&mut carrier, hello.freeze())
            .await
            .map_err(DeskError::Ended)?;
        let (first, rest) = match handshake::read(&mut carrier, FirstFrame::parse).await {
            Ok(read) => read,
            Err(Unread::Ended(end)) => return Err(DeskError::Ended(end)),
            Err(Unread::Broken(violation)) => {
                let message = violation.to_string();
                connection.go_away(crate::GoAwayReason::Protocol, &message);
                let mut word = BytesMut::new();
                connection.poll_transmit(&mut word, 0);
                dismiss(carrier, word.freeze()).await;
                return Err(DeskError::BadFirstFrame { message });
            }
        };
        Ok(Opened {
            connection,
            token,
            carrier,
            first,
            rest,
        })
    }

    fn begin(
        &self,
        connection: Connection,
        carrier: Box<dyn Carrier>,
        rest: Bytes,
        owner: &str,
        token: ResumeToken,
    ) -> Link {
        let (adopt, adopted) = mpsc::channel(ADOPTIONS);
        let number = self.shared.next_number.fetch_add(1, Ordering::Relaxed);
        let registration = Registration {
            shared: Arc::downgrade(&self.shared),
            owner: owner.to_owned(),
            number,
            over: Arc::default(),
        };
        let over = Arc::clone(&registration.over);
        // Not under the lock: a runtime that is closing drops the task at once, on this thread, and the registration with it.
        let link = driver::serve(connection, carrier, rest, adopted, registration);
        let mut links = self.shared.links();
        if !over.load(Ordering::Relaxed) {
            links.entry(owner.to_owned()).or_default().push(Entry {
                number,
                token,
                link: link.downgrade(),
                adopt,
            });
        }
        drop(links);
        link
    }

    async fn go_on(
        &self,
        carrier: Box<dyn Carrier>,
        peer_received: u64,
        rest: Bytes,
        owner: &str,
        token: ResumeToken,
    ) -> Result<Received, DeskError> {
        let found = self.shared.find(owner, &token);
        let (reason, carrier) = match found {
            None => (NotResumedReason::Unknown, Some(carrier)),
            Some((link, adopt)) => {
                let (answer, answered) = oneshot::channel();
                let adoption = Adopt {
                    carrier,
                    peer_received,
                    rest,
                    answer,
                };
                match adopt.send(adoption).await {
                    Ok(()) => match answered.await {
                        Ok(Ok(())) => return Ok(Received::Resumed(link)),
                        Ok(Err((reason, carrier))) => (reason, Some(carrier)),
                        // The link ended with the connection in its hands.
                        Err(_) => (NotResumedReason::Unknown, None),
                    },
                    // It ended just before.
                    Err(mpsc::error::SendError(adoption)) => {
                        (NotResumedReason::Unknown, Some(adoption.carrier))
                    }
                }
            }
        };
        let message = match reason {
            NotResumedReason::Offset => "what this end has does not fit what the other end has",
            _ => "no such link is kept here",
        };
        if let Some(carrier) = carrier {
            let message = message.to_owned();
            dismiss(carrier, ResumeAnswer::NotResumed { reason, message }.to_bytes()).await;
        }
        Err(DeskError::NotResumed {
            message: message.to_owned(),
        })
    }
}

/// A connection whose first frame has come.
struct Opened {
    /// What it goes on with if it begins a link, and the token for that.
    connection: Connection,
    token: ResumeToken,
    carrier: Box<dyn Carrier>,
    first: FirstFrame,
    rest: Bytes,
}

/// Says a last word and closes the connection, as far as that goes at once.
async fn dismiss(mut carrier: Box<dyn Carrier>, word: Bytes) {
    let closing = async {
        handshake::send(&mut carrier, word).await?;
        carrier.start_close()?;
        std::future::poll_fn(|cx| carrier.poll_flush(cx)).await?;
        // Closed with bytes unread it would be reset, and the word lost.
        while std::future::poll_fn(|cx| carrier.poll_receive(cx)).await.is_ok() {}
        Ok::<_, CarrierEnd>(())
    };
    match tokio::time::timeout(DISMISS_TIME, closing).await {
        Ok(Ok(())) => {}
        Ok(Err(end)) => tracing::debug!(%end, "closed before it was told why"),
        Err(_) => tracing::debug!("closed without waiting for the other end"),
    }
}

impl Shared {
    fn links(&self) -> MutexGuard<'_, HashMap<String, Vec<Entry>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The link of `owner` that the token is for. How long that takes says nothing about any token.
    fn find(&self, owner: &str, token: &ResumeToken) -> Option<(Link, mpsc::Sender<Adopt>)> {
        let links = self.links();
        let mut found = None;
        for entry in links.get(owner)? {
            if entry.token == *token {
                found = Some(entry);
            }
        }
        let entry = found?;
        Some((entry.link.upgrade()?, entry.adopt.clone()))
    }
}

/// A link's place at the desk, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Registration {
    shared: Weak<Shared>,
    owner: String,
    number: u64,
    /// The link is over. Set under the lock of the links, so that none is entered afterwards.
    over: Arc<AtomicBool>,
}

impl Registration {
    /// The link has lost its connection and waits, with `bytes` kept for its client; `None` where that is not wanted.
    pub(crate) fn hold(&self, bytes: u64) -> Option<Held> {
        let shared = self.shared.upgrade()?;
        let (end, ended) = oneshot::channel();
        let oldest = {
            let options = &shared.options;
            let mut waiting = shared.waiting();
            let of_owner = waiting.by_owner.get(&self.owner);
            let full = of_owner.map_or(0, VecDeque::len) >= options.max_detached_per_owner;
            // With none allowed there is none that could make room.
            let oldest = match of_owner.and_then(VecDeque::front) {
                Some(oldest) if full => Some((oldest.number, oldest.bytes)),
                None if full => return None,
                _ => None,
            };
            let links = waiting.links - usize::from(oldest.is_some());
            let freed = oldest.map_or(0, |(_, bytes)| bytes);
            let sum = (waiting.bytes - freed).saturating_add(bytes);
            if links >= options.max_detached || sum > options.max_detached_bytes {
                return None;
            }
            let oldest = oldest.and_then(|(number, _)| waiting.leave(&self.owner, number));
            waiting.links += 1;
            waiting.bytes += bytes;
            let places = waiting.by_owner.entry(self.owner.clone()).or_default();
            places.push_back(Place {
                number: self.number,
                bytes,
                end,
            });
            oldest
        };
        if oldest.is_some_and(|oldest| oldest.end.send(()).is_ok()) {
            tracing::debug!("too many links of one owner wait: the oldest ends");
        }
        Some(Held {
            shared,
            owner: self.owner.clone(),
            number: self.number,
            ended,
        })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            let mut links = shared.links();
            self.over.store(true, Ordering::Relaxed);
            if let Some(entries) = links.get_mut(&self.owner) {
                entries.retain(|entry| entry.number != self.number);
                if entries.is_empty() {
                    links.remove(&self.owner);
                }
            }
        }
    }
}

/// A place among the links that wait.
#[derive(Debug)]
pub(crate) struct Held {
    shared: Arc<Shared>,
    owner: String,
    number: u64,
    ended: oneshot::Receiver<()>,
}

impl Held {
    /// Ready once another link has taken the place.
    pub(crate) fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.ended.poll_unpin(cx).map(drop)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let left = self.shared.waiting().leave(&self.owner, self.number);
        drop(left);
    }
}

fn new_token() -> Result<ResumeToken, DeskError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| DeskError::Setup {
        message: format!("no random bytes: {error}"),
    })?;
    Ok(ResumeToken::from_bytes(bytes))
}

/// What `tunnel_proto::Config` takes.
const WINDOW: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(u16::MAX as u64));

/// Connections that wait until the link's task takes them. A sender waits for room, which comes with the task's next turn.
const ADOPTIONS: usize = 4;

/// How long a connection that is not taken may take to hear of it.
const DISMISS_TIME: Duration = Duration::from_secs(1);
