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
fn a_black_holed_link_is_dead_within_thirty_seconds() {
    for heard_after in [0, 1, 4_000, 9_999] {
        let mut pair = Pair::up(Config::default(), Config::default());
        pair.pass(Duration::from_millis(heard_after));
        let id = pair.open(FAR);
        pair.write(FAR, id, 10).unwrap();
        pair.settle();
        let took = silence_until_dead(&mut pair);
        assert!(
            (20..=30).contains(&took.as_secs()),
            "heard after {heard_after} ms, dead after {took:?}"
        );
        assert!(
            matches!(pair.others[NEAR].last(), Some(Event::Dead { .. })),
            "{:?}",
            pair.others[NEAR]
        );
    }
}

#[test]
fn a_link_that_never_said_hello_is_dead_too() {
    let mut pair = Pair::new(Config::default(), Config::default());
    assert!(silence_until_dead(&mut pair) <= Duration::from_secs(30));
}

#[test]
fn an_idle_link_stays_up_and_asks_every_ten_seconds() {
    let mut pair = Pair::up(Config::default(), Config::default());
    let mut bytes = 0;
    for _ in 0..100 {
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
    // A ping each way in ten seconds, and its answer.
    assert!(bytes <= 100 * 4 * 16, "{bytes}");
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
    pair.settle();
    assert!(
        !pair.others[NEAR]
            .iter()
            .any(|event| matches!(event, Event::Dead { .. }))
    );
}
