//! Whether a provider's catalog changes so often that what comes and goes is counted and not told one by one.

use std::time::{Duration, Instant};

use super::notices::Notices;
use crate::key::ProviderId;
use crate::report::Event;

/// So many changes in a row are told one by one.
const TOLD: u32 = 10;
/// After each pause of this length one more is.
const PAUSE: Duration = Duration::from_secs(10);
/// A catalog that does not change for so long is stable again.
const CALM: Duration = Duration::from_secs(10);

/// How often a provider's catalog takes services away, or calls itself stale or fresh. New services alone do not count: what
/// a catalog only adds is bounded by its size.
#[derive(Debug)]
pub(super) struct Churn {
    provider: ProviderId,
    name: String,
    /// When all changes so far would be done if there were one for each [`PAUSE`].
    paid_until: Instant,
    unstable: Option<Unstable>,
}

#[derive(Debug)]
struct Unstable {
    /// Those that were not told.
    changes: u64,
    last: Instant,
}

impl Churn {
    pub(super) fn new(provider: ProviderId, name: String, now: Instant) -> Self {
        Self {
            provider,
            name,
            paid_until: now,
            unstable: None,
        }
    }

    /// The catalog took services away, or its health changed.
    pub(super) fn handle_change(&mut self, now: Instant, notices: &mut Notices) {
        self.paid_until = self.paid_until.max(now) + PAUSE;
        if let Some(unstable) = &mut self.unstable {
            unstable.changes += 1;
            unstable.last = now;
        } else if self.paid_until > now + PAUSE * TOLD {
            self.unstable = Some(Unstable {
                changes: 1,
                last: now,
            });
            notices.push(Event::CatalogUnstable {
                provider: self.name.clone(),
            });
            notices.mute(self.provider);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.unstable.as_ref().map(|unstable| unstable.last + CALM)
    }

    /// Lets time pass.
    pub(super) fn handle_timeout(&mut self, now: Instant, notices: &mut Notices) {
        if self.poll_timeout().is_some_and(|calm| calm <= now)
            && let Some(unstable) = self.unstable.take()
        {
            self.paid_until = now;
            notices.unmute(self.provider);
            notices.push(Event::CatalogStable {
                provider: self.name.clone(),
                changes: unstable.changes,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(notices: &mut Notices) -> Vec<Event> {
        std::iter::from_fn(|| notices.poll_event()).collect()
    }

    #[test]
    fn what_flaps_is_told_once_and_once_more_when_it_is_calm() {
        let start = Instant::now();
        let mut churn = Churn::new(ProviderId(0), "gateway".to_owned(), start);
        let mut notices = Notices::default();
        let mut now = start;
        for _ in 0..500 {
            now += Duration::from_millis(100);
            churn.handle_timeout(now, &mut notices);
            churn.handle_change(now, &mut notices);
        }
        assert!(matches!(
            events(&mut notices)[..],
            [Event::CatalogUnstable { .. }]
        ));
        assert!(notices.is_muted(ProviderId(0)));
        churn.handle_timeout(now + CALM / 2, &mut notices);
        assert_eq!(events(&mut notices), []);
        assert_eq!(churn.poll_timeout(), Some(now + CALM));
        churn.handle_timeout(now + CALM, &mut notices);
        let told = events(&mut notices);
        let [Event::CatalogStable { changes, .. }] = told[..] else {
            panic!("{told:?}");
        };
        assert_eq!(changes, 500 - u64::from(TOLD), "those that were not told");
        assert_eq!(churn.poll_timeout(), None);
        assert!(!notices.is_muted(ProviderId(0)));
    }

    #[test]
    fn changes_now_and_then_are_all_told() {
        let mut now = Instant::now();
        let mut churn = Churn::new(ProviderId(0), "gateway".to_owned(), now);
        let mut notices = Notices::default();
        for _ in 0..1000 {
            now += PAUSE;
            churn.handle_change(now, &mut notices);
        }
        for _ in 1..TOLD {
            churn.handle_change(now, &mut notices);
        }
        assert_eq!(events(&mut notices), []);
    }
}
