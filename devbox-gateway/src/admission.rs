//! Who is let in: token, environment, and one connection per session, the newest.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use subtle::ConstantTimeEq as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tunnel_bridge::Token;
use tunnel_bridge::server::{Offer, Rejection};

use crate::served::InForce;

/// Decides on offers, and keeps who is in.
#[derive(Debug)]
pub(crate) struct Admission {
    token: watch::Receiver<Option<Token>>,
    in_force: watch::Receiver<Arc<InForce>>,
    seats: Arc<Seats>,
}

impl Admission {
    pub(crate) fn new(
        token: watch::Receiver<Option<Token>>,
        in_force: watch::Receiver<Arc<InForce>>,
        max_clients: usize,
    ) -> Self {
        let seats = Seats {
            max: max_clients,
            taken: Mutex::default(),
        };
        Self {
            token,
            in_force,
            seats: Arc::new(seats),
        }
    }

    /// Lets the offer in, or says why not. The seat that is given out tells the session's former connection to leave,
    /// and is free again when it is dropped.
    pub(crate) fn admit(&self, offer: &Offer) -> Result<Seat, Rejection> {
        // The token comes first: who has none learns nothing else.
        self.check_token(offer.token.as_ref())?;
        if let Some(wanted) = &offer.environment {
            let in_force = self.in_force.borrow();
            let served = &in_force.catalog.catalog().environment;
            if wanted != served.as_str() {
                let message = format!(
                    "unknown environment `{}`; this gateway serves `{served}`",
                    wanted.escape_debug()
                );
                return Err(Rejection::unknown_environment(message));
            }
        }
        self.seats.take(&offer.session, offer.generation)
    }

    fn check_token(&self, shown: Option<&Token>) -> Result<(), Rejection> {
        let token = self.token.borrow();
        let Some(expected) = token.as_ref() else {
            return Err(Rejection::unavailable(
                "the gateway has no token at present, its log says why",
            ));
        };
        let Some(shown) = shown else {
            return Err(Rejection::token(
                "a token is needed: `Authorization: Bearer TOKEN`",
            ));
        };
        // In constant time for tokens of one length; the length itself is not kept secret.
        let same: bool = shown
            .expose()
            .as_bytes()
            .ct_eq(expected.expose().as_bytes())
            .into();
        if same {
            Ok(())
        } else {
            Err(Rejection::token("this token is not the gateway's"))
        }
    }
}

#[derive(Debug)]
struct Seats {
    max: usize,
    /// By session id. Held for a look and a change only, never across an await.
    taken: Mutex<BTreeMap<String, Taken>>,
}

#[derive(Debug)]
struct Taken {
    generation: u64,
    displaced: CancellationToken,
}

impl Seats {
    /// A newer generation takes the session's seat, and so does the same one: a client that does not count and
    /// reconnects before we notice that its link is lost must not be locked out.
    fn take(self: &Arc<Self>, session: &str, generation: u64) -> Result<Seat, Rejection> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get(session) {
            Some(former) if generation < former.generation => {
                let message = format!(
                    "generation {} of this session is connected, this is {generation}",
                    former.generation
                );
                return Err(Rejection::superseded(message));
            }
            Some(former) => former.displaced.cancel(),
            None if taken.len() >= self.max => {
                return Err(Rejection::unavailable(format!(
                    "the gateway has {} clients already",
                    self.max
                )));
            }
            None => {}
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

/// A session's place. One connection holds it.
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
        // Asked under the lock, under which it is also set: who was displaced has no seat to free, it is the newer
        // connection's.
        if !self.displaced.is_cancelled() {
            taken.remove(&self.session);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seats(max: usize) -> Arc<Seats> {
        Arc::new(Seats {
            max,
            taken: Mutex::default(),
        })
    }

    #[test]
    fn the_newest_generation_has_the_seat() {
        let seats = seats(10);
        let first = seats.take("a", 1).unwrap();
        assert!(!first.displaced.is_cancelled());
        let third = seats.take("a", 3).unwrap();
        assert!(first.displaced.is_cancelled());
        assert_eq!(seats.take("a", 2).unwrap_err().status, 409);
        assert!(!third.displaced.is_cancelled());
        // The old one leaves late, and the new one stays where it is.
        drop(first);
        assert_eq!(seats.take("a", 2).unwrap_err().status, 409);
        let again = seats.take("a", 3).unwrap();
        assert!(third.displaced.is_cancelled());
        drop(again);
        drop(third);
        seats.take("a", 1).unwrap();
    }

    #[test]
    fn a_full_house_lets_in_only_who_replaces_itself() {
        let seats = seats(1);
        let _first = seats.take("a", 1).unwrap();
        assert_eq!(seats.take("b", 1).unwrap_err().status, 503);
        let again = seats.take("a", 2).unwrap();
        drop(again);
        seats.take("b", 1).unwrap();
    }
}
