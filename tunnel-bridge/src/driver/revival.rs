//! How a link whose connection was lost gets another one: the client makes it, the server is given it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Sleep;
use tunnel_proto::{Connection, NotResumedReason, ResumeToken};

use crate::resume::desk::{Held, Registration};
use crate::resume::{ATTEMPT_TIME, LinkStatus, Redial, RedialError, handshake};
use crate::{Carrier, LinkEnd};

/// The pause after the first attempt that failed, and the longest one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A connection that was lost within this time after the link was taken up on it is no reason for another one at once.
const SHORT_LIFE: Duration = Duration::from_secs(1);

/// An attempt of that age may wait for a network that is gone. A younger one goes on: whoever asks for others all the time would get none.
const STALE_AFTER: Duration = Duration::from_secs(1);

/// What becomes of a link without a connection.
pub(super) enum Revival {
    /// It is over.
    Never,
    /// The client makes another connection.
    Client(Redialing),
    /// The client comes back with another one.
    Server(Awaiting),
}

/// A connection to go on with.
pub(crate) struct Fresh {
    pub(crate) carrier: Box<dyn Carrier>,
    /// How many of this end's bytes the other end has.
    pub(crate) peer_received: u64,
    /// What came on it already, of the link.
    pub(crate) rest: Bytes,
    /// At the server: who brought it, and waits for the answer to the client.
    pub(crate) adopted: Option<oneshot::Sender<Answer>>,
}

/// What the driver says to a connection that it is given: taken, or not, and then whoever brought it has it back.
pub(crate) type Answer = Result<(), (NotResumedReason, Box<dyn Carrier>)>;

/// A connection that asks for a link at the server.
pub(crate) struct Adopt {
    pub(crate) carrier: Box<dyn Carrier>,
    pub(crate) peer_received: u64,
    pub(crate) rest: Bytes,
    pub(crate) answer: oneshot::Sender<Answer>,
}

/// Whether the link has a connection, as its owners see it.
pub(super) struct Standing {
    status: watch::Sender<LinkStatus>,
    resumes: u64,
    /// How the connection was lost that the link is without.
    pub(super) loss: Option<LinkEnd>,
}

impl Standing {
    pub(super) fn new() -> (Standing, watch::Receiver<LinkStatus>) {
        let (status, watched) = watch::channel(LinkStatus::Up { resumes: 0 });
        let standing = Standing {
            status,
            resumes: 0,
            loss: None,
        };
        (standing, watched)
    }

    pub(super) fn detached(&mut self, loss: LinkEnd, until: Instant) {
        let resumes = self.resumes;
        tracing::debug!(%loss, resumes, "the link is without a connection");
        self.loss = Some(loss);
        self.status.send_replace(LinkStatus::Detached {
            since: tokio::time::Instant::now(),
            until: until.into(),
            resumes,
        });
    }

    pub(super) fn up_again(&mut self) {
        self.resumes += 1;
        self.loss = None;
        let resumes = self.resumes;
        tracing::debug!(resumes, "the link goes on over another connection");
        self.status.send_replace(LinkStatus::Up { resumes });
    }
}

impl Revival {
    /// Whether links like this one can be taken up again at all.
    pub(super) const fn is_possible(&self) -> bool {
        !matches!(self, Revival::Never)
    }

    /// The connection is gone. `false` where there is no room for a link that waits.
    ///
    /// `waiting` is what the link holds in bytes beside what it keeps for sending again.
    pub(super) fn begin(
        &mut self,
        connection: &Connection,
        loss: &LinkEnd,
        waiting: usize,
        now: Instant,
    ) -> bool {
        match self {
            Revival::Never => false,
            Revival::Client(redialing) => redialing.begin(connection, now),
            Revival::Server(awaiting) => awaiting.begin(connection, loss, waiting),
        }
    }

    /// Whatever was tried is tried anew, without a pause, unless that has only just begun.
    pub(super) fn hurry(&mut self, now: Instant) {
        if let Revival::Client(redialing) = self {
            redialing.pause = None;
            let begun = redialing.attempt.as_ref().map(|&(begun, _)| begun);
            if begun.is_some_and(|begun| now.saturating_duration_since(begun) >= STALE_AFTER) {
                redialing.attempt = None;
            }
            redialing.next_pause = FIRST_PAUSE;
        }
    }

    /// There is a connection again.
    pub(super) fn end(&mut self, connection: &Connection, now: Instant) {
        match self {
            Revival::Never => {}
            Revival::Client(redialing) => {
                redialing.asked_for = None;
                redialing.trouble.send_replace(None);
                redialing.taken_up = Some((now, connection.received_bytes()));
            }
            Revival::Server(awaiting) => awaiting.held = None,
        }
    }

    /// Another connection; the link's end where none will come.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Fresh, LinkEnd>> {
        match self {
            Revival::Never => Poll::Pending,
            Revival::Client(redialing) => redialing.poll(cx),
            Revival::Server(awaiting) => awaiting.poll(cx),
        }
    }
}

pub(super) struct Redialing {
    redial: Arc<dyn Redial>,
    /// While the link is without a connection: its token, and how many bytes of it have come.
    asked_for: Option<(ResumeToken, u64)>,
    /// What is under way, and since when.
    attempt: Option<(Instant, BoxFuture<'static, Result<Fresh, RedialError>>)>,
    pause: Option<Pin<Box<Sleep>>>,
    next_pause: Duration,
    /// When the link was taken up last, and how many bytes of it had come by then.
    taken_up: Option<(Instant, u64)>,
    /// Why the last attempt failed.
    trouble: watch::Sender<Option<Arc<str>>>,
}

impl Redialing {
    /// With what the link's owners see of it: why the last attempt failed.
    pub(super) fn new(redial: Arc<dyn Redial>) -> (Redialing, watch::Receiver<Option<Arc<str>>>) {
        let (trouble, seen) = watch::channel(None);
        let redialing = Redialing {
            redial,
            asked_for: None,
            attempt: None,
            pause: None,
            next_pause: FIRST_PAUSE,
            taken_up: None,
            trouble,
        };
        (redialing, seen)
    }
}

impl Redialing {
    /// The first attempt is made at once, unless the last connection was lost again right away: then it waits, and for longer each time
    /// that nothing came on it.
    fn begin(&mut self, connection: &Connection, now: Instant) -> bool {
        let received = connection.received_bytes();
        self.asked_for = connection.resume_token().map(|token| (token, received));
        self.attempt = None;
        let short_lived = self
            .taken_up
            .filter(|&(at, _)| now.saturating_duration_since(at) < SHORT_LIFE);
        if short_lived.is_none_or(|(_, before)| received > before) {
            self.next_pause = FIRST_PAUSE;
        }
        self.pause = None;
        if short_lived.is_some() {
            self.wait();
        }
        self.asked_for.is_some()
    }

    fn wait(&mut self) {
        let pause = self.next_pause.mul_f64(0.5 + fastrand::f64()).min(LONGEST_PAUSE);
        self.next_pause = (self.next_pause * 2).min(LONGEST_PAUSE);
        self.pause = Some(Box::pin(tokio::time::sleep(pause)));
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Fresh, LinkEnd>> {
        let Some((token, received)) = self.asked_for else {
            return Poll::Pending;
        };
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            let redial = &self.redial;
            let (_, attempt) = self.attempt.get_or_insert_with(|| {
                let attempt = attempt(Arc::clone(redial), token, received);
                (super::clock(), attempt.boxed())
            });
            let outcome = ready!(attempt.poll_unpin(cx));
            self.attempt = None;
            match outcome {
                Ok(fresh) => return Poll::Ready(Ok(fresh)),
                Err(RedialError::Final { end }) => return Poll::Ready(Err(end)),
                Err(RedialError::Later { message }) => {
                    tracing::debug!(message, "no connection yet");
                    self.trouble.send_replace(Some(message.into()));
                    self.wait();
                }
            }
        }
    }
}

/// Connects, and asks for the link.
async fn attempt(redial: Arc<dyn Redial>, token: ResumeToken, received: u64) -> Result<Fresh, RedialError> {
    let attempt = async {
        let carrier = redial.redial().await?;
        handshake::ask(carrier, token, received).await
    };
    tokio::time::timeout(ATTEMPT_TIME, attempt)
        .await
        .unwrap_or_else(|_| {
            Err(RedialError::Later {
                message: format!("no answer within {} s", ATTEMPT_TIME.as_secs()),
            })
        })
}

/// The server's side.
pub(super) struct Awaiting {
    adopted: mpsc::Receiver<Adopt>,
    registration: Registration,
    /// Its place among the links that wait, and how it ends if it loses that.
    held: Option<(Held, LinkEnd)>,
}

impl Awaiting {
    pub(super) const fn new(adopted: mpsc::Receiver<Adopt>, registration: Registration) -> Awaiting {
        Awaiting {
            adopted,
            registration,
            held: None,
        }
    }

    fn begin(&mut self, connection: &Connection, loss: &LinkEnd, waiting: usize) -> bool {
        let bytes = connection.replay_len() + waiting;
        let held = self.registration.hold(bytes as u64);
        self.held = held.map(|held| (held, loss.clone()));
        self.held.is_some()
    }

    /// Also while there is a connection: the client may have lost it before this end has.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Fresh, LinkEnd>> {
        // Where the desk is gone nobody will come any more.
        if let Poll::Ready(Some(adopt)) = self.adopted.poll_recv(cx) {
            let Adopt {
                carrier,
                peer_received,
                rest,
                answer,
            } = adopt;
            return Poll::Ready(Ok(Fresh {
                carrier,
                peer_received,
                rest,
                adopted: Some(answer),
            }));
        }
        match &mut self.held {
            Some((held, loss)) => held.poll_ended(cx).map(|()| Err(loss.clone())),
            None => Poll::Pending,
        }
    }
}
