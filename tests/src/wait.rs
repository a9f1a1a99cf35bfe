//! Waits for a condition, never for a fixed time.

use std::time::{Duration, Instant};

use anyhow::bail;

/// How long a test waits for something that should take milliseconds. Generous, because all tests of a run share few cores.
pub const SOON: Duration = Duration::from_secs(15);

/// Checks `condition` every few milliseconds until it returns `Some`, for at most `within`.
///
/// # Errors
/// If the time is over; the message says `what` was awaited.
pub fn until<T>(what: &str, within: Duration, mut condition: impl FnMut() -> Option<T>) -> crate::Result<T> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        if start.elapsed() >= within {
            bail!("gave up after {within:?}: {what}");
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

/// Like [`until`], for a condition that can itself fail: its last error becomes the reason.
///
/// # Errors
/// If the time is over, with the last error of `attempt`.
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

/// Checks that `condition` holds for the whole of `during`.
///
/// # Errors
/// As soon as it does not; the message says `what` was expected to stay true.
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
