//! Who has a session, decided from what Leases say. Neither a socket nor a clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A session's Lease.
pub(crate) type Name = Arc<str>;

/// A claim of this replica. Later ones are larger.
pub(crate) type ClaimId = u64;

/// What a Lease says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    /// The replica that has the session.
    pub(crate) holder: Arc<str>,
    /// Of its connection.
    pub(crate) generation: u64,
    /// Of the Lease: the larger of two is the later.
    pub(crate) version: u64,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Say in the Lease that this replica has the session.
    Write {
        name: Name,
        generation: u64,
        /// The version that is replaced; `None` where there is no Lease.
        over: Option<u64>,
    },
    /// Take the Lease away, if it is of this version.
    Delete { name: Name, version: u64 },
}

/// What came of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Done {
    Written(Held),
    Deleted,
    /// The Lease is not what it was taken for; what it is will be seen.
    Conflict,
    /// The API server did not do it, or did not say.
    Failed,
}

/// After a failure nothing is tried for so long, and twice as long after each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The sessions that this replica has, and what is known of those of others.
///
/// The law: of two replicas that both have a session and see what happens, the one with the older connection loses it, and never the one
/// with the newer.
#[derive(Debug)]
pub(crate) struct Claims {
    me: Arc<str>,
    ours: BTreeMap<Name, Ours>,
    seen: BTreeMap<Name, Held>,
    /// What has to be looked at.
    changed: BTreeSet<Name>,
    /// Steps that are not done, and the version that they were decided by.
    under_way: BTreeMap<Name, Option<u64>>,
    displaced: Vec<ClaimId>,
    failures: u32,
    not_before: Option<Instant>,
    last: ClaimId,
}

#[derive(Debug)]
struct Ours {
    id: ClaimId,
    generation: u64,
    /// The Lease has said so: whoever it names after that came later.
    said: bool,
}

impl Claims {
    pub(crate) fn new(me: &str) -> Self {
        Self {
            me: me.into(),
            ours: BTreeMap::new(),
            seen: BTreeMap::new(),
            changed: BTreeSet::new(),
            under_way: BTreeMap::new(),
            displaced: Vec::new(),
            failures: 0,
            not_before: None,
            last: 0,
        }
    }

    /// The generation that another replica has the session with.
    pub(crate) fn elsewhere(&self, name: &Name) -> Option<u64> {
        let held = self.seen.get(name)?;
        (held.holder != self.me).then_some(held.generation)
    }

    /// This replica has the session. A former claim of it is over.
    pub(crate) fn claim(&mut self, name: Name, generation: u64) -> ClaimId {
        self.last += 1;
        let id = self.last;
        let ours = Ours {
            id,
            generation,
            said: false,
        };
        self.ours.insert(name.clone(), ours);
        self.changed.insert(name);
        id
    }

    /// Its connection is of another generation.
    pub(crate) fn renew(&mut self, name: &Name, id: ClaimId, generation: u64) {
        if let Some(ours) = self.ours.get_mut(name).filter(|ours| ours.id == id) {
            ours.generation = generation;
            self.changed.insert(name.clone());
        }
    }

    /// This replica has the session no longer, unless there is a later claim.
    pub(crate) fn release(&mut self, name: &Name, id: ClaimId) {
        if self.ours.get(name).is_some_and(|ours| ours.id == id) {
            self.ours.remove(name);
            self.changed.insert(name.clone());
        }
    }

    /// These Leases there are at this version, and no others.
    pub(crate) fn handle_list(&mut self, version: u64, held: Vec<(Name, Held)>) {
        let listed: BTreeSet<_> = held.iter().map(|(name, _)| name.clone()).collect();
        let unlisted = self.seen.keys().filter(|name| !listed.contains(*name));
        for name in unlisted.cloned().collect::<Vec<_>>() {
            self.handle_gone(&name, version);
        }
        for (name, held) in held {
            self.handle_seen(name, held);
        }
        // What was waited for may have gone unseen.
        self.changed.extend(self.ours.keys().cloned());
    }

    /// A Lease is new or has changed.
    pub(crate) fn handle_seen(&mut self, name: Name, held: Held) {
        // What a request answers may come before what a watch tells of the time before it.
        if self
            .seen
            .get(&name)
            .is_none_or(|known| known.version <= held.version)
        {
            self.changed.insert(name.clone());
            self.seen.insert(name, held);
        }
    }

    /// A Lease was taken away, at this version.
    pub(crate) fn handle_gone(&mut self, name: &Name, version: u64) {
        if self.seen.get(name).is_some_and(|known| known.version <= version) {
            self.seen.remove(name);
        }
        self.changed.insert(name.clone());
    }

    /// What came of the step that was asked for.
    pub(crate) fn handle_done(&mut self, name: &Name, done: Done, now: Instant) {
        let decided_by = self.under_way.remove(name).flatten();
        if done != Done::Failed {
            self.failures = 0;
            self.not_before = None;
        }
        match done {
            Done::Written(held) => self.handle_seen(name.clone(), held),
            // Until something else is seen there is nothing to decide anew.
            Done::Deleted | Done::Conflict => {
                if self.seen.get(name).map(|known| known.version) != decided_by {
                    self.changed.insert(name.clone());
                }
            }
            Done::Failed => {
                let doubled = FIRST_PAUSE.saturating_mul(1 << self.failures.min(8));
                self.failures = self.failures.saturating_add(1);
                self.not_before = Some(now + doubled.min(LONGEST_PAUSE));
                self.changed.insert(name.clone());
            }
        }
    }

    /// A claim that another replica's newer connection has ended.
    pub(crate) fn poll_displaced(&mut self) -> Option<ClaimId> {
        self.displaced.pop()
    }

    /// What to do next.
    pub(crate) fn poll_step(&mut self, now: Instant) -> Option<Step> {
        while let Some(name) = self.changed.pop_first() {
            // What comes of it is another reason to look.
            if self.under_way.contains_key(&name) {
                continue;
            }
            let Some(step) = self.settle(&name) else {
                continue;
            };
            if self.not_before.is_some_and(|until| now < until) {
                // Others are only looked at then as well.
                self.changed.insert(name);
                return None;
            }
            let decided_by = self.seen.get(&name).map(|known| known.version);
            self.under_way.insert(name, decided_by);
            return Some(step);
        }
        None
    }

    /// When to ask again although nothing was handled.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.not_before.filter(|_| !self.changed.is_empty())
    }

    fn settle(&mut self, name: &Name) -> Option<Step> {
        let seen = self.seen.get(name);
        let Some(ours) = self.ours.get_mut(name) else {
            let left = seen.filter(|held| held.holder == self.me)?;
            return Some(Step::Delete {
                name: name.clone(),
                version: left.version,
            });
        };
        let write = |over| {
            Some(Step::Write {
                name: name.clone(),
                generation: ours.generation,
                over,
            })
        };
        match seen {
            None => write(None),
            Some(held) if held.holder == self.me => {
                if held.generation == ours.generation {
                    ours.said = true;
                    return None;
                }
                write(Some(held.version))
            }
            Some(held) => {
                // Of two equal ones the later wins.
                let is_newer = match held.generation.cmp(&ours.generation) {
                    std::cmp::Ordering::Greater => true,
                    std::cmp::Ordering::Equal => ours.said,
                    std::cmp::Ordering::Less => false,
                };
                if !is_newer {
                    return write(Some(held.version));
                }
                self.displaced.push(ours.id);
                self.ours.remove(name);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
