//! Which OPENs are sent when: a target that does not answer must not keep the opens of others back.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

/// Opens of ours that wait to be sent, or for the peer's answer.
#[derive(Debug, Default)]
pub(super) struct Opens {
    /// Only targets that have any.
    targets: HashMap<Bytes, Waiting>,
    /// The targets that have held opens, in the order of their turns.
    turns: VecDeque<Bytes>,
    unanswered: u32,
}

#[derive(Debug, Default)]
struct Waiting {
    unanswered: u32,
    /// Not sent yet, in the order of their numbers.
    held: VecDeque<u32>,
}

impl Opens {
    /// Holds the OPEN of stream `id` back, until [`Opens::next`] gives it out.
    pub(super) fn hold(&mut self, target: Bytes, id: u32) {
        let waiting = self.targets.entry(target.clone()).or_default();
        if waiting.held.is_empty() {
            self.turns.push_back(target);
        }
        waiting.held.push_back(id);
    }

    /// The next stream whose OPEN is to be sent. Targets take turns.
    ///
    /// At most `limit` opens are unanswered, and at most `per_target` of one target. A target may also have no more
    /// than there are places left, so that, however many targets stay silent, a place is free for another one.
    pub(super) fn next(&mut self, limit: u32, per_target: u32) -> Option<u32> {
        let free = limit.saturating_sub(self.unanswered);
        if free == 0 {
            return None;
        }
        for _ in 0..self.turns.len() {
            let target = self.turns.pop_front()?;
            // Targets have an entry for as long as they wait for their turn.
            let waiting = self.targets.get_mut(&target)?;
            let id = if waiting.unanswered < per_target.min(free) {
                waiting.held.pop_front()
            } else {
                None
            };
            if id.is_some() {
                waiting.unanswered += 1;
                self.unanswered += 1;
            }
            if !waiting.held.is_empty() {
                self.turns.push_back(target);
            }
            if id.is_some() {
                return id;
            }
        }
        None
    }

    /// An OPEN that was sent has its answer, or was reset.
    pub(super) fn answered(&mut self, target: &Bytes) {
        if let Some(waiting) = self.targets.get_mut(target) {
            waiting.unanswered -= 1;
            self.unanswered -= 1;
            if waiting.is_over() {
                self.targets.remove(target);
            }
        }
    }

    /// The streams whose OPEN has not been sent.
    pub(super) fn held(&self) -> Vec<u32> {
        let targets = self.turns.iter().filter_map(|target| self.targets.get(target));
        targets.flat_map(|waiting| waiting.held.iter().copied()).collect()
    }

    /// A stream was reset before its OPEN was sent.
    pub(super) fn withdraw(&mut self, target: &Bytes, id: u32) {
        let Some(waiting) = self.targets.get_mut(target) else {
            return;
        };
        if let Ok(index) = waiting.held.binary_search(&id) {
            waiting.held.remove(index);
        }
        if waiting.held.is_empty() {
            self.turns.retain(|other| other != target);
        }
        if waiting.is_over() {
            self.targets.remove(target);
        }
    }
}

impl Waiting {
    fn is_over(&self) -> bool {
        self.unanswered == 0 && self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Open(u8),
        Answer(prop::sample::Index),
        Withdraw(prop::sample::Index),
    }

    fn step() -> impl Strategy<Value = Step> {
        let which = any::<prop::sample::Index>();
        prop_oneof![
            6 => (0..12u8).prop_map(Step::Open),
            2 => which.clone().prop_map(Step::Answer),
            1 => which.prop_map(Step::Withdraw),
        ]
    }

    proptest! {
        #[test]
        fn opens_are_fair_within_the_limits_and_none_is_forgotten(
            limit in 1..40u32,
            per_target in 1..10u32,
            steps in prop::collection::vec(step(), 1..300),
        ) {
            let mut opens = Opens::default();
            let (mut held, mut sent) = (BTreeMap::new(), BTreeMap::<u32, Bytes>::new());
            let mut next_id = 1;
            for step in steps {
                match step {
                    Step::Open(target) => {
                        let target = Bytes::from(vec![target]);
                        opens.hold(target.clone(), next_id);
                        held.insert(next_id, target);
                        next_id += 2;
                    }
                    Step::Answer(which) if !sent.is_empty() => {
                        let id = *which.get(&sent.keys().copied().collect::<Vec<_>>());
                        opens.answered(&sent.remove(&id).unwrap());
                    }
                    Step::Withdraw(which) if !held.is_empty() => {
                        let id = *which.get(&held.keys().copied().collect::<Vec<_>>());
                        opens.withdraw(&held.remove(&id).unwrap(), id);
                    }
                    Step::Answer(_) | Step::Withdraw(_) => {}
                }
                while let Some(id) = opens.next(limit, per_target) {
                    let target = held.remove(&id).unwrap();
                    prop_assert!(held.iter().all(|(&other, of)| of != &target || other > id));
                    sent.insert(id, target);
                }
                let of = |target: &Bytes| sent.values().filter(|other| *other == target).count();
                prop_assert!(sent.len() <= limit as usize);
                let free = limit as usize - sent.len();
                for target in held.values() {
                    prop_assert!(of(target) <= per_target as usize);
                    // Whoever is held has as many under way as it may.
                    prop_assert!(of(target) >= (per_target as usize).min(free));
                }
            }
            for target in sent.values().cloned().collect::<Vec<_>>() {
                opens.answered(&target);
            }
            while !held.is_empty() {
                let id = opens.next(limit, per_target).unwrap();
                opens.answered(&held.remove(&id).unwrap());
            }
            prop_assert!(opens.targets.is_empty() && opens.turns.is_empty() && opens.unanswered == 0);
        }
    }
}
