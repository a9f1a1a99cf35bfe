//! How others see and end a session that runs.

use std::time::Duration;

use service_catalog::Label;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::key::ProviderId;
use crate::report::{Event, StatusReport};
use crate::settings::StopReason;

/// Reports for one follower come no closer together than this, however much happens.
const BETWEEN_REPORTS: Duration = Duration::from_millis(50);

/// What is asked of a session.
#[derive(Debug)]
pub(crate) enum Command {
    Status(oneshot::Sender<Box<StatusReport>>),
    Stop(StopReason),
    Switch {
        provider: ProviderId,
        environment: Label,
        reply: oneshot::Sender<bool>,
    },
}

/// Asks things of a running session. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    events: broadcast::WeakSender<Event>,
    revisions: watch::Receiver<u64>,
}

impl Handle {
    pub(crate) fn new(
        commands: mpsc::Sender<Command>,
        events: broadcast::WeakSender<Event>,
        revisions: watch::Receiver<u64>,
    ) -> Self {
        Self {
            commands,
            events,
            revisions,
        }
    }

    /// The session's state; `None` when it has ended.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn status(&self) -> Option<StatusReport> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Status(reply)).await.ok()?;
        answer.await.ok().map(|report| *report)
    }

    /// Asks the session to end; [`Session::run`](crate::Session::run) returns once it has. The first reason counts. A
    /// second call, whoever makes it, means that neither connections nor effects that hang are waited for.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn stop(&self, reason: StopReason) {
        // A session that has ended already has what is asked for.
        drop(self.commands.send(Command::Stop(reason)).await);
    }

    /// Has a provider serve another environment: names, addresses and listeners of the one before go once the new
    /// catalog is there. `false` where there is no such provider, or no session any more.
    ///
    /// # Cancel safety
    ///
    /// Safe: a request that was taken is carried out.
    pub async fn switch_environment(&self, provider: ProviderId, environment: Label) -> bool {
        let (reply, answer) = oneshot::channel();
        let command = Command::Switch {
            provider,
            environment,
            reply,
        };
        self.commands.send(command).await.is_ok() && answer.await.unwrap_or(false)
    }

    /// What happens from here on.
    pub fn events(&self) -> Events {
        Events {
            receiver: self.events.upgrade().map(|events| events.subscribe()),
            handle: self.clone(),
        }
    }

    /// The session's state, now and after each settled batch of changes.
    pub fn changes(&self) -> Changes {
        let mut revisions = self.revisions.clone();
        revisions.mark_changed();
        Changes {
            revisions,
            handle: self.clone(),
            last: None,
        }
    }

    /// Resolves when the session has ended and everything is undone.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn ended(&self) {
        let mut revisions = self.revisions.clone();
        while revisions.changed().await.is_ok() {}
    }
}

/// The events of a session, from the moment at which they were asked for.
#[derive(Debug)]
pub struct Events {
    receiver: Option<broadcast::Receiver<Event>>,
    handle: Handle,
}

impl Events {
    /// The next event; `None` when the session has ended. A reader that falls behind misses events and loses no state:
    /// it gets [`Event::Lagged`] with the state after them.
    ///
    /// # Cancel safety
    ///
    /// Safe, but for [`Event::Lagged`], which comes again with a newer state.
    pub async fn next(&mut self) -> Option<Event> {
        use broadcast::error::RecvError;
        let receiver = self.receiver.as_mut()?;
        match receiver.recv().await {
            Ok(event) => Some(event),
            Err(RecvError::Closed) => None,
            Err(RecvError::Lagged(missed)) => {
                // What is queued happened before the state that follows, and is in it.
                let queued = receiver.len();
                match self.handle.status().await {
                    Some(status) => {
                        let mut skipped = 0;
                        while skipped < queued && receiver.try_recv().is_ok() {
                            skipped += 1;
                        }
                        Some(Event::Lagged {
                            missed: missed + skipped as u64,
                            status: Box::new(status),
                        })
                    }
                    None => Box::pin(self.next()).await,
                }
            }
        }
    }
}

/// The state of a session, followed.
#[derive(Debug)]
pub struct Changes {
    revisions: watch::Receiver<u64>,
    handle: Handle,
    last: Option<tokio::time::Instant>,
}

impl Changes {
    /// The state at once, then after each change; `None` when the session has ended. However much happens, reports are
    /// built for one follower at most every 50 ms, and the last one is always of the newest state.
    ///
    /// # Cancel safety
    ///
    /// A report that was not returned comes with the next change.
    pub async fn next(&mut self) -> Option<StatusReport> {
        self.revisions.changed().await.ok()?;
        if let Some(last) = self.last {
            tokio::time::sleep_until(last + BETWEEN_REPORTS).await;
        }
        self.revisions.mark_unchanged();
        let report = self.handle.status().await;
        self.last = Some(tokio::time::Instant::now());
        report
    }
}
