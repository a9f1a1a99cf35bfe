//! Time as the caller tells it: the crate reads no clock.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// Seconds since the Unix epoch, as the caller tells them.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use ipalloc::Timestamp;
///
/// let noon = Timestamp::from_secs(1_700_000_000);
/// assert_eq!(noon.plus(Duration::from_secs(5)).since(noon), Duration::from_secs(5));
/// assert_eq!(noon.since(noon.plus(Duration::from_secs(5))), Duration::ZERO);
/// let _today = Timestamp::from(SystemTime::now());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// From seconds since the Unix epoch.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds)
    }

    /// Seconds since the Unix epoch.
    pub const fn as_secs(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero where it is not after it.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(self.0.saturating_sub(earlier.0))
    }

    /// The moment that lies `span` (in whole seconds) after this one.
    #[must_use]
    pub const fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span.as_secs()))
    }
}

impl From<SystemTime> for Timestamp {
    /// A time before the epoch is taken as the epoch.
    fn from(time: SystemTime) -> Self {
        Self(
            time.duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
        )
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
