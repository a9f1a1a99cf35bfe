//! One connection per session, the newest, here and at the gateway's other replicas.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use service_catalog::Label;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{Claim, Grant, Rejection, Replicas};

/// Who is in.
#[derive(Debug)]
pub(crate) struct Seats {
    max: usize,
    /// Who else has sessions, if anybody.
    replicas: Option<Arc<dyn Replicas>>,
    /// By session id. Locked for a look and a change only, never across an await.
    taken: Mutex<BTreeMap<String, Taken>>,
}

#[derive(Debug)]
struct Taken {
    generation: u64,
    displaced: CancellationToken,
    /// The environment that is served, where that is known.
    environment: Option<Label>,
    /// The token by which the client is there.
    grant: watch::Sender<Option<Grant>>,
    /// What the other replicas are told.
    claim: Option<Arc<dyn Claim>>,
}

impl Seats {
    /// Seats for up to `max` sessions.
    pub(crate) fn new(max: usize, replicas: Option<Arc<dyn Replicas>>) -> Arc<Self> {
        Arc::new(Self {
            max,
            replicas,
            taken: Mutex::default(),
        })
    }

    /// Whether [`take`](Self::take) would give the session a seat at this moment.
    pub(crate) fn check(&self, session: &str, generation: u64) -> Result<(), NoSeat> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        self.check_in(&taken, session, generation)
    }

    /// Gives the session its seat. A newer generation takes the session's seat, and so does the same one: a client that does not count and
    /// reconnects before we notice that its link is lost must not be locked out.
    pub(crate) fn take(
        self: &Arc<Self>,
        session: &str,
        generation: u64,
        environment: Option<Label>,
        grant: Option<Grant>,
    ) -> Result<Seat, NoSeat> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        self.check_in(&taken, session, generation)?;
        if let Some(former) = taken.get(session) {
            former.displaced.cancel();
        }
        let displaced = CancellationToken::new();
        let claim = self
            .replicas
            .as_ref()
            .map(|replicas| replicas.claim(session, generation));
        let claim = claim.map(Arc::from);
        let grant = watch::Sender::new(grant);
        let grants = grant.subscribe();
        taken.insert(
            session.to_owned(),
            Taken {
                generation,
                displaced: displaced.clone(),
                environment,
                grant,
                claim: claim.clone(),
            },
        );
        Ok(Seat {
            seats: self.clone(),
            session: session.to_owned(),
            displaced,
            grants,
            claim,
        })
    }

    /// Whether somebody sits on the session's seat whose link a connection of this generation may take up again, and which
    /// environment is served there.
    pub(crate) fn find(&self, session: &str, generation: u64) -> Result<Option<Label>, NoSeat> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(seat) = taken.get(session) else {
            return Err(NoSeat::Empty);
        };
        self.check_in(&taken, session, generation)?;
        Ok(seat.environment.clone())
    }

    /// The session's link goes on over a connection of this generation, which was let in by this token. The seat stays taken by
    /// the same link.
    pub(crate) fn renew(&self, session: &str, generation: u64, grant: Option<Grant>) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        // A newer connection may have taken the seat meanwhile; then the link that went on ends.
        if let Some(seat) = taken
            .get_mut(session)
            .filter(|seat| seat.generation <= generation)
        {
            seat.generation = generation;
            seat.grant.send_replace(grant);
            if let Some(claim) = &seat.claim {
                claim.renew(generation);
            }
        }
    }

    fn check_in(
        &self,
        taken: &BTreeMap<String, Taken>,
        session: &str,
        generation: u64,
    ) -> Result<(), NoSeat> {
        let here = taken.get(session).map(|former| former.generation);
        let elsewhere = || self.replicas.as_ref()?.elsewhere(session);
        match here.max(elsewhere()) {
            Some(newer) if generation < newer => Err(NoSeat::Superseded { newer, generation }),
            _ if here.is_none() && taken.len() >= self.max => Err(NoSeat::Full { max: self.max }),
            _ => Ok(()),
        }
    }
}

/// Why a session gets no seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoSeat {
    Superseded {
        newer: u64,
        generation: u64,
    },
    Full {
        max: usize,
    },
    /// There is no link to take up again.
    Empty,
}

impl From<NoSeat> for Rejection {
    fn from(why: NoSeat) -> Self {
        match why {
            NoSeat::Superseded { newer, generation } => Self::superseded(format!(
                "generation {newer} of this session is connected, this one is {generation}"
            )),
            NoSeat::Full { max } => Self::unavailable(format!(
                "the gateway has {max} clients already, which is its limit"
            )),
            NoSeat::Empty => Self::no_link(),
        }
    }
}

/// A session's seat. One connection holds it; dropping it frees the seat.
#[derive(Debug)]
pub(crate) struct Seat {
    seats: Arc<Seats>,
    session: String,
    displaced: CancellationToken,
    grants: watch::Receiver<Option<Grant>>,
    claim: Option<Arc<dyn Claim>>,
}

impl Seat {
    /// Resolves when the token is revoked by which the client is there: the latest one that it showed.
    pub(crate) async fn revoked(&self, environment: Option<&Label>) {
        let mut grants = self.grants.clone();
        loop {
            let grant = grants.borrow_and_update().clone();
            let revoked = async {
                match &grant {
                    Some(grant) => grant.revoked(environment).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = revoked => return,
                changed = grants.changed() => if changed.is_err() {
                    // The seat is a newer connection's, whose token is its own affair.
                    std::future::pending::<()>().await;
                },
            }
        }
    }

    /// Resolves when a newer connection of the session has come, here or to another replica.
    pub(crate) async fn displaced(&self) {
        let elsewhere = async {
            match &self.claim {
                Some(claim) => claim.displaced().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.displaced.cancelled() => {}
            () = elsewhere => {}
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.lock().unwrap_or_else(PoisonError::into_inner);
        // Asked under the lock under which it is set: the seat of a displaced connection is the newer one's.
        if !self.displaced.is_cancelled() {
            taken.remove(&self.session);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(seats: &Arc<Seats>, session: &str, generation: u64) -> Result<Seat, NoSeat> {
        seats.take(session, generation, Some("dev".parse().unwrap()), None)
    }

    #[test]
    fn a_link_that_goes_on_keeps_its_seat_and_a_newer_one_takes_it() {
        let seats = Seats::new(1, None);
        assert_eq!(seats.find("a", 1), Err(NoSeat::Empty));
        let first = take(&seats, "a", 2).unwrap();
        assert!(matches!(seats.find("a", 1), Err(NoSeat::Superseded { .. })));
        assert_eq!(seats.find("a", 2), Ok(Some("dev".parse().unwrap())));
        seats.renew("a", 4, None);
        assert!(!first.displaced.is_cancelled());
        assert!(matches!(take(&seats, "a", 3), Err(NoSeat::Superseded { .. })));
        let newer = take(&seats, "a", 4).unwrap();
        assert!(first.displaced.is_cancelled());
        // An older one that goes on late changes nothing.
        seats.renew("a", 3, None);
        assert!(matches!(seats.find("a", 3), Err(NoSeat::Superseded { .. })));
        drop(newer);
        assert_eq!(seats.find("a", 4), Err(NoSeat::Empty));
    }

    #[test]
    fn the_newest_generation_has_the_seat() {
        let seats = Seats::new(10, None);
        let first = take(&seats, "a", 1).unwrap();
        assert!(!first.displaced.is_cancelled());
        let third = take(&seats, "a", 3).unwrap();
        assert!(first.displaced.is_cancelled());
        assert!(matches!(take(&seats, "a", 2), Err(NoSeat::Superseded { .. })));
        assert!(!third.displaced.is_cancelled());
        // The old one leaves late, and the new one stays where it is.
        drop(first);
        assert!(matches!(take(&seats, "a", 2), Err(NoSeat::Superseded { .. })));
        let again = take(&seats, "a", 3).unwrap();
        assert!(third.displaced.is_cancelled());
        drop(again);
        drop(third);
        take(&seats, "a", 1).unwrap();
    }

    #[test]
    fn a_full_gateway_lets_in_only_who_replaces_itself() {
        let seats = Seats::new(1, None);
        let _first = take(&seats, "a", 1).unwrap();
        assert_eq!(seats.check("b", 1), Err(NoSeat::Full { max: 1 }));
        assert_eq!(seats.check("a", 1), Ok(()));
        assert!(matches!(take(&seats, "b", 1), Err(NoSeat::Full { max: 1 })));
        let again = take(&seats, "a", 2).unwrap();
        drop(again);
        take(&seats, "b", 1).unwrap();
    }
}
