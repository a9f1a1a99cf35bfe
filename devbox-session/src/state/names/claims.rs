//! Which services would have a name, and who of them has it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::Wish;
use crate::key::ServiceKey;
use crate::report::{Event, NameClash};
use crate::state::notices::Notices;

/// What the services of a session would be called. A name has one owner: a service whose own name it is comes before one that was given
/// it, then goes the right to it, then the services' order.
#[derive(Debug, Default)]
pub(super) struct Claims {
    names: HashMap<Arc<str>, Contest>,
    /// Names that several services would have.
    contested: BTreeSet<Arc<str>>,
}

/// Who would have a name.
#[derive(Debug)]
struct Contest {
    owner: Claim,
    /// The next ones, in order.
    others: Vec<Claim>,
}

#[derive(Debug)]
struct Claim {
    /// Whether the name was given to the service, and is not its own.
    given: bool,
    wish: Arc<Wish>,
}

/// The names that a change touches, as they were before it.
#[derive(Debug, Default)]
pub(super) struct Touched(BTreeMap<Arc<str>, Before>);

#[derive(Debug)]
struct Before {
    owner: Option<ServiceKey>,
    clashes: BTreeSet<NameClash>,
}

impl Claim {
    fn is_before(&self, other: &Self) -> bool {
        let order = |claim: &Self| (claim.given, claim.wish.right);
        (order(self), &self.wish.service) < (order(other), &other.wish.service)
    }

    fn is_of(&self, wish: &Arc<Wish>) -> bool {
        Arc::ptr_eq(&self.wish, wish)
    }
}

impl Contest {
    fn claims(&self) -> impl Iterator<Item = &Claim> {
        std::iter::once(&self.owner).chain(&self.others)
    }

    /// The clashes, each with whether somebody has decided it.
    fn clashes<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (NameClash, bool)> + 'a {
        self.others.iter().map(move |other| {
            let clash = NameClash {
                name: name.to_owned(),
                owner: self.owner.wish.shown.clone(),
                other: other.wish.shown.clone(),
            };
            (clash, self.owner.wish.right.is_put_before(&other.wish.right))
        })
    }
}

impl Claims {
    /// A service would be called so.
    pub(super) fn make(&mut self, wish: &Arc<Wish>, touched: &mut Touched) {
        let own = wish.own.iter().map(|name| (name, false));
        for (name, given) in own.chain(wish.given.iter().map(|name| (name, true))) {
            touched.note(name, self);
            let mut claim = Claim {
                given,
                wish: Arc::clone(wish),
            };
            match self.names.get_mut(name) {
                None => {
                    let others = Vec::new();
                    self.names
                        .insert(Arc::clone(name), Contest { owner: claim, others });
                }
                // The first of its claims to a name is its strongest.
                Some(contest) if contest.claims().any(|known| known.is_of(wish)) => {}
                Some(contest) => {
                    if claim.is_before(&contest.owner) {
                        std::mem::swap(&mut claim, &mut contest.owner);
                    }
                    let place = contest.others.partition_point(|other| other.is_before(&claim));
                    contest.others.insert(place, claim);
                    self.contested.insert(Arc::clone(name));
                }
            }
        }
    }

    /// A service would not be called so any more.
    pub(super) fn withdraw(&mut self, wish: &Arc<Wish>, touched: &mut Touched) {
        for name in wish.own.iter().chain(&wish.given) {
            touched.note(name, self);
            let Some(contest) = self.names.get_mut(name) else {
                continue;
            };
            if !contest.owner.is_of(wish) {
                contest.others.retain(|other| !other.is_of(wish));
            } else if contest.others.is_empty() {
                self.names.remove(name);
                continue;
            } else {
                contest.owner = contest.others.remove(0);
            }
            if contest.others.is_empty() {
                // Most names are never contested.
                contest.others = Vec::new();
                self.contested.remove(name);
            }
        }
    }

    /// The names that a service has: its own ones first, then those that it was given.
    pub(super) fn names_of(&self, wish: &Arc<Wish>) -> Vec<Arc<str>> {
        let mut names: Vec<Arc<str>> = Vec::with_capacity(wish.own.len() + wish.given.len());
        for name in wish.own.iter().chain(&wish.given) {
            let contest = self.names.get(name);
            if contest.is_some_and(|contest| contest.owner.is_of(wish)) && !names.contains(name) {
                names.push(Arc::clone(name));
            }
        }
        names.shrink_to_fit();
        names
    }

    /// All names that two services would have.
    pub(super) fn clashes(&self) -> Vec<NameClash> {
        let clashes = self.contested.iter().flat_map(|name| self.clashes_of(name));
        clashes.collect::<BTreeSet<_>>().into_iter().collect()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty() && self.contested.is_empty()
    }

    fn clashes_of<'a>(&'a self, name: &'a Arc<str>) -> impl Iterator<Item = NameClash> + 'a {
        let contest = self.names.get(name).into_iter();
        contest
            .flat_map(|contest| contest.clashes(name))
            .map(|(clash, _)| clash)
    }
}

impl Touched {
    fn note(&mut self, name: &Arc<str>, claims: &Claims) {
        if !self.0.contains_key(name) {
            let contest = claims.names.get(name);
            let before = Before {
                owner: contest.map(|contest| contest.owner.wish.service.clone()),
                clashes: claims.clashes_of(name).collect(),
            };
            self.0.insert(Arc::clone(name), before);
        }
    }

    /// Tells of the clashes that are news, and answers the services whose names may be other ones.
    pub(super) fn settle(self, claims: &Claims, notices: &mut Notices) -> BTreeSet<ServiceKey> {
        let mut renamed = BTreeSet::new();
        for (name, before) in self.0 {
            let contest = claims.names.get(&name);
            let owner = contest.map(|contest| &contest.owner.wish.service);
            if owner != before.owner.as_ref() {
                renamed.extend(owner.cloned());
                renamed.extend(before.owner);
            }
            let clashes = contest.into_iter().flat_map(|contest| contest.clashes(&name));
            let mut decided: BTreeMap<NameClash, bool> = BTreeMap::new();
            for (clash, by_somebody) in clashes {
                *decided.entry(clash).or_default() |= by_somebody;
            }
            for (clash, meant) in decided {
                // One that somebody has decided is no surprise.
                if !meant && !before.clashes.contains(&clash) {
                    notices.push(Event::NameClash(clash));
                }
            }
        }
        renamed
    }
}
