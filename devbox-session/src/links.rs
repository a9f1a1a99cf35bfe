//! The futures of all links: one that connects or one that waits for the next update, for each provider.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use devbox_provider::{ConnectError, Connection, Goodbye, Provider, Status, Wanted};
use futures_util::future::BoxFuture;
use service_catalog::{Label, Source, SourceError, Update};
use tokio::sync::watch;
use tunnel_bridge::Dialer;

use crate::key::ProviderId;
use crate::route::{CurrentRoad, Road};

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
    road: watch::Sender<CurrentRoad>,
}

enum Phase {
    Idle,
    Connecting(BoxFuture<'static, Result<Connection, ConnectError>>),
    Up {
        next: NextUpdate,
        dialer: Arc<dyn Dialer>,
        goodbye: Goodbye,
    },
}

type NextUpdate = BoxFuture<'static, (Box<dyn Source>, Result<Update, SourceError>)>;

/// What happened on a link.
pub(crate) enum Happened {
    Connected,
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
            road: watch::channel(None).0,
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

    pub(crate) fn connect(&mut self, provider: ProviderId, environment: Option<Label>) {
        if let Some(slot) = self.slots.get_mut(provider.0) {
            slot.road.send_replace(None);
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
            && let Phase::Up { dialer, .. } = &slot.phase
        {
            slot.road.send_replace(Some(Arc::new(Road {
                environment,
                dialer: Arc::clone(dialer),
                generation: slot.generation,
            })));
        }
    }

    /// Lets go of a provider's link, and hands out its goodbye.
    pub(crate) fn disconnect(&mut self, provider: ProviderId) -> Option<Goodbye> {
        let slot = self.slots.get_mut(provider.0)?;
        slot.road.send_replace(None);
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
                    } = connection;
                    self.phase = Phase::Up {
                        next: next_update(source),
                        dialer,
                        goodbye,
                    };
                    Poll::Ready(Happened::Connected)
                }
                Poll::Ready(Err(error)) => {
                    self.phase = Phase::Idle;
                    Poll::Ready(Happened::Failed(error))
                }
            },
            Phase::Up { next, .. } => match next.as_mut().poll(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready((source, Ok(update))) => {
                    *next = next_update(source);
                    Poll::Ready(Happened::Updated(update))
                }
                Poll::Ready((_, Err(error))) => {
                    // Streams that are open hold the link for as long as the far side serves them; nothing new is
                    // dialed over it.
                    self.road.send_replace(None);
                    self.phase = Phase::Idle;
                    Poll::Ready(Happened::Lost(error))
                }
            },
        }
    }
}

fn next_update(mut source: Box<dyn Source>) -> NextUpdate {
    Box::pin(async move {
        let update = source.next().await;
        (source, update)
    })
}
