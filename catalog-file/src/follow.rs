//! Following a small file by its content.
//!
//! Contents are compared; neither time stamps nor notifications of the system are trusted: a file may be edited in
//! place, replaced by a rename, set back to an older time, or be on a network file system.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

/// What a look at a file gave. There is no `Debug`: it may be a secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Reading {
    /// Its bytes.
    Content(Vec<u8>),
    /// It has more bytes than the limit.
    TooLarge,
    /// It cannot be read.
    Failed {
        /// The kind of the error.
        kind: io::ErrorKind,
        /// What the system says.
        message: String,
    },
}

impl Reading {
    /// Looks at a file, off the async threads: it may be on a network file system.
    ///
    /// # Cancel safety
    /// Safe: dropped, the look is finished for nobody.
    pub async fn now(path: &Path, max_bytes: usize) -> Self {
        let path = path.to_owned();
        let looked = tokio::task::spawn_blocking(move || Self::of(&path, max_bytes)).await;
        looked.unwrap_or_else(|error| Self::Failed {
            kind: io::ErrorKind::Other,
            message: error.to_string(),
        })
    }

    fn of(path: &Path, max_bytes: usize) -> Self {
        let mut content = Vec::new();
        let read = std::fs::File::open(path)
            .and_then(|file| file.take(max_bytes as u64 + 1).read_to_end(&mut content));
        match read {
            Ok(_) if content.len() > max_bytes => Self::TooLarge,
            Ok(_) => Self::Content(content),
            Err(error) => Self::Failed {
                kind: error.kind(),
                message: error.to_string(),
            },
        }
    }
}

/// Decides when a file has changed: when two looks in a row agree with each other and not with what is in force. So
/// neither a half-written file nor the moment between a removal and a rename is taken for a change.
struct Settling {
    in_force: Reading,
    last: Reading,
}

impl Settling {
    fn new(in_force: Reading) -> Self {
        Self {
            last: in_force.clone(),
            in_force,
        }
    }

    fn handle_reading(&mut self, reading: Reading) -> Option<Reading> {
        let settled = reading == self.last;
        self.last = reading;
        (settled && self.last != self.in_force).then(|| {
            self.in_force.clone_from(&self.last);
            self.last.clone()
        })
    }
}

/// Looks at a file at intervals and tells its changes.
pub struct Follower {
    path: PathBuf,
    max_bytes: usize,
    settling: Settling,
    ticks: Interval,
}

impl Follower {
    /// Follows `path`, of which at most `max_bytes` are read and `in_force` is known, by a look each `every` (at least
    /// 1 ms).
    #[must_use]
    pub fn new(path: PathBuf, max_bytes: usize, in_force: Reading, every: Duration) -> Self {
        let mut ticks = interval(every.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            path,
            max_bytes,
            settling: Settling::new(in_force),
            ticks,
        }
    }

    /// Waits for a change that two looks in a row agree on; `None` when the runtime is shutting down.
    ///
    /// # Cancel safety
    /// Safe: a look that was not finished is made again.
    pub async fn next_change(&mut self) -> Option<Reading> {
        loop {
            self.ticks.tick().await;
            let (path, max_bytes) = (self.path.clone(), self.max_bytes);
            let reading = tokio::task::spawn_blocking(move || Reading::of(&path, max_bytes))
                .await
                .ok()?;
            if let Some(change) = self.settling.handle_reading(reading) {
                return Some(change);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(text: &str) -> Reading {
        Reading::Content(text.into())
    }

    fn missing() -> Reading {
        Reading::Failed {
            kind: io::ErrorKind::NotFound,
            message: "no such file".into(),
        }
    }

    #[test]
    fn a_change_is_told_once_and_only_when_it_stays() {
        let mut settling = Settling::new(content("one"));
        let mut told = Vec::new();
        for reading in [
            content("one"),
            content("tw"), // half-written
            content("two"),
            content("two"),
            content("two"),
            missing(), // between removal and rename
            content("two"),
            missing(),
            missing(),
            content("two"),
            content("two"),
            Reading::TooLarge,
            Reading::TooLarge,
        ] {
            told.extend(settling.handle_reading(reading));
        }
        let expected = [content("two"), missing(), content("two"), Reading::TooLarge];
        assert!(told == expected, "{} changes", told.len());
    }
}
