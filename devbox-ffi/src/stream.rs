//! Events for other languages: read one by one, or told to a listener.

use std::sync::Arc;

use devbox_engine::Events;
use tokio::runtime::Runtime;
use tokio::sync::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::warn;

use crate::app;
use crate::event::Event;

/// A reader of what happens to a session.
#[derive(Debug, uniffi::Object)]
pub struct EventStream {
    events: Mutex<Events>,
    closed: CancellationToken,
}

impl EventStream {
    pub(crate) fn new(events: Events) -> Self {
        Self {
            events: Mutex::new(events),
            closed: CancellationToken::new(),
        }
    }
}

#[uniffi::export]
impl EventStream {
    /// What happened next; none once the session has ended and everything was told, and once the stream is closed. A call that is
    /// cancelled while it waits takes nothing with it.
    pub async fn next(&self) -> Option<Event> {
        // It waits for channels alone, so it needs no runtime around it, and no task whose result could get lost.
        let next = async { self.events.lock().await.next().await };
        let next = app::polled(self.closed.run_until_cancelled(next)).await;
        next.flatten().map(Event::from)
    }

    /// Ends the stream: calls of `next` that wait return at once.
    pub fn cancel(&self) {
        self.closed.cancel();
    }
}

/// Told what happens to a session.
#[uniffi::export(foreign)]
pub trait EventListener: Send + Sync {
    /// Something happened.
    fn on_event(&self, event: Event) -> Result<(), CallbackError>;

    /// The session has ended and everything was told. Not called where the subscription was closed.
    fn on_end(&self) -> Result<(), CallbackError>;
}

/// What a callback of the app threw.
#[derive(Debug, thiserror::Error, uniffi::Error)]
pub enum CallbackError {
    /// Anything.
    #[error("{reason}")]
    Thrown {
        /// Its text.
        reason: String,
    },
}

impl From<uniffi::UnexpectedUniFFICallbackError> for CallbackError {
    fn from(error: uniffi::UnexpectedUniFFICallbackError) -> Self {
        Self::Thrown { reason: error.reason }
    }
}

/// A listener's subscription. Dropping it ends it.
#[derive(Debug, uniffi::Object)]
pub struct Subscription {
    closed: CancellationToken,
    _dropped: DropGuard,
}

impl Subscription {
    pub(crate) fn start(
        runtime: &Runtime,
        mut events: Events,
        listener: Arc<dyn EventListener>,
    ) -> Arc<Self> {
        let closed = CancellationToken::new();
        let end = closed.clone();
        // It ends with the session or the subscription, whichever is first, and holds neither.
        runtime.spawn(async move {
            while let Some(event) = end.run_until_cancelled(events.next()).await {
                let ended = event.is_none();
                let listener = Arc::clone(&listener);
                // On a thread of its own, and the next one waits: the app may block, and may call the session.
                let told = tokio::task::spawn_blocking(move || {
                    app::call(move || match event {
                        Some(event) => listener.on_event(event.into()),
                        None => listener.on_end(),
                    })
                });
                match told.await {
                    Ok(Some(Err(error))) => warn!(%error, "an event listener threw"),
                    Err(error) => warn!(%error, "an event listener panicked"),
                    Ok(Some(Ok(())) | None) => {}
                }
                if ended {
                    break;
                }
            }
            // Letting go of the app's object runs code of the app as well.
            tokio::task::spawn_blocking(move || app::call(move || drop(listener)))
                .await
                .ok();
        });
        Arc::new(Self {
            closed: closed.clone(),
            _dropped: closed.drop_guard(),
        })
    }
}

#[uniffi::export]
impl Subscription {
    /// Ends it: nothing is told any more, but for a call that is under way.
    pub fn cancel(&self) {
        self.closed.cancel();
    }
}
