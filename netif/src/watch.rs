//! Hears when the machine's network changes.

use std::fmt;
use std::time::{Duration, Instant};

use crate::Error;
use crate::sys::{self, Woken};

/// What comes within this time of the first news is one change: an interface that comes up brings an address and several routes.
const GATHER: Duration = Duration::from_millis(20);

/// What has changed. Never empty where [`Watch::wait`] returns it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// An address came or went, or became usable or useless.
    pub addresses: bool,
    /// A route came or went: the default route of another network, a tunnel's prefix.
    pub routes: bool,
    /// An interface came up or went down, with its cable or its radio.
    pub links: bool,
    /// The system told more than could be kept: anything may have changed.
    pub missed: bool,
}

impl Change {
    /// Whether nothing has changed.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (self.addresses, "addresses"),
            (self.routes, "routes"),
            (self.links, "links"),
            (self.missed, "more than the system could tell"),
        ];
        let mut comma = "";
        for (_, name) in parts.iter().filter(|(changed, _)| *changed) {
            write!(f, "{comma}{name}")?;
            comma = ", ";
        }
        Ok(())
    }
}

/// Hears from its making on when the machine's network changes: that of the network namespace of the thread that made it, where the
/// system has such.
///
/// What concerns the loopback interface alone is no change, and neither is what the system repeats: an address whose lifetime is
/// renewed, a neighbour that was found.
///
/// ```
/// use std::time::Duration;
///
/// use netif::watch::Watch;
///
/// # fn main() -> Result<(), netif::Error> {
/// let mut watch = Watch::new()?;
/// match watch.wait(Some(Duration::from_millis(10)))? {
///     Some(change) => println!("changed: {change}"),
///     None => println!("the network is as it was"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Watch {
    source: sys::Source,
    /// Somebody asked for an answer while there was a change to return.
    interrupted: bool,
}

impl Watch {
    /// Begins to watch.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the system is not known here, [`Error::System`] where it refuses.
    pub fn new() -> Result<Self, Error> {
        Ok(Self {
            source: sys::Source::open()?,
            interrupted: false,
        })
    }

    /// Waits for a change; `None` when none came within `timeout` (without one it waits for as long as it takes), or when
    /// [`Interrupter::interrupt`] was called. Changes within 20 ms are returned as one, so that there are never more than 50 a
    /// second.
    ///
    /// # Errors
    /// [`Error::System`]; nothing can be waited for after that.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<Option<Change>, Error> {
        if std::mem::take(&mut self.interrupted) {
            return Ok(None);
        }
        let mut change = Change::default();
        let mut until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut gathering = false;
        loop {
            let woken = self.source.wait(until, &mut change)?;
            let found = (!change.is_empty()).then_some(change);
            match woken {
                Woken::Interrupted => {
                    self.interrupted = found.is_some();
                    return Ok(found);
                }
                Woken::TimedOut => return Ok(found),
                Woken::Heard => {}
            }
            if found.is_some() && !std::mem::replace(&mut gathering, true) {
                until = Instant::now().checked_add(GATHER);
            }
            if until.is_some_and(|until| until <= Instant::now()) {
                return Ok(found);
            }
        }
    }

    /// What ends a [`wait`](Self::wait) from another thread.
    #[must_use]
    pub fn interrupter(&self) -> Interrupter {
        Interrupter(self.source.interrupter())
    }
}

/// Ends a [`Watch::wait`] from another thread. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Interrupter(sys::Interrupter);

impl Interrupter {
    /// Has the wait that is under way, or the next one, return without a change. Several calls before that count as one.
    pub fn interrupt(&self) {
        self.0.interrupt();
    }
}
