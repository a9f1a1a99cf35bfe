//! One writer at a time.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::options::FileOptions;
use super::sys;
use super::target::Target;
use crate::error::Error;

/// The right to write a hosts file; given back, and its file removed, when dropped.
pub(super) struct Lock {
    /// Kept for its drop.
    _held: sys::HeldLock,
    /// A directory that only root or the file's owner can use, where one is used for the lock.
    pub(super) private_directory: Option<PathBuf>,
}

impl Lock {
    pub(super) fn path(target: &Target, options: &FileOptions) -> PathBuf {
        sys::LockPlace::of(target, options).shown(target)
    }

    /// Waits for the lock: a first attempt and three retries, each waiting twice as long as the one before.
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
                // Not all at the same time.
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
