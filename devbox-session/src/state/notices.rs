//! What to tell, in order, and what was told already.

use std::collections::{BTreeSet, VecDeque};

use crate::key::ProviderId;
use crate::report::Event;

/// Things that were told are remembered up to this number; after it they may be told again. Only a far side that goes on
/// inventing names gets there.
const REMEMBERED: usize = 10_000;

/// Events on their way out. What is true for long is told once.
#[derive(Debug, Default)]
pub(super) struct Notices {
    queue: VecDeque<Event>,
    told: BTreeSet<String>,
    /// Providers whose catalogs change too often to be told of.
    muted: BTreeSet<ProviderId>,
}

impl Notices {
    pub(super) fn push(&mut self, event: Event) {
        self.queue.push_back(event);
    }

    /// Tells it unless the same was told under this key before.
    pub(super) fn push_once(&mut self, key: String, event: Event) {
        if self.is_news(key) {
            self.push(event);
        }
    }

    /// Tells of something in a provider's catalog, unless that changes too often to be told.
    pub(super) fn push_about(&mut self, provider: ProviderId, event: Event) {
        if !self.is_muted(provider) {
            self.push(event);
        }
    }

    /// Whether nothing is told of what a provider's catalog has.
    pub(super) fn is_muted(&self, provider: ProviderId) -> bool {
        self.muted.contains(&provider)
    }

    /// From here on nothing is told of what a provider's catalog has.
    pub(super) fn mute(&mut self, provider: ProviderId) {
        self.muted.insert(provider);
    }

    /// A provider's catalog is told of again.
    pub(super) fn unmute(&mut self, provider: ProviderId) {
        self.muted.remove(&provider);
    }

    /// Whether nothing was told under this key before.
    pub(super) fn is_news(&mut self, key: String) -> bool {
        if self.told.len() >= REMEMBERED {
            self.told.clear();
        }
        self.told.insert(key)
    }

    pub(super) fn poll_event(&mut self) -> Option<Event> {
        self.queue.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(line: usize) -> Event {
        Event::NameTaken {
            name: "web".to_owned(),
            line,
        }
    }

    #[test]
    fn the_same_is_told_once() {
        let mut notices = Notices::default();
        for line in [3, 3, 4] {
            notices.push_once("taken web".to_owned(), taken(line));
        }
        assert!(matches!(
            notices.poll_event(),
            Some(Event::NameTaken { line: 3, .. })
        ));
        assert_eq!(notices.poll_event(), None);
    }

    #[test]
    fn what_was_told_is_not_remembered_without_end() {
        let mut notices = Notices::default();
        for number in 0..3 * REMEMBERED {
            notices.push_once(format!("taken {number}"), taken(number));
            notices.poll_event();
            assert!(notices.told.len() <= REMEMBERED);
        }
    }

    #[test]
    fn a_muted_provider_is_not_told_of_and_others_are() {
        let mut notices = Notices::default();
        notices.mute(ProviderId(0));
        notices.push_about(ProviderId(0), taken(0));
        notices.push_about(ProviderId(1), taken(1));
        notices.unmute(ProviderId(0));
        notices.push_about(ProviderId(0), taken(2));
        assert_eq!(notices.poll_event(), Some(taken(1)));
        assert_eq!(notices.poll_event(), Some(taken(2)));
    }
}
