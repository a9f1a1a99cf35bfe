//! The futures of all links: one that connects or one that waits for the next update, for each provider.

use std::fmt;
use std::future::{Future as _, pending, poll_fn, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use devbox_provider::{ConnectError, Connection, Goodbye, Provider, Status, Wanted};
use futures_util::future::BoxFuture;
use service_catalog::{Label, PendingUpdates, Source, SourceError, Update};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until};
use tunnel_bridge::resume::LinkStatus;
use tunnel_bridge::{Dialer, Link};

use crate::key::ProviderId;
use crate::route::{CurrentRoad, Road, Why};

/// Updates of one provider come no closer together than this in the long run; what arrives meanwhile is merged.
const BETWEEN_UPDATES: Duration = Duration::from_millis(100);
/// So many may come at once after a quiet time.
const UPDATES_AT_ONCE: u32 = 4;
/// So many are merged into one. What arrived over a link has an end before; a source in this process may have none.
const MERGED: usize = 1024;

/// The links of a session.
pub(crate) struct Links {
    slots: Vec<Slot>,
    /// The slot that is looked at first, so that a provider that never stops talking starves nobody.
    first: usize,
}

struct Slot {
    provider: Arc<dyn Provider>,
    generation: u64,
    phase: Phase,
    pace: Pace,
    road: watch::Sender<CurrentRoad>,
    /// Roads so far: each is told apart from the one before.
    roads: u64,
}

enum Phase {
    Idle,
    Connecting(BoxFuture<'static, Result<Connection, ConnectError>>),
    Up {
        next: NextUpdate,
        pending: Box<PendingUpdates>,
        dialer: Arc<dyn Dialer>,
        goodbye: Goodbye,
        /// The link under it, if there is one.
        link: Option<Box<Link>>,
        status: NextStatus,
        /// Where new connections may be dialed to.
        admitted: Option<Label>,
    },
}

/// The next status of a link; pending where there is none.
type NextStatus = BoxFuture<'static, (watch::Receiver<LinkStatus>, LinkStatus)>;

type NextUpdate = BoxFuture<'static, (Box<dyn Source>, Result<Update, SourceError>)>;

/// What happened on a link.
pub(crate) enum Happened {
    Connected,
    /// The link waits for another connection under it.
    Interrupted {
        until: std::time::Instant,
    },
    /// It goes on.
    Resumed {
        /// How many times it has since it was made.
        resumes: u64,
    },
    Failed(ConnectError),
    Updated(Update),
    Lost(SourceError),
}

impl Links {
    pub(crate) fn new(providers: Vec<Arc<dyn Provider>>) -> Self {
        let slots = providers.into_iter().map(|provider| Slot {
            provider,
            generation: 0,
            phase: Phase::Idle,
            pace: Pace::default(),
            road: watch::channel(CurrentRoad::Closed(Why::Unknown)).0,
            roads: 0,
        });
        Self {
            slots: slots.collect(),
            first: 0,
        }
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = ProviderId> + use<> {
        (0..self.slots.len()).map(ProviderId)
    }

    pub(crate) fn status(&self, provider: ProviderId) -> Option<Status> {
        self.slots.get(provider.0).map(|slot| slot.provider.status())
    }

    /// The road to a provider, as its listeners follow it.
    pub(crate) fn road(&self, provider: ProviderId) -> Option<watch::Receiver<CurrentRoad>> {
        self.slots.get(provider.0).map(|slot| slot.road.subscribe())
    }

    /// Whether a provider's link carries datagrams; nothing where it has none.
    pub(crate) fn carries_datagrams(&self, provider: ProviderId) -> Option<bool> {
        match &self.slots.get(provider.0)?.phase {
            Phase::Up { dialer, .. } => Some(dialer.carries_datagrams()),
            Phase::Idle | Phase::Connecting(_) => None,
        }
    }

    pub(crate) fn connect(&mut self, provider: ProviderId, environment: Option<Label>) {
        if let Some(slot) = self.slots.get_mut(provider.0) {
            slot.road.send_if_modified(|road| {
                let open = matches!(road, CurrentRoad::Open(_));
                if open {
                    *road = CurrentRoad::Closed(Why::Unknown);
                }
                open
            });
            slot.generation += 1;
            let wanted = Wanted {
                generation: slot.generation,
                environment,
            };
            let provider = Arc::clone(&slot.provider);
            slot.phase = Phase::Connecting(Box::pin(async move { provider.connect(wanted).await }));
        }
    }

    /// Lets new connections be dialed over a provider's link.
    pub(crate) fn admit(&mut self, provider: ProviderId, environment: Label) {
        if let Some(slot) = self.slots.get_mut(provider.0)
            && let Phase::Up { admitted, .. } = &mut slot.phase
        {
            *admitted = Some(environment);
            slot.open_road();
        }
    }

    /// Has a provider's link find out whether it still carries anything.
    pub(crate) fn check(&self, provider: ProviderId) {
        let slot = self.slots.get(provider.0);
        if let Some(Phase::Up { link: Some(link), .. }) = slot.map(|slot| &slot.phase) {
            link.check_now();
        }
    }

    /// Lets go of a provider's link, and hands out its goodbye.
    pub(crate) fn disconnect(&mut self, provider: ProviderId) -> Option<Goodbye> {
        let slot = self.slots.get_mut(provider.0)?;
        slot.road.send_replace(CurrentRoad::Closed(Why::Unknown));
        match std::mem::replace(&mut slot.phase, Phase::Idle) {
            Phase::Up { goodbye, .. } => Some(goodbye),
            Phase::Idle | Phase::Connecting(_) => None,
        }
    }

    /// Waits for the next thing to happen on any link.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn next(&mut self) -> (ProviderId, Happened) {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<(ProviderId, Happened)> {
        let count = self.slots.len();
        for index in (self.first..count).chain(0..self.first) {
            if let Some(slot) = self.slots.get_mut(index)
                && let Poll::Ready(happened) = slot.poll(cx)
            {
                self.first = index + 1;
                return Poll::Ready((ProviderId(index), happened));
            }
        }
        Poll::Pending
    }
}

impl Slot {
    /// Lets new connections be dialed where they may be.
    fn open_road(&mut self) {
        if let Phase::Up {
            dialer,
            admitted: Some(environment),
            link,
            ..
        } = &self.phase
            && link.as_ref().is_none_or(|link| link.status().is_up())
        {
            self.roads += 1;
            self.road.send_replace(CurrentRoad::Open(Arc::new(Road {
                environment: environment.clone(),
                dialer: Arc::clone(dialer),
                generation: self.roads,
            })));
        }
    }

    fn close_road(&self, error: &dyn fmt::Display) {
        let why = Why::Failed(error.to_string().into());
        self.road.send_replace(CurrentRoad::Closed(why));
    }

    /// While a link waits for another connection, new ones are held: dialed over it, they could not go to another link.
    fn handle_status(&mut self, status: LinkStatus) -> Happened {
        match status {
            LinkStatus::Detached { until, .. } => {
                let trouble = match &self.phase {
                    Phase::Up { link: Some(link), .. } => Why::Interrupted(link.watch_trouble()),
                    _ => Why::Unknown,
                };
                self.road.send_replace(CurrentRoad::Closed(trouble));
                Happened::Interrupted {
                    until: until.into_std(),
                }
            }
            status => {
                self.open_road();
                Happened::Resumed {
                    resumes: status.resumes(),
                }
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Happened> {
        match &mut self.phase {
            Phase::Idle => Poll::Pending,
            Phase::Connecting(connecting) => match connecting.as_mut().poll(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok(connection)) => {
                    let Connection {
                        source,
                        dialer,
                        goodbye,
                        link,
                    } = connection;
                    self.phase = Phase::Up {
                        next: next_update(source),
                        pending: Box::default(),
                        dialer,
                        goodbye,
                        status: link.as_ref().map_or_else(
                            || Box::pin(pending()) as _,
                            |link| {
                                let mut statuses = link.watch_status();
                                // What it was so far is no news, unless it is interrupted.
                                if !link.status().is_up() {
                                    statuses.mark_changed();
                                }
                                next_status(statuses)
                            },
                        ),
                        link: link.map(Box::new),
                        admitted: None,
                    };
                    Poll::Ready(Happened::Connected)
                }
                Poll::Ready(Err(error)) => {
                    self.phase = Phase::Idle;
                    self.close_road(&error);
                    Poll::Ready(Happened::Failed(error))
                }
            },
            Phase::Up {
                next,
                pending,
                status,
                ..
            } => {
                if let Poll::Ready((statuses, found)) = status.as_mut().poll(cx) {
                    *status = next_status(statuses);
                    return Poll::Ready(self.handle_status(found));
                }
                // Before it is time nothing is read either: a far side that talks without end runs out of credit.
                ready!(self.pace.poll(cx));
                for _ in 0..MERGED {
                    match next.as_mut().poll(cx) {
                        Poll::Pending => {
                            return match pending.poll_update() {
                                Some(update) => Poll::Ready(self.pace.update(update)),
                                None => Poll::Pending,
                            };
                        }
                        Poll::Ready((source, Ok(update))) => {
                            pending.handle_update(update);
                            *next = next_update(source);
                        }
                        Poll::Ready((source, Err(error))) => {
                            // What came before the end counts.
                            if let Some(update) = pending.poll_update() {
                                *next = Box::pin(ready((source, Err(error))));
                                return Poll::Ready(self.pace.update(update));
                            }
                            // Streams that are open hold the link for as long as the far side serves them; nothing new
                            // is dialed over it.
                            self.close_road(&error);
                            self.phase = Phase::Idle;
                            return Poll::Ready(Happened::Lost(error));
                        }
                    }
                }
                match pending.poll_update() {
                    Some(update) => Poll::Ready(self.pace.update(update)),
                    None => {
                        cx.waker().wake_by_ref();
                        Poll::Pending
                    }
                }
            }
        }
    }
}

fn next_status(mut statuses: watch::Receiver<LinkStatus>) -> NextStatus {
    Box::pin(async move {
        if statuses.changed().await.is_err() {
            // The link is gone, which its source tells.
            pending::<()>().await;
        }
        let found = *statuses.borrow_and_update();
        (statuses, found)
    })
}

/// When the next update of a provider is taken: at once where it is quiet, at a pace where it is not.
#[derive(Default)]
struct Pace {
    /// When the updates so far would be done if there were one for each [`BETWEEN_UPDATES`].
    paid_until: Option<Instant>,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    /// Ready when the next update may be taken.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(waiting) = &mut self.waiting {
            ready!(waiting.as_mut().poll(cx));
            self.waiting = None;
        }
        Poll::Ready(())
    }

    /// Takes one.
    fn update(&mut self, update: Update) -> Happened {
        let now = Instant::now();
        let paid_until = self.paid_until.map_or(now, |until| until.max(now)) + BETWEEN_UPDATES;
        self.paid_until = Some(paid_until);
        // What is ahead of its time by more than the others that may come at once.
        let next = paid_until - BETWEEN_UPDATES * (UPDATES_AT_ONCE - 1);
        if next > now {
            self.waiting = Some(Box::pin(sleep_until(next)));
        }
        Happened::Updated(update)
    }
}

fn next_update(mut source: Box<dyn Source>) -> NextUpdate {
    Box::pin(async move {
        let update = source.next().await;
        (source, update)
    })
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use service_catalog::Catalog;
    use tunnel_bridge::direct::TcpDialer;

    use super::*;

    /// Says `empty` and `full` in turns without a pause, `left` times.
    #[derive(Clone)]
    struct Flapping {
        left: usize,
    }

    #[async_trait]
    impl Provider for Flapping {
        async fn connect(&self, _wanted: Wanted) -> Result<Connection, ConnectError> {
            Ok(Connection::new(self.clone(), Arc::new(TcpDialer::default())))
        }

        fn status(&self) -> Status {
            Status::new("test", "flapping")
        }
    }

    #[async_trait]
    impl Source for Flapping {
        async fn next(&mut self) -> Result<Update, SourceError> {
            self.left = self.left.checked_sub(1).ok_or(SourceError::Ended)?;
            let environment = if self.left.is_multiple_of(2) {
                "even"
            } else {
                "odd"
            };
            Ok(Update::Snapshot(Catalog::empty(environment.parse().unwrap())))
        }
    }

    async fn links(left: usize) -> Links {
        let mut links = Links::new(vec![Arc::new(Flapping { left })]);
        links.connect(ProviderId(0), None);
        assert!(matches!(links.next().await.1, Happened::Connected));
        links
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_never_pauses_is_taken_at_a_pace() {
        let mut links = links(usize::MAX).await;
        let start = Instant::now();
        let mut taken = 0;
        while start.elapsed() < Duration::from_secs(10) {
            assert!(matches!(links.next().await.1, Happened::Updated(_)));
            taken += 1;
        }
        assert!((100..=104).contains(&taken), "{taken}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_update_before_the_end_is_taken_and_none_waits_where_it_is_quiet() {
        let mut links = links(1001).await;
        let start = Instant::now();
        let (_, happened) = links.next().await;
        let Happened::Updated(Update::Snapshot(catalog)) = happened else {
            panic!("an update comes first");
        };
        assert_eq!(catalog.environment.as_str(), "even", "the last of them");
        assert!(matches!(links.next().await.1, Happened::Lost(SourceError::Ended)));
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
