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
    Nudge,
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

    /// Says that the machine's network has changed, or that the machine has slept. Links that are up are checked within a second, and
    /// lost ones are made anew at once. Several in a row count as one.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn nudge(&self) {
        // A session that has ended has no links.
        drop(self.commands.send(Command::Nudge).await);
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
            missed: 0,
            handle: self.clone(),
        }
    }

    /// The session's state, now and after each settled batch of changes.
    pub fn changes(&self) -> Changes {
        Changes {
            revisions: self.revisions.clone(),
            handle: self.clone(),
            told: None,
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
    /// Events that were missed and not reported yet.
    missed: u64,
    handle: Handle,
}

impl Events {
    /// The next event; `None` when the session has ended. A reader that falls behind misses events and loses no state:
    /// it gets [`Event::Lagged`] with the state after them.
    ///
    /// # Cancel safety
    ///
    /// Safe: an [`Event::Lagged`] that was not returned comes with the next call.
    pub async fn next(&mut self) -> Option<Event> {
        use broadcast::error::{RecvError, TryRecvError};
        let receiver = self.receiver.as_mut()?;
        'missed: loop {
            if self.missed > 0 {
                // What is queued happened before the state that follows, and is in it.
                let queued = receiver.len();
                let status = self.handle.status().await;
                let mut missed = std::mem::take(&mut self.missed);
                if let Some(status) = status {
                    for _ in 0..queued {
                        match receiver.try_recv() {
                            Ok(_) => missed += 1,
                            Err(TryRecvError::Lagged(more)) => {
                                self.missed = missed + more;
                                continue 'missed;
                            }
                            Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                        }
                    }
                    let status = Box::new(status);
                    return Some(Event::Lagged { missed, status });
                }
            }
            match receiver.recv().await {
                Ok(event) => return Some(event),
                Err(RecvError::Closed) => return None,
                Err(RecvError::Lagged(missed)) => self.missed = missed,
            }
        }
    }
}

/// The state of a session, followed.
#[derive(Debug)]
pub struct Changes {
    revisions: watch::Receiver<u64>,
    handle: Handle,
    told: Option<u64>,
    last: Option<tokio::time::Instant>,
}

impl Changes {
    /// The state at once, then after each change; `None` when the session has ended. However much happens, reports are
    /// built for one follower at most every 50 ms, and the last one is always of the newest state.
    ///
    /// # Cancel safety
    ///
    /// Safe: a state that was not returned comes with the next call.
    pub async fn next(&mut self) -> Option<StatusReport> {
        if let Some(told) = self.told {
            self.revisions.wait_for(|revision| *revision != told).await.ok()?;
        }
        if let Some(last) = self.last {
            tokio::time::sleep_until(last + BETWEEN_REPORTS).await;
        }
        let revision = *self.revisions.borrow();
        let report = self.handle.status().await?;
        self.told = Some(revision);
        self.last = Some(tokio::time::Instant::now());
        Some(report)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::report::Identity;

    fn report() -> StatusReport {
        StatusReport {
            identity: Identity {
                session: "dev-1".to_owned(),
                pid: 1,
                helper_pid: None,
                hosts_file: None,
                started_at: 0,
            },
            providers: Vec::new(),
            ready: true,
            stopping: false,
            services: Vec::new(),
            taken: Vec::new(),
            clashes: Vec::new(),
            held: Vec::new(),
            put_back: Vec::new(),
            rejected: None,
            helper_awaited: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_is_cancelled_while_it_catches_up_still_gets_the_state() {
        let (commands, mut asked) = mpsc::channel(4);
        let (events, _) = broadcast::channel(2);
        let (_revision, revisions) = watch::channel(0);
        let mut reader = Handle::new(commands, events.downgrade(), revisions).events();
        for _ in 0..5 {
            events.send(Event::DescriptorsAvailable).unwrap();
        }
        // The session is busy: the state does not come in time.
        let cancelled = tokio::time::timeout(Duration::from_secs(1), reader.next()).await;
        assert!(cancelled.is_err(), "{cancelled:?}");
        let answering = tokio::spawn(async move {
            while let Some(command) = asked.recv().await {
                if let Command::Status(reply) = command {
                    // The one that was cancelled is gone.
                    drop(reply.send(Box::new(report())));
                }
            }
        });
        let lagged = reader.next().await;
        assert!(
            matches!(&lagged, Some(Event::Lagged { missed: 5, .. })),
            "{lagged:?}"
        );
        events.send(Event::DescriptorsAvailable).unwrap();
        assert_eq!(reader.next().await, Some(Event::DescriptorsAvailable));
        answering.abort();
    }
}
