//! Answers that hold for a while.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// How long an answer holds.
pub(crate) const FRESH: Duration = Duration::from_secs(30);

/// How long it holds while nobody can be asked again.
pub(crate) const WITHOUT_NEWS: Duration = Duration::from_secs(300);

/// Remembers answers, each with the time at which it was given. Holds at most twice `max` of them: those that came first are forgotten
/// together.
#[derive(Debug)]
pub(crate) struct Remembered<K, V> {
    max: usize,
    recent: HashMap<K, (V, Instant)>,
    former: HashMap<K, (V, Instant)>,
}

impl<K: Eq + Hash, V: Clone> Remembered<K, V> {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            recent: HashMap::new(),
            former: HashMap::new(),
        }
    }

    /// The answer to a question, if it was given no longer than `age` ago.
    pub(crate) fn answer(&self, question: &K, age: Duration, now: Instant) -> Option<V> {
        let (answer, given) = self.recent.get(question).or_else(|| self.former.get(question))?;
        (now.saturating_duration_since(*given) < age).then(|| answer.clone())
    }

    pub(crate) fn handle_answer(&mut self, question: K, answer: V, now: Instant) {
        if self.recent.len() >= self.max {
            self.former = std::mem::take(&mut self.recent);
        }
        self.recent.insert(question, (answer, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_holds_for_a_while_and_the_newest_counts() {
        let start = Instant::now();
        let mut rights = Remembered::new(8);
        rights.handle_answer("orders", true, start);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(rights.answer(&"orders", FRESH, at(29)), Some(true));
        assert_eq!(rights.answer(&"orders", FRESH, at(30)), None);
        assert_eq!(rights.answer(&"orders", WITHOUT_NEWS, at(30)), Some(true));
        assert_eq!(rights.answer(&"orders", WITHOUT_NEWS, at(300)), None);
        assert_eq!(rights.answer(&"shop", WITHOUT_NEWS, start), None);
        rights.handle_answer("orders", false, at(31));
        assert_eq!(rights.answer(&"orders", WITHOUT_NEWS, at(32)), Some(false));
    }

    #[test]
    fn a_newer_answer_counts_also_when_the_older_one_is_about_to_be_forgotten() {
        let now = Instant::now();
        let mut rights = Remembered::new(2);
        rights.handle_answer(1, true, now);
        rights.handle_answer(2, true, now);
        rights.handle_answer(1, false, now);
        assert_eq!(rights.answer(&1, FRESH, now), Some(false));
        assert_eq!(rights.answer(&2, FRESH, now), Some(true));
    }

    #[test]
    fn it_holds_no_more_than_twice_its_bound_and_always_the_last() {
        let now = Instant::now();
        let mut rights = Remembered::new(100);
        for number in 0..100_000 {
            rights.handle_answer(number, (), now);
            assert!(rights.recent.len() + rights.former.len() <= 200);
        }
        for number in 99_900..100_000 {
            assert!(rights.answer(&number, FRESH, now).is_some(), "{number}");
        }
    }
}
