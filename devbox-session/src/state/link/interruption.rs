//! A link that waits for another connection under it: its streams are there, and nothing moves.

use std::time::{Duration, Instant};

use crate::report::{Event, LinkState};
use crate::state::notices::Notices;

/// An interruption that is over sooner is not told: nobody has noticed it. `status` counts it.
const TOLD_AFTER: Duration = Duration::from_secs(1);

/// What is known of the interruptions of a link.
#[derive(Debug, Default)]
pub(super) struct Interruption {
    /// The one that goes on.
    current: Option<Current>,
    /// How often the provider's links went on after one.
    resumed: u64,
    /// How many of them were of the present link.
    of_link: u64,
}

#[derive(Debug)]
struct Current {
    since: Instant,
    /// When the link is given up.
    until: Instant,
    told: bool,
}

impl Interruption {
    /// There is a new link.
    pub(super) fn handle_connected(&mut self) {
        self.of_link = 0;
    }

    pub(super) fn handle_interrupted(&mut self, now: Instant, until: Instant) {
        let current = self.current.get_or_insert(Current {
            since: now,
            until,
            told: false,
        });
        current.until = until;
    }

    /// The link has gone on `resumes` times so far. Not every interruption is seen: one that is over at once may not be.
    pub(super) fn handle_resumed(
        &mut self,
        provider: &str,
        now: Instant,
        resumes: u64,
        notices: &mut Notices,
    ) {
        self.resumed += resumes.saturating_sub(self.of_link);
        self.of_link = resumes;
        if let Some(current) = self.current.take()
            && current.told
        {
            notices.push(Event::LinkResumed {
                provider: provider.to_owned(),
                away: now.saturating_duration_since(current.since),
            });
        }
    }

    /// The link is gone. Since when it carried nothing, if it was interrupted.
    pub(super) fn end(&mut self) -> Option<Instant> {
        self.current.take().map(|current| current.since)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let current = self.current.as_ref().filter(|current| !current.told)?;
        Some(current.since + TOLD_AFTER)
    }

    pub(super) fn handle_timeout(&mut self, provider: &str, now: Instant, notices: &mut Notices) {
        if let Some(current) = &mut self.current
            && now >= current.since + TOLD_AFTER
            && !std::mem::replace(&mut current.told, true)
        {
            notices.push(Event::LinkInterrupted {
                provider: provider.to_owned(),
                window: current.until.saturating_duration_since(current.since),
            });
        }
    }

    pub(super) fn state(&self) -> LinkState {
        match &self.current {
            None => LinkState::Up,
            Some(Current { since, until, .. }) => {
                let window = until.saturating_duration_since(*since).as_millis();
                LinkState::Interrupted {
                    window_ms: u64::try_from(window).unwrap_or(u64::MAX),
                }
            }
        }
    }

    pub(super) fn resumed(&self) -> u64 {
        self.resumed
    }
}
