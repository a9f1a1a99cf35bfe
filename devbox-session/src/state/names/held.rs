//! Names that other sessions of this machine hold, as one sink told it last.

use std::collections::HashSet;
use std::sync::Arc;

use crate::report::{Event, Held, NameSample};
use crate::sink::{HeldNames, Records};
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
        before: &Records,
        records: &Records,
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
        let own: HashSet<&str> = all(before).filter(|name| !self.contains(name)).collect();
        for held in &sessions {
            let new = held.names.iter().filter(|name| !self.contains(name));
            let (lost, missed): (Vec<_>, Vec<_>) = new.partition(|name| own.contains(name.as_str()));
            for (names, lost) in [(lost, true), (missed, false)] {
                if !names.is_empty() {
                    notices.push(Event::NamesHeld(Held {
                        session: held.session.clone(),
                        helper_pid: held.helper_pid,
                        names: sample(names.into_iter().map(String::as_str)),
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

fn all(records: &Records) -> impl Iterator<Item = &str> {
    records.iter().flat_map(|record| &record.names).map(Arc::as_ref)
}

/// The short ones first: they are what people type.
fn sample<'a>(names: impl IntoIterator<Item = &'a str>) -> NameSample {
    let mut names: Vec<_> = names.into_iter().collect();
    names.sort_unstable_by_key(|name| (name.len(), *name));
    names.into_iter().collect()
}
