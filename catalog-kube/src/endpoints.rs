//! Which endpoint a new connection goes to.

mod served;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use service_catalog::Target;
use tokio::sync::watch;

pub(crate) use served::Changes;
use served::Served;

use crate::objects::{Answers, Place};
use crate::road::Endpoint;

/// Who answers for each port of a cluster's services, and how many connections each of them has. Clones stand for the same.
#[derive(Debug, Clone)]
pub(crate) struct Endpoints(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Held for a choice at a time, never across an await.
    choice: Mutex<Choice>,
    changed: watch::Sender<()>,
    /// Why the API server does not answer, while it does not.
    away: watch::Sender<Option<Arc<str>>>,
}

impl Endpoints {
    /// None yet. `zone` is where the connections come from, if that is known.
    pub(crate) fn new(zone: Option<Arc<str>>) -> Self {
        Self(Arc::new(Shared {
            choice: Mutex::new(Choice {
                zone,
                ..Choice::default()
            }),
            changed: watch::Sender::new(()),
            away: watch::Sender::new(None),
        }))
    }

    fn choice(&self) -> MutexGuard<'_, Choice> {
        // Nothing in a choice panics half-way through a change.
        self.0.choice.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where endpoints that take new connections are, as far as that has changed since a version of it.
    pub(crate) fn changes_since(&self, version: Option<u64>) -> Changes {
        self.choice().served.since(version)
    }

    /// Every endpoint that takes new connections.
    #[cfg(test)]
    pub(crate) fn all(&self) -> std::collections::BTreeSet<Endpoint> {
        let choice = self.choice();
        let places = choice.ports.values().flat_map(|port| &port.answers.places);
        places.map(|place| (*place.endpoint).clone()).collect()
    }

    /// Hears of every change of what [`changes_since`](Self::changes_since) tells.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// Why the API server does not answer, while it does not.
    pub(crate) fn away(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.0.away.subscribe()
    }

    /// Takes who answers for which ports from here on; `None` for a port that is gone.
    pub(crate) fn set(&self, changes: impl IntoIterator<Item = (Target, Option<Arc<Answers>>)>) {
        let mut changes = changes.into_iter().peekable();
        if changes.peek().is_none() {
            return;
        }
        let mut choice = self.choice();
        for (target, answers) in changes {
            choice.handle_answers(target, answers);
        }
        drop(choice);
        self.0.changed.send_replace(());
    }

    /// Says whether the API server answers, and why it does not.
    pub(crate) fn set_away(&self, away: Option<&str>) {
        self.0.away.send_if_modified(|before| {
            let differs = before.as_deref() != away;
            if differs {
                *before = away.map(Arc::from);
            }
            differs
        });
    }

    /// Chooses an endpoint for a connection, other than those that were `tried`. It counts as open until the [`Open`] is dropped.
    pub(crate) fn choose(
        &self,
        target: &Target,
        tried: &[Arc<Endpoint>],
        now: Instant,
    ) -> Result<Open, Nobody> {
        let endpoint = self.choice().choose(target, tried, now)?;
        Ok(Open {
            endpoint,
            endpoints: self.clone(),
        })
    }
}

/// A connection to an endpoint, for the count.
#[derive(Debug)]
pub(crate) struct Open {
    endpoint: Arc<Endpoint>,
    endpoints: Endpoints,
}

impl Open {
    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.endpoints.choice().handle_closed(&self.endpoint);
    }
}

/// Why no endpoint can be chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Nobody {
    /// The catalog has no such port.
    #[error("there is no such port")]
    NoPort,
    /// No endpoint takes new connections.
    #[error("{because}")]
    NotReady { because: String },
    /// All of them were tried.
    #[error("every endpoint was tried")]
    AllTried,
}

/// Decides where connections go. Neither a socket nor a clock.
#[derive(Debug, Default)]
struct Choice {
    zone: Option<Arc<str>>,
    ports: HashMap<Target, Port>,
    /// How many connections each endpoint has; absent without any. One that takes no new ones stays until its last has ended.
    open: HashMap<Arc<Endpoint>, usize>,
    served: Served,
}

#[derive(Debug)]
struct Port {
    answers: Arc<Answers>,
    /// Which of several that are equally good is next.
    turn: usize,
    /// Where the last connection went, and until when the next ones go there as well.
    bound: Option<(Arc<Endpoint>, Instant)>,
}

impl Choice {
    fn handle_answers(&mut self, target: Target, answers: Option<Arc<Answers>>) {
        // What stays is added before it is removed, so that it does not count as a change.
        for place in answers.iter().flat_map(|answers| &answers.places) {
            self.served.add(&place.endpoint);
        }
        let before = self.ports.get(&target).map(|port| Arc::clone(&port.answers));
        for place in before.iter().flat_map(|before| &before.places) {
            self.served.remove(&place.endpoint);
        }
        match answers {
            None => {
                self.ports.remove(&target);
            }
            Some(answers) => match self.ports.get_mut(&target) {
                Some(port) => port.answers = answers,
                None => {
                    let port = Port {
                        answers,
                        turn: 0,
                        bound: None,
                    };
                    self.ports.insert(target, port);
                }
            },
        }
    }

    /// Ready ones only; of them those of the client's zone where there are any, of them those with the fewest connections, of them
    /// each in its turn.
    fn choose(
        &mut self,
        target: &Target,
        tried: &[Arc<Endpoint>],
        now: Instant,
    ) -> Result<Arc<Endpoint>, Nobody> {
        let port = self.ports.get_mut(target).ok_or(Nobody::NoPort)?;
        let answers = Arc::clone(&port.answers);
        if answers.places.is_empty() {
            return Err(Nobody::NotReady {
                because: answers.because.clone(),
            });
        }
        let left = || {
            answers
                .places
                .iter()
                .filter(|place| !tried.contains(&place.endpoint))
        };
        let bound = port.bound.take().filter(|(_, until)| *until > now);
        let bound = bound.and_then(|(endpoint, _)| left().find(|place| place.endpoint == endpoint));
        let chosen = match bound {
            Some(place) => Arc::clone(&place.endpoint),
            None => {
                let zone = self.zone.as_deref();
                let open = |place: &Place| self.open.get(&place.endpoint).copied().unwrap_or(0);
                let rank = |place: &Place| (!is_near(place, zone), open(place));
                let best = left().map(rank).min().ok_or(Nobody::AllTried)?;
                let equals: Vec<_> = left().filter(|place| rank(place) == best).collect();
                port.turn = port.turn.wrapping_add(1);
                let place = equals
                    .get(port.turn % equals.len().max(1))
                    .ok_or(Nobody::AllTried)?;
                Arc::clone(&place.endpoint)
            }
        };
        port.bound = answers.affinity.map(|stays| (Arc::clone(&chosen), now + stays));
        *self.open.entry(Arc::clone(&chosen)).or_default() += 1;
        Ok(chosen)
    }

    fn handle_closed(&mut self, endpoint: &Arc<Endpoint>) {
        if let Some(open) = self.open.get_mut(endpoint) {
            *open -= 1;
            if *open == 0 {
                self.open.remove(endpoint);
            }
        }
    }
}

/// The cluster's own hints come before where an endpoint is.
fn is_near(place: &Place, zone: Option<&str>) -> bool {
    zone.is_some_and(|zone| {
        if place.for_zones.is_empty() {
            place.zone.as_deref() == Some(zone)
        } else {
            place.for_zones.iter().any(|of| **of == *zone)
        }
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use service_catalog::Protocol;

    use super::*;
    use crate::road::Host;

    fn target() -> Target {
        "tcp/shop/web/80".parse().unwrap()
    }

    fn endpoint(last: u8) -> Arc<Endpoint> {
        Arc::new(Endpoint {
            host: Host::Address([10, 0, 0, last].into()),
            port: 8080.try_into().unwrap(),
            protocol: Protocol::Tcp,
            pod: None,
        })
    }

    fn answers(of: impl IntoIterator<Item = u8>, affinity: Option<Duration>) -> Option<Arc<Answers>> {
        let place = |last: u8| Place {
            endpoint: endpoint(last),
            zone: Some(if last.is_multiple_of(2) { "even" } else { "odd" }.into()),
            for_zones: Vec::new(),
        };
        Some(Arc::new(Answers {
            places: of.into_iter().map(place).collect(),
            because: "it has no pod".to_owned(),
            affinity,
        }))
    }

    fn with(of: impl IntoIterator<Item = u8>) -> Endpoints {
        let endpoints = Endpoints::new(None);
        endpoints.set([(target(), answers(of, None))]);
        endpoints
    }

    #[test]
    fn connections_go_to_whoever_has_the_fewest() {
        let endpoints = with([1, 2, 3]);
        let choose = || endpoints.choose(&target(), &[], Instant::now()).unwrap();
        let mut open: Vec<_> = (0..9).map(|_| choose()).collect();
        let of = |open: &[Open], last| {
            open.iter()
                .filter(|open| *open.endpoint() == endpoint(last))
                .count()
        };
        assert_eq!([1, 2, 3].map(|last| of(&open, last)), [3, 3, 3]);
        open.retain(|open| *open.endpoint() != endpoint(2));
        open.extend((0..3).map(|_| choose()));
        assert_eq!(of(&open, 2), 3);
    }

    #[test]
    fn a_client_that_is_bound_goes_where_it_went_until_that_is_over() {
        let endpoints = Endpoints::new(None);
        let stays = Duration::from_secs(60);
        endpoints.set([(target(), answers([1, 2, 3], Some(stays)))]);
        let now = Instant::now();
        let first = endpoints.choose(&target(), &[], now).unwrap();
        let second = endpoints.choose(&target(), &[], now + stays / 2).unwrap();
        assert_eq!(first.endpoint(), second.endpoint());
        let later = endpoints.choose(&target(), &[], now + 2 * stays).unwrap();
        assert_ne!(first.endpoint(), later.endpoint());
        // One that is gone, or was tried in vain, binds nobody.
        let tried = [Arc::clone(later.endpoint())];
        let other = endpoints.choose(&target(), &tried, now + 2 * stays).unwrap();
        assert_ne!(later.endpoint(), other.endpoint());
    }

    #[test]
    fn the_clients_zone_comes_first_and_is_no_condition() {
        let endpoints = Endpoints::new(Some("even".into()));
        endpoints.set([(target(), answers([1, 2, 3], None))]);
        let open: Vec<_> = (0..4)
            .map(|_| endpoints.choose(&target(), &[], Instant::now()).unwrap())
            .collect();
        assert!(open.iter().all(|open| *open.endpoint() == endpoint(2)));
        assert!(
            endpoints
                .choose(&target(), &[endpoint(2)], Instant::now())
                .is_ok()
        );
    }

    proptest! {
        #[test]
        fn only_who_answers_is_chosen_and_counts_return_to_zero(
            steps in prop::collection::vec((0..3_u8, prop::collection::btree_set(0..5_u8, 0..4), any::<usize>()), 1..60),
        ) {
            let endpoints = with([]);
            let mut answering = std::collections::BTreeSet::new();
            let mut open: Vec<Open> = Vec::new();
            for (step, set, which) in steps {
                match step {
                    0 => {
                        endpoints.set([(target(), answers(set.clone(), None))]);
                        answering = set;
                    }
                    1 => match endpoints.choose(&target(), &[], Instant::now()) {
                        Ok(chosen) => {
                            prop_assert!(answering.iter().any(|last| endpoint(*last) == *chosen.endpoint()));
                            open.push(chosen);
                        }
                        Err(nobody) => {
                            prop_assert!(answering.is_empty());
                            prop_assert_eq!(nobody.to_string(), "it has no pod");
                        }
                    },
                    _ if open.is_empty() => {}
                    _ => drop(open.swap_remove(which % open.len())),
                }
                prop_assert_eq!(endpoints.all().len(), answering.len());
            }
            drop(open);
            prop_assert!(endpoints.choice().open.is_empty());
        }
    }
}
