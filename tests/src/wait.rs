//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant};

use anyhow::bail;

/// How long a test waits for something that is expected to take milliseconds: generous, because two cores are shared by
/// all tests of a run.
pub const SOON: Duration = Duration::from_secs(15);

/// Asks `condition` every few milliseconds until it answers `Some`, for at most `within`.
///
/// # Errors
/// When the time is over: the message says `what` was waited for.
pub fn until<T>(what: &str, within: Duration, mut condition: impl FnMut() -> Option<T>) -> crate::Result<T> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        if start.elapsed() >= within {
            bail!("waited {within:?} in vain: {what}");
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

/// Like [`until`], for a condition that can itself fail: its last error becomes the reason.
///
/// # Errors
/// When the time is over, with what `attempt` said last.
pub fn until_ok<T>(
    what: &str,
    within: Duration,
    mut attempt: impl FnMut() -> crate::Result<T>,
) -> crate::Result<T> {
    let mut last = None;
    let done = until(what, within, || match attempt() {
        Ok(value) => Some(value),
        Err(error) => {
            last = Some(error);
            None
        }
    });
    match (done, last) {
        (Err(timeout), Some(reason)) => Err(reason.context(timeout)),
        (result, _) => result,
    }
}

/// Checks that `condition` holds all through `during`.
///
/// # Errors
/// As soon as it does not: the message says `what` was expected to stay.
pub fn stays(what: &str, during: Duration, mut condition: impl FnMut() -> bool) -> crate::Result {
    let start = Instant::now();
    while start.elapsed() < during {
        if !condition() {
            bail!("after {:?} no longer true: {what}", start.elapsed());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
