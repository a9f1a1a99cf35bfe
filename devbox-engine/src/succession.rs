//! Whether another helper is asked for in place of one that has ended, and when.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

/// The helpers of one session, one after the other.
#[derive(Debug)]
pub(crate) enum Succession {
    /// The session starts each of them, and so few that one which dies of what the session asks for does not do so for ever.
    Own { ends: VecDeque<Instant> },
    /// The system starts them, for everybody: how often one is killed is not for a session to judge, but one that cannot be reached for
    /// long, or dies all the time, is no help.
    Installed {
        /// When the last one began to serve; `None` since it has ended.
        serves_since: Option<Instant>,
        /// When the first one ended of those that did not serve for long.
        unsteady_since: Option<Instant>,
        /// Before the next one is asked for.
        pause: Duration,
    },
}

/// Why no other helper is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GivenUp(Duration);

impl fmt::Display for GivenUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the helper has ended again and again within {} s",
            self.0.as_secs()
        )
    }
}

impl Succession {
    pub(crate) fn own() -> Self {
        Self::Own {
            ends: VecDeque::new(),
        }
    }

    pub(crate) fn installed(serves_since: Instant) -> Self {
        Self::Installed {
            serves_since: Some(serves_since),
            unsteady_since: None,
            pause: Duration::ZERO,
        }
    }

    /// A helper has ended, or could not be had. Returns how long to wait before another one is asked for.
    pub(crate) fn handle_end(&mut self, now: Instant) -> Result<Duration, GivenUp> {
        match self {
            Self::Own { ends } => {
                ends.retain(|end| now.duration_since(*end) < WITHIN);
                if ends.len() >= MAX_RESTARTS {
                    return Err(GivenUp(WITHIN));
                }
                ends.push_back(now);
                Ok(Duration::ZERO)
            }
            Self::Installed {
                serves_since,
                unsteady_since,
                pause,
            } => {
                let served = serves_since.take().map(|since| now.duration_since(since));
                if served.is_some_and(|served| served >= STEADY) {
                    *unsteady_since = None;
                    *pause = Duration::ZERO;
                }
                let since = *unsteady_since.get_or_insert(now);
                if now.duration_since(since) >= WITHIN {
                    return Err(GivenUp(WITHIN));
                }
                let next = (*pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
                Ok(std::mem::replace(pause, next))
            }
        }
    }

    /// Another one serves.
    pub(crate) fn handle_served(&mut self, now: Instant) {
        if let Self::Installed { serves_since, .. } = self {
            *serves_since = Some(now);
        }
    }
}

/// So many helpers of its own are started within [`WITHIN`].
const MAX_RESTARTS: usize = 3;
/// How long helpers may be unsteady.
const WITHIN: Duration = Duration::from_secs(60);
/// One that has served for so long is none of those that die at once.
const STEADY: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn helpers_of_its_own_are_started_three_times_a_minute() {
        let start = Instant::now();
        let mut own = Succession::own();
        for second in 0..3 {
            assert_eq!(own.handle_end(start + second * SECOND), Ok(Duration::ZERO));
        }
        assert_eq!(own.handle_end(start + 4 * SECOND), Err(GivenUp(WITHIN)));
        assert_eq!(own.handle_end(start + 61 * SECOND), Ok(Duration::ZERO));
    }

    #[test]
    fn an_installed_helper_may_be_killed_however_often() {
        let mut now = Instant::now();
        let mut installed = Succession::installed(now);
        // Many at once, and then each after it has served for a while.
        for _ in 0..10 {
            now += installed.handle_end(now).unwrap();
            installed.handle_served(now);
        }
        for _ in 0..1000 {
            now += STEADY;
            let pause = installed.handle_end(now).unwrap();
            assert_eq!(pause, Duration::ZERO);
            installed.handle_served(now);
        }
    }

    #[test]
    fn an_installed_helper_that_dies_all_the_time_is_waited_for_ever_longer_and_given_up_after_a_minute() {
        let start = Instant::now();
        let mut now = start;
        let mut installed = Succession::installed(now);
        let mut pauses = Vec::new();
        while let Ok(pause) = installed.handle_end(now) {
            pauses.push(pause);
            now += pause;
            installed.handle_served(now);
            // Less than what counts as steady.
            now += SECOND;
        }
        assert!(
            pauses.is_sorted() && pauses.last() == Some(&LONGEST_PAUSE),
            "{pauses:?}"
        );
        assert!(now - start >= WITHIN && now - start < WITHIN + LONGEST_PAUSE + SECOND);
        assert!(pauses.len() < 30, "{}", pauses.len());
    }

    #[test]
    fn an_installed_helper_that_cannot_be_reached_is_given_up_after_a_minute() {
        let start = Instant::now();
        let mut now = start + 100 * SECOND;
        let mut installed = Succession::installed(start);
        while let Ok(pause) = installed.handle_end(now) {
            now += pause + SECOND;
        }
        assert!(now - start >= 160 * SECOND && now - start < 167 * SECOND);
    }
}
