//! Virtual time: who is asked, and who is dead.

use std::time::Duration;

use tunnel_proto::{Config, Event};

use crate::support::{FAR, NEAR, Pair};

/// Lets `end`'s clock run until it gives up, without the other one; how long that takes.
fn silence_until_dead(pair: &mut Pair) -> Duration {
    let since = pair.now;
    while let Some(due) = pair.ends[NEAR].poll_timeout() {
        assert!(due > pair.now, "a timeout that is due must move on");
        pair.now = due;
        pair.ends[NEAR].handle_timeout(pair.now);
        pair.transmit(NEAR, 1000);
        assert!(pair.now - since < Duration::from_secs(60), "never dead");
    }
    pair.now - since
}

#[test]
fn a_black_holed_link_is_dead_eighteen_seconds_after_the_last_byte() {
    for heard_after in [0, 1, 4_000, 5_999, 6_001, 17_000] {
        let mut pair = Pair::up(Config::default(), Config::default());
        let heard_at = pair.now + Duration::from_millis(heard_after);
        while let Some(due) = pair.ends[NEAR].poll_timeout().filter(|&due| due < heard_at) {
            pair.now = due;
            pair.ends[NEAR].handle_timeout(due);
        }
        pair.now = heard_at;
        let id = pair.open(FAR);
        pair.write(FAR, id, 10).unwrap();
        pair.settle();
        let took = silence_until_dead(&mut pair);
        assert_eq!(
            took,
            Duration::from_secs(18),
            "heard after {heard_after} ms, dead after {took:?}"
        );
        assert!(
            matches!(pair.others[NEAR].last(), Some(Event::Dead { silent_for }) if *silent_for == took),
            "{:?}",
            pair.others[NEAR]
        );
    }
}

/// What a network change asks for: an answer now, whatever came shortly before.
#[test]
fn a_probe_without_an_answer_is_the_end_of_the_link_within_its_patience() {
    let patience = Duration::from_secs(1);
    let mut pair = Pair::up(Config::default(), Config::default());
    pair.pass(Duration::from_secs(2));
    pair.ends[NEAR].probe(patience, pair.now);
    // On its way before the network changed.
    let id = pair.open(FAR);
    pair.transmit(FAR, 1000);
    pair.deliver(NEAR, usize::MAX).unwrap();
    assert!(pair.seen[NEAR].contains_key(&id));
    assert_eq!(silence_until_dead(&mut pair), patience);
}

#[test]
fn a_probe_that_is_answered_leaves_the_link_alone() {
    let mut pair = Pair::up(Config::default(), Config::default());
    pair.ends[NEAR].probe(Duration::from_secs(1), pair.now);
    pair.settle();
    pair.pass(Duration::from_millis(1001));
    pair.ends[NEAR].handle_timeout(pair.now);
    assert!(
        pair.others[NEAR]
            .iter()
            .all(|event| !matches!(event, Event::Dead { .. }))
    );
    // Only a later byte says that the peer is still there, whatever it is.
    pair.ends[NEAR].probe(Duration::from_secs(1), pair.now);
    pair.pass(Duration::from_millis(500));
    pair.open(FAR);
    pair.transmit(FAR, 1000);
    pair.deliver(NEAR, usize::MAX).unwrap();
    assert!(pair.ends[NEAR].poll_timeout().unwrap() > pair.now + Duration::from_secs(1));
}

#[test]
fn a_link_that_never_said_hello_is_dead_too() {
    let mut pair = Pair::new(Config::default(), Config::default());
    assert!(silence_until_dead(&mut pair) <= Duration::from_secs(30));
}

#[test]
fn an_idle_link_stays_up_and_one_side_asks_every_six_seconds() {
    let mut pair = Pair::up(Config::default(), Config::default());
    let mut bytes = 0;
    let start = pair.now;
    while pair.now - start < Duration::from_secs(600) {
        let due = [NEAR, FAR].map(|end| pair.ends[end].poll_timeout().unwrap());
        pair.now = due[0].min(due[1]);
        for end in [NEAR, FAR] {
            pair.ends[end].handle_timeout(pair.now);
            pair.transmit(end, 1000);
            bytes += pair.wires[1 - end].len();
        }
        pair.settle();
    }
    assert!(
        !pair
            .others
            .iter()
            .flatten()
            .any(|event| matches!(event, Event::Dead { .. }))
    );
    // A ping, of both sides where they ask at the same moment, and its answer.
    assert!(bytes <= 101 * 4 * 16, "{bytes}");
}

/// After sleep or suspension the first look at the clock is late: that alone is no reason to give up.
#[test]
fn a_machine_that_slept_asks_again_before_it_gives_up() {
    let mut pair = Pair::up(Config::default(), Config::default());
    pair.pass(Duration::from_secs(3600));
    pair.ends[NEAR].handle_timeout(pair.now);
    pair.ends[FAR].handle_timeout(pair.now);
    pair.settle();
    pair.pass(Duration::from_secs(10));
    pair.ends[NEAR].handle_timeout(pair.now);
    // Asleep once more, while the answer was on its way.
    pair.pass(Duration::from_secs(3600));
    pair.ends[NEAR].handle_timeout(pair.now);
    pair.settle();
    assert!(
        !pair.others[NEAR]
            .iter()
            .any(|event| matches!(event, Event::Dead { .. }))
    );
}
