//! Calls into the app: none is made once its language has ended, which may be before the process does.

use std::sync::{Condvar, Mutex, PoisonError};
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

struct UnderWay;

impl Drop for UnderWay {
    fn drop(&mut self) {
        CALLS.lock().unwrap_or_else(PoisonError::into_inner).under_way -= 1;
        RETURNED.notify_all();
    }
}

/// Makes no further callback in this process, to listeners and log sinks alike, and waits for those that are under way, for two
/// seconds at most. For a language whose runtime ends before the process does.
#[uniffi::export]
pub fn silence() {
    let mut calls = CALLS.lock().unwrap_or_else(PoisonError::into_inner);
    calls.silent = true;
    let waited = RETURNED.wait_timeout_while(calls, PATIENCE, |calls| calls.under_way > 0);
    // A call that blocks for longer is left alone.
    drop(waited);
}
