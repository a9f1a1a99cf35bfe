//! Names that other sessions of this machine hold, as one sink told it last.

use std::collections::HashSet;

use crate::report::{Event, Held, NameSample};
use crate::sink::{HeldNames, Record};
use crate::state::notices::Notices;

#[derive(Debug, Default)]
pub(super) struct HeldByOthers {
    sessions: Vec<HeldNames>,
    names: HashSet<String>,
}

impl HeldByOthers {
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    pub(super) fn sessions(&self) -> &[HeldNames] {
        &self.sessions
    }

    /// Takes what was told of a publication of `records` after one of `before`, of which `taken` names were left to lines of the
    /// user's. Returns whether anything is held that was not, or the other way round.
    pub(super) fn update(
        &mut self,
        sessions: Vec<HeldNames>,
        before: &[Record],
        records: &[Record],
        taken: usize,
        notices: &mut Notices,
    ) -> bool {
        let names: HashSet<String> = sessions.iter().flat_map(|held| held.names.clone()).collect();
        if names == self.names {
            // Where they only changed hands between others, that is for the status.
            self.sessions = sessions;
            return false;
        }
        let published = all(records).count().saturating_sub(names.len() + taken);
        let own: HashSet<&String> = all(before).filter(|name| !self.contains(name)).collect();
        for held in &sessions {
            let new = held.names.iter().filter(|name| !self.contains(name));
            let (lost, missed): (Vec<_>, Vec<_>) = new.partition(|name| own.contains(name));
            for (names, lost) in [(lost, true), (missed, false)] {
                if !names.is_empty() {
                    notices.push(Event::NamesHeld(Held {
                        session: held.session.clone(),
                        helper_pid: held.helper_pid,
                        names: sample(names),
                        lost,
                        published,
                    }));
                }
            }
        }
        let gained = all(records).filter(|name| self.contains(name) && !names.contains(*name));
        let gained: Vec<_> = gained.collect();
        if !gained.is_empty() {
            notices.push(Event::NamesGained {
                names: sample(gained),
            });
        }
        self.sessions = sessions;
        self.names = names;
        true
    }
}

fn all(records: &[Record]) -> impl Iterator<Item = &String> {
    records.iter().flat_map(|record| &record.names)
}

/// The short ones first: they are what people type.
fn sample(mut names: Vec<&String>) -> NameSample {
    names.sort_unstable_by_key(|name| (name.len(), *name));
    names.into_iter().collect()
}
