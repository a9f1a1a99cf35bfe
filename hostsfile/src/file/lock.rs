//! One writer at a time.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::options::FileOptions;
use super::sys;
use super::target::Target;
use crate::error::Error;

/// The right to write a hosts file. Dropping it releases the lock and removes its file.
pub(super) struct Lock {
    /// Kept only for its `Drop`.
    _held: sys::HeldLock,
    /// The lock's directory, if it has one of its own, which only root or the file's owner can use.
    pub(super) private_directory: Option<PathBuf>,
}

impl Lock {
    pub(super) fn path(target: &Target, options: &FileOptions) -> PathBuf {
        sys::LockPlace::of(target, options).shown(target)
    }

    /// Waits for the lock: tries once and retries three times, waiting twice as long each time.
    pub(super) fn take(target: &Target, options: &FileOptions) -> Result<Self, Error> {
        let began = Instant::now();
        let place = sys::LockPlace::of(target, options);
        let mut deadline = began;
        let mut wait = options.first_lock_wait;
        for _attempt in 0..=RETRIES {
            deadline += wait;
            wait *= 2;
            loop {
                if let Some(held) = place.try_take(target)? {
                    return Ok(Lock {
                        _held: held,
                        private_directory: place.private_directory(),
                    });
                }
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                // Jitter, so that waiting processes do not all retry at once.
                std::thread::sleep(left.min(Duration::from_micros(fastrand::u64(500..4000))));
            }
        }
        Err(Error::Locked {
            path: place.shown(target),
            waited: began.elapsed(),
        })
    }
}

const RETRIES: u32 = 3;
