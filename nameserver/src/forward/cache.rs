//! Replies for as long as they hold.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::flow::Key;
use super::reply::Stored;

#[derive(Debug)]
pub(super) struct Cache {
    max: usize,
    kept: HashMap<Key, Kept>,
    /// Oldest first. An entry that was replaced is here twice, and goes with the first.
    order: VecDeque<Key>,
}

#[derive(Debug)]
struct Kept {
    stored: Stored,
    since: Instant,
    until: Instant,
}

impl Cache {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            kept: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    pub(super) fn lookup(&self, key: &Key, now: Instant) -> Option<Stored> {
        let kept = self.kept.get(key).filter(|kept| now < kept.until)?;
        Some(kept.stored.aged(now.saturating_duration_since(kept.since)))
    }

    pub(super) fn insert(&mut self, key: Key, stored: Stored, now: Instant) {
        let Some(lifetime) = stored.lifetime.filter(|_| self.max > 0) else {
            return;
        };
        while self.order.len() >= self.max
            && let Some(oldest) = self.order.pop_front()
        {
            self.kept.remove(&oldest);
        }
        let until = now + lifetime;
        self.order.push_back(key.clone());
        self.kept.insert(
            key,
            Kept {
                stored,
                since: now,
                until,
            },
        );
    }
}
