//! Following a small file by its content.
//!
//! Contents are compared; neither time stamps nor notifications of the system are trusted: a file may be edited in
//! place, replaced by a rename, set back to an older time, or be on a network file system.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::sys::TOO_MANY_OPEN_FILES;

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
        let looked = looked.unwrap_or_else(|error| Err(io::Error::other(error)));
        looked.unwrap_or_else(|error| Self::failed(&error))
    }

    fn of(path: &Path, max_bytes: usize) -> io::Result<Self> {
        let mut content = Vec::new();
        std::fs::File::open(path)?
            .take(max_bytes as u64 + 1)
            .read_to_end(&mut content)?;
        Ok(if content.len() > max_bytes {
            Self::TooLarge
        } else {
            Self::Content(content)
        })
    }

    fn failed(error: &io::Error) -> Self {
        Self::Failed {
            kind: error.kind(),
            message: error.to_string(),
        }
    }
}

/// Whether this process or the system has nothing left to read a file with. That says nothing about the file.
fn is_shortage(error: &io::Error) -> bool {
    let too_many = |code| TOO_MANY_OPEN_FILES.contains(&code);
    error.kind() == io::ErrorKind::OutOfMemory || error.raw_os_error().is_some_and(too_many)
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

    /// Takes what a look gave. One for which descriptors or memory were missing is no look: what is in force stays.
    fn handle_look(&mut self, look: io::Result<Reading>) -> Option<Reading> {
        match look {
            Ok(reading) => self.handle_reading(reading),
            Err(error) if is_shortage(&error) => None,
            Err(error) => self.handle_reading(Reading::failed(&error)),
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
            let look = tokio::task::spawn_blocking(move || Reading::of(&path, max_bytes))
                .await
                .ok()?;
            if let Some(change) = self.settling.handle_look(look) {
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

    #[test]
    fn missing_descriptors_and_memory_change_nothing() {
        let mut settling = Settling::new(content("one"));
        let codes = TOO_MANY_OPEN_FILES;
        for code in codes.iter().chain(codes).chain(codes) {
            let shortage = io::Error::from_raw_os_error(*code);
            assert!(settling.handle_look(Err(shortage)).is_none(), "{code}");
        }
        // A change that happened meanwhile is seen afterwards, and so is a file that is gone.
        assert!(settling.handle_look(Ok(content("two"))).is_none());
        assert!(
            settling
                .handle_look(Err(io::Error::from_raw_os_error(codes[0])))
                .is_none()
        );
        assert!(settling.handle_look(Ok(content("two"))) == Some(content("two")));
        let gone = || Err(io::ErrorKind::NotFound.into());
        assert!(settling.handle_look(gone()).is_none());
        assert!(settling.handle_look(gone()).is_some());
    }
}
