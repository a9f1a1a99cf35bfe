//! One connection per session, the newest.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::Rejection;

/// Who is in.
#[derive(Debug)]
pub(crate) struct Seats {
    max: usize,
    /// By session id. Locked for a look and a change only, never across an await.
    taken: Mutex<BTreeMap<String, Taken>>,
}

#[derive(Debug)]
struct Taken {
    generation: u64,
    displaced: CancellationToken,
}

impl Seats {
    /// Seats for up to `max` sessions.
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            taken: Mutex::default(),
        })
    }

    /// Whether [`take`](Self::take) would give the session a seat at this moment.
    pub(crate) fn check(&self, session: &str, generation: u64) -> Result<(), NoSeat> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        check(&taken, self.max, session, generation)
    }

    /// Gives the session its seat. A newer generation takes the session's seat, and so does the same one: a client that does not count and
    /// reconnects before we notice that its link is lost must not be locked out.
    pub(crate) fn take(self: &Arc<Self>, session: &str, generation: u64) -> Result<Seat, NoSeat> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        check(&taken, self.max, session, generation)?;
        if let Some(former) = taken.get(session) {
            former.displaced.cancel();
        }
        let displaced = CancellationToken::new();
        taken.insert(
            session.to_owned(),
            Taken {
                generation,
                displaced: displaced.clone(),
            },
        );
        Ok(Seat {
            seats: self.clone(),
            session: session.to_owned(),
            displaced,
        })
    }
}

fn check(taken: &BTreeMap<String, Taken>, max: usize, session: &str, generation: u64) -> Result<(), NoSeat> {
    match taken.get(session) {
        Some(former) if generation < former.generation => Err(NoSeat::Superseded {
            newer: former.generation,
            generation,
        }),
        None if taken.len() >= max => Err(NoSeat::Full { max }),
        _ => Ok(()),
    }
}

/// Why a session gets no seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoSeat {
    Superseded { newer: u64, generation: u64 },
    Full { max: usize },
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
        }
    }
}

/// A session's seat. One connection holds it; dropping it frees the seat.
#[derive(Debug)]
pub(crate) struct Seat {
    seats: Arc<Seats>,
    session: String,
    displaced: CancellationToken,
}

impl Seat {
    /// Resolves when a newer connection of the session has come.
    pub(crate) async fn displaced(&self) {
        self.displaced.cancelled().await;
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

    #[test]
    fn the_newest_generation_has_the_seat() {
        let seats = Seats::new(10);
        let first = seats.take("a", 1).unwrap();
        assert!(!first.displaced.is_cancelled());
        let third = seats.take("a", 3).unwrap();
        assert!(first.displaced.is_cancelled());
        assert!(matches!(seats.take("a", 2), Err(NoSeat::Superseded { .. })));
        assert!(!third.displaced.is_cancelled());
        // The old one leaves late, and the new one stays where it is.
        drop(first);
        assert!(matches!(seats.take("a", 2), Err(NoSeat::Superseded { .. })));
        let again = seats.take("a", 3).unwrap();
        assert!(third.displaced.is_cancelled());
        drop(again);
        drop(third);
        seats.take("a", 1).unwrap();
    }

    #[test]
    fn a_full_gateway_lets_in_only_who_replaces_itself() {
        let seats = Seats::new(1);
        let _first = seats.take("a", 1).unwrap();
        assert_eq!(seats.check("b", 1), Err(NoSeat::Full { max: 1 }));
        assert_eq!(seats.check("a", 1), Ok(()));
        assert!(matches!(seats.take("b", 1), Err(NoSeat::Full { max: 1 })));
        let again = seats.take("a", 2).unwrap();
        drop(again);
        seats.take("b", 1).unwrap();
    }
}
