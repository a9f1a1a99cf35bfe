//! Calls into the app: none is made once its language has ended, which may be before the process does.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

/// How long the end of the language is held up by calls that are under way.
const PATIENCE: Duration = Duration::from_secs(2);

struct Calls {
    silent: bool,
    under_way: usize,
}

static CALLS: Mutex<Calls> = Mutex::new(Calls {
    silent: false,
    under_way: 0,
});
static RETURNED: Condvar = Condvar::new();

/// Runs what is code of the app. Nothing, not even dropping it, is done once the app is silent.
pub(crate) fn call<T>(code: impl FnOnce() -> T) -> Option<T> {
    {
        let mut calls = CALLS.lock().unwrap_or_else(PoisonError::into_inner);
        if calls.silent {
            std::mem::forget(code);
            return None;
        }
        calls.under_way += 1;
    }
    let _under_way = UnderWay;
    Some(code())
}

/// Work that the app's executor polls. Waking that executor runs code of the app as well: where a thread of ours still does so when
/// Python ends, Python ends that thread in a way that Rust makes an abort of.
pub(crate) async fn polled<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    poll_fn(|context| {
        let waker = Waker::from(Arc::new(Executor(context.waker().clone())));
        work.as_mut().poll(&mut Context::from_waker(&waker))
    })
    .await
}

/// What polls, in the app.
struct Executor(Waker);

impl Wake for Executor {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let waker = self.0.clone();
        call(move || waker.wake());
    }
}

struct UnderWay;

impl Drop for UnderWay {
    fn drop(&mut self) {
        CALLS.lock().unwrap_or_else(PoisonError::into_inner).under_way -= 1;
        RETURNED.notify_all();
    }
}

/// Makes no further callback in this process, to listeners, log sinks and whoever waits for a call alike, and waits for those that are under way, for two
/// seconds at most. For a language whose runtime ends before the process does.
#[uniffi::export]
pub fn silence() {
    let mut calls = CALLS.lock().unwrap_or_else(PoisonError::into_inner);
    calls.silent = true;
    let waited = RETURNED.wait_timeout_while(calls, PATIENCE, |calls| calls.under_way > 0);
    // A call that blocks for longer is left alone.
    drop(waited);
}
