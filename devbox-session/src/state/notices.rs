//! What to tell, in order, and what was told already.

use std::collections::{BTreeSet, VecDeque};

use crate::report::Event;

/// Events on their way out. What is true for long is told once.
#[derive(Debug, Default)]
pub(super) struct Notices {
    queue: VecDeque<Event>,
    told: BTreeSet<String>,
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

    /// Whether nothing was told under this key before.
    pub(super) fn is_news(&mut self, key: String) -> bool {
        self.told.insert(key)
    }

    pub(super) fn poll_event(&mut self) -> Option<Event> {
        self.queue.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_told_once() {
        let mut notices = Notices::default();
        for line in [3, 3, 4] {
            let event = Event::NameTaken {
                name: "web".to_owned(),
                line,
            };
            notices.push_once("taken web".to_owned(), event);
        }
        assert!(matches!(
            notices.poll_event(),
            Some(Event::NameTaken { line: 3, .. })
        ));
        assert_eq!(notices.poll_event(), None);
    }
}
