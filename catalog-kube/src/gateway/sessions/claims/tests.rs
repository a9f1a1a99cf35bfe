use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

fn session() -> Name {
    "devbox-session-1".into()
}

fn held(holder: &str, generation: u64, version: u64) -> Held {
    Held {
        holder: holder.into(),
        generation,
        version,
    }
}

fn write(generation: u64, over: Option<u64>) -> Option<Step> {
    Some(Step::Write {
        name: session(),
        generation,
        over,
    })
}

#[test]
fn a_newer_connection_elsewhere_ends_the_older_one_here() {
    let now = Instant::now();
    let mut claims = Claims::new("a");
    let id = claims.claim(session(), 5);
    assert_eq!(claims.elsewhere(&session()), None);
    assert_eq!(claims.poll_step(now), write(5, None));
    assert_eq!(claims.poll_step(now), None, "one at a time");
    claims.handle_done(&session(), Done::Written(held("a", 5, 1)), now);
    assert_eq!(claims.poll_step(now), None);
    claims.handle_seen(session(), held("b", 7, 2));
    assert_eq!(claims.poll_step(now), None);
    assert_eq!(claims.poll_displaced(), Some(id));
    assert_eq!(claims.elsewhere(&session()), Some(7));
    // What it lets go of later is not its own any more.
    claims.release(&session(), id);
    assert_eq!(claims.poll_step(now), None);
}

#[test]
fn an_older_connection_elsewhere_loses_the_lease_however_late_it_wrote_it() {
    let now = Instant::now();
    let mut claims = Claims::new("a");
    claims.claim(session(), 5);
    assert_eq!(claims.poll_step(now), write(5, None));
    claims.handle_done(&session(), Done::Conflict, now);
    assert_eq!(claims.poll_step(now), None, "what is there is waited for");
    claims.handle_seen(session(), held("b", 4, 1));
    assert_eq!(claims.poll_step(now), write(5, Some(1)));
    claims.handle_done(&session(), Done::Written(held("a", 5, 2)), now);
    // A watch may tell of the past.
    claims.handle_seen(session(), held("b", 5, 1));
    assert_eq!((claims.poll_step(now), claims.poll_displaced()), (None, None));
    claims.handle_seen(session(), held("b", 4, 3));
    assert_eq!(claims.poll_step(now), write(5, Some(3)));
    assert_eq!(claims.poll_displaced(), None);
}

#[test]
fn of_two_equal_generations_the_later_wins() {
    let now = Instant::now();
    let mut claims = Claims::new("b");
    claims.handle_list(3, vec![(session(), held("a", 0, 2))]);
    let id = claims.claim(session(), 0);
    assert_eq!(claims.poll_step(now), write(0, Some(2)));
    claims.handle_done(&session(), Done::Written(held("b", 0, 4)), now);
    assert_eq!((claims.poll_step(now), claims.poll_displaced()), (None, None));
    claims.handle_seen(session(), held("a", 0, 5));
    assert_eq!((claims.poll_step(now), claims.poll_displaced()), (None, Some(id)));
}

#[test]
fn who_leaves_takes_the_lease_away_and_a_former_run_of_the_same_pod_left_nothing() {
    let now = Instant::now();
    let mut claims = Claims::new("a");
    claims.handle_list(9, vec![(session(), held("a", 8, 3))]);
    let delete = Some(Step::Delete {
        name: session(),
        version: 3,
    });
    assert_eq!(claims.poll_step(now), delete);
    assert_eq!(claims.elsewhere(&session()), None);
    let id = claims.claim(session(), 1);
    claims.handle_done(&session(), Done::Deleted, now);
    // That it is gone is not seen yet.
    assert_eq!(claims.poll_step(now), write(1, Some(3)));
    claims.handle_done(&session(), Done::Conflict, now);
    assert_eq!(claims.poll_step(now), None);
    claims.handle_gone(&session(), 10);
    assert_eq!(claims.poll_step(now), write(1, None));
    claims.handle_done(&session(), Done::Written(held("a", 1, 11)), now);
    claims.renew(&session(), id, 2);
    assert_eq!(claims.poll_step(now), write(2, Some(11)));
    claims.handle_done(&session(), Done::Written(held("a", 2, 12)), now);
    claims.release(&session(), id);
    assert!(matches!(
        claims.poll_step(now),
        Some(Step::Delete { version: 12, .. })
    ));
}

#[test]
fn a_later_claim_of_the_same_replica_outlives_the_end_of_the_former() {
    let now = Instant::now();
    let mut claims = Claims::new("a");
    let former = claims.claim(session(), 1);
    claims.poll_step(now).unwrap();
    claims.claim(session(), 2);
    claims.release(&session(), former);
    claims.handle_done(&session(), Done::Written(held("a", 1, 1)), now);
    assert_eq!(claims.poll_step(now), write(2, Some(1)));
}

#[test]
fn while_the_api_server_is_away_it_is_asked_more_and_more_seldom() {
    let mut now = Instant::now();
    let mut claims = Claims::new("a");
    claims.claim(session(), 1);
    let mut pauses = Vec::new();
    for _ in 0..7 {
        claims.poll_step(now).unwrap();
        claims.handle_done(&session(), Done::Failed, now);
        assert_eq!(claims.poll_step(now), None);
        let due = claims.poll_timeout().unwrap();
        pauses.push((due - now).as_millis());
        now = due;
    }
    assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 5000, 5000]);
    claims.poll_step(now).unwrap();
    claims.handle_done(&session(), Done::Written(held("a", 1, 1)), now);
    assert_eq!(claims.poll_timeout(), None);
}

/// An API server with one Lease, and replicas that hear of it late.
struct World {
    lease: Option<Held>,
    version: u64,
    replicas: Vec<Replica>,
}

struct Replica {
    claims: Claims,
    events: VecDeque<(u64, Option<Held>)>,
    asked: Option<Step>,
    /// Its claim, if it has the session.
    has: Option<(ClaimId, u64)>,
}

const NAMES: [&str; 3] = ["a", "b", "c"];

impl World {
    fn new() -> Self {
        let replica = |name: &&str| Replica {
            claims: Claims::new(name),
            events: VecDeque::new(),
            asked: None,
            has: None,
        };
        Self {
            lease: None,
            version: 0,
            replicas: NAMES.iter().map(replica).collect(),
        }
    }

    fn claim(&mut self, of: usize, generation: u64) {
        let replica = &mut self.replicas[of];
        // As admission has it: nobody comes in who is older than what is known.
        let here = replica.has.map(|(_, generation)| generation);
        if here.max(replica.claims.elsewhere(&session())) <= Some(generation) {
            replica.has = Some((replica.claims.claim(session(), generation), generation));
        }
    }

    fn release(&mut self, of: usize) {
        let replica = &mut self.replicas[of];
        if let Some((id, _)) = replica.has.take() {
            replica.claims.release(&session(), id);
        }
    }

    fn hear(&mut self, of: usize) {
        let replica = &mut self.replicas[of];
        match replica.events.pop_front() {
            Some((_, Some(held))) => replica.claims.handle_seen(session(), held),
            Some((version, None)) => replica.claims.handle_gone(&session(), version),
            None => {}
        }
    }

    fn act(&mut self, of: usize, fails: bool, now: Instant) {
        let replica = &mut self.replicas[of];
        if replica.asked.is_none() {
            replica.asked = replica.claims.poll_step(now);
        } else if let Some(step) = replica.asked.take() {
            let done = if fails {
                Done::Failed
            } else {
                self.answer(of, &step)
            };
            self.replicas[of].claims.handle_done(&session(), done, now);
        }
        let replica = &mut self.replicas[of];
        while let Some(id) = replica.claims.poll_displaced() {
            replica.has.take_if(|(has, _)| *has == id);
        }
    }

    fn answer(&mut self, of: usize, step: &Step) -> Done {
        let version = self.lease.as_ref().map(|held| held.version);
        let next = self.version + 1;
        let (after, done) = match step {
            Step::Write { generation, over, .. } if *over == version => {
                let written = held(NAMES[of], *generation, next);
                (Some(written.clone()), Done::Written(written))
            }
            Step::Delete { version: of, .. } if Some(*of) == version => (None, Done::Deleted),
            _ => return Done::Conflict,
        };
        self.version = next;
        self.lease = after;
        for replica in &mut self.replicas {
            replica.events.push_back((next, self.lease.clone()));
        }
        done
    }

    /// Until nobody has anything to do any more.
    fn rest(&mut self, mut now: Instant) {
        for _ in 0..200 {
            now += LONGEST_PAUSE;
            for of in 0..self.replicas.len() {
                while !self.replicas[of].events.is_empty() {
                    self.hear(of);
                }
                self.act(of, false, now);
            }
        }
        assert!(self.replicas.iter().all(|replica| replica.asked.is_none()));
    }

    fn has(&self) -> Vec<(&str, u64)> {
        let each = NAMES.iter().zip(&self.replicas);
        each.filter_map(|(name, replica)| Some((*name, replica.has?.1)))
            .collect()
    }
}

proptest! {
    #[test]
    fn whatever_comes_late_or_fails_the_newest_connection_stays_and_no_other(
        steps in prop::collection::vec((0..3_usize, 0..8_u8), 1..80),
        generations in Just((1..=80_u64).collect::<Vec<_>>()).prop_shuffle(),
        leave in any::<bool>(),
    ) {
        let mut world = World::new();
        let mut generations = generations.into_iter();
        let mut newest = None;
        let mut now = Instant::now();
        for (of, what) in steps {
            now += FIRST_PAUSE;
            match what {
                0 => {
                    let generation = generations.next().unwrap();
                    world.claim(of, generation);
                    newest = newest.max(Some(generation));
                }
                1 if leave => world.release(of),
                2 | 3 => world.hear(of),
                4 => world.act(of, true, now),
                _ => world.act(of, false, now),
            }
        }
        world.rest(now);
        let has = world.has();
        prop_assert!(has.len() <= 1, "{has:?}");
        let said = world.lease.as_ref().map(|held| (&*held.holder, held.generation));
        prop_assert_eq!(has.first().copied(), said);
        if !leave {
            prop_assert_eq!(said.map(|(_, generation)| generation), newest);
        }
    }
}
