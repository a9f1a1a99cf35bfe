use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::app;
use crate::error::DevboxError;

/// Cancels calls, for languages whose tasks cannot: a call that was given one ends with `Cancelled`, and its work is dropped.
///
/// One may be given to several calls, and cancelled from any thread.
#[derive(Debug, Default, uniffi::Object)]
pub struct Cancellation(CancellationToken);

#[uniffi::export]
impl Cancellation {
    /// One that is not cancelled.
    #[uniffi::constructor]
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Cancels all calls that have it, and those that are given it later.
    pub fn cancel(&self) {
        self.0.cancel();
    }

    /// Whether it was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
}

/// Waits for work unless it is cancelled before.
pub(crate) async fn unless_cancelled<T>(
    cancellation: Option<Arc<Cancellation>>,
    work: impl Future<Output = Result<T, DevboxError>>,
) -> Result<T, DevboxError> {
    let Some(cancellation) = cancellation else {
        return app::polled(work).await;
    };
    app::polled(async {
        tokio::select! {
            biased;
            () = cancellation.0.cancelled() => Err(DevboxError::Cancelled),
            done = work => done,
        }
    })
    .await
}

/// Waits for the end that somebody tells, unless that is cancelled before.
pub(crate) async fn end_of<T: Clone>(
    mut ended: watch::Receiver<Option<Result<T, DevboxError>>>,
    cancellation: Option<Arc<Cancellation>>,
) -> Result<T, DevboxError> {
    unless_cancelled(cancellation, async move {
        match ended.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or(Err(DevboxError::Crashed)),
            Err(_) => Err(DevboxError::Crashed),
        }
    })
    .await
}
