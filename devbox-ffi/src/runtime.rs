//! The one tokio runtime of the process, on which all sessions run.

use std::sync::{Mutex, OnceLock, PoisonError};

use tokio::runtime::{Builder, Runtime};
use tokio_util::task::AbortOnDropHandle;

use crate::app;
use crate::error::DevboxError;

/// A session, its link and its pumps share one thread. Callbacks into the app have threads of their own.
const WORKERS: usize = 1;

static RUNTIME: OnceLock<Runtime> = OnceLock::new();
/// Held by who builds it: a second one could not even be dropped where this is asked from asynchronous code.
static BUILDING: Mutex<()> = Mutex::new(());

pub(crate) fn runtime() -> Result<&'static Runtime, DevboxError> {
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let _building = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(WORKERS).thread_name("devbox").enable_all();
    let built = builder.build().map_err(|error| DevboxError::runtime(&error))?;
    Ok(RUNTIME.get_or_init(|| built))
}

/// Carries work out on the runtime, whoever polls. Dropping the future drops the work.
pub(crate) async fn on_runtime<T: Send + 'static>(
    work: impl Future<Output = Result<T, DevboxError>> + Send + 'static,
) -> Result<T, DevboxError> {
    let task = AbortOnDropHandle::new(runtime()?.spawn(work));
    app::polled(task).await.unwrap_or(Err(DevboxError::Crashed))
}
