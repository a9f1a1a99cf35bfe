//! ACCEPTs that wait for something to go with.

use std::time::Duration;

use bytes::BytesMut;
use tunnel_proto::{Config, ResetReason, StreamId};

use crate::support::{FAR, NEAR, Pair, byte};

const DELAY: Duration = Duration::from_millis(1);

/// Two ends that have met; the far one delays what it answers.
fn up() -> Pair {
    let far = Config {
        accept_delay: DELAY,
        ..Config::default()
    };
    Pair::up(Config::default(), far)
}

fn pass(pair: &mut Pair, time: Duration) {
    pair.pass(time);
    pair.ends[FAR].handle_timeout(pair.now);
    pair.settle();
}

fn is_accepted(pair: &Pair, id: StreamId) -> bool {
    pair.seen[NEAR][&id].accepted
}

#[test]
fn an_accept_with_nothing_to_go_with_is_sent_after_its_delay() {
    let mut pair = up();
    let id = pair.open(NEAR);
    pair.settle();
    assert!(!is_accepted(&pair, id));
    // A second one does not put the first one off.
    pass(&mut pair, DELAY / 2);
    let later = pair.open(NEAR);
    pair.settle();
    assert_eq!(pair.ends[FAR].poll_timeout(), Some(pair.now + DELAY / 2));
    pass(&mut pair, DELAY / 2);
    assert!(is_accepted(&pair, id) && is_accepted(&pair, later));
}

#[test]
fn an_accept_goes_with_the_answer_in_one_message() {
    let mut pair = up();
    let id = pair.open(NEAR);
    pair.write(NEAR, id, 100).unwrap();
    pair.settle();
    assert_eq!(
        (pair.seen[FAR][&id].received, is_accepted(&pair, id)),
        (100, false)
    );
    pair.write(FAR, id, 10).unwrap();
    let mut wire = BytesMut::new();
    assert!(pair.ends[FAR].poll_transmit(&mut wire, 64 * 1024));
    // ACCEPT, CREDIT, then DATA with its ten bytes.
    assert_eq!((wire[0], wire[8], wire[20]), (0x11, 0x16, 0x13));
    assert_eq!(wire[28], byte(id, FAR, 0));
    assert_eq!(wire.len(), 8 + 12 + 8 + 10);
    pair.wires[NEAR].unsplit(wire);
    pair.settle();
    assert!(is_accepted(&pair, id));
    assert_eq!(pair.seen[NEAR][&id].received, 10);
}

/// The credit that comes with it is what a long request waits for.
#[test]
fn an_accept_does_not_wait_where_the_request_is_long() {
    // Before it is accepted ...
    let mut pair = up();
    (pair.accept_at_once, pair.read_at_once) = (false, false);
    let id = pair.open(NEAR);
    pair.write(NEAR, id, 6_000).unwrap();
    pair.settle();
    pair.ends[FAR].accept(id, pair.now).unwrap();
    pair.settle();
    assert!(is_accepted(&pair, id));
    // ... and after that.
    let mut pair = up();
    let id = pair.open(NEAR);
    pair.settle();
    assert!(!is_accepted(&pair, id));
    pair.write(NEAR, id, 6_000).unwrap();
    pair.settle();
    assert!(is_accepted(&pair, id));
}

#[test]
fn a_reset_comes_behind_the_accept_that_waited() {
    let mut pair = up();
    let id = pair.open(NEAR);
    pair.settle();
    pair.ends[FAR].reset(id, ResetReason::Cancelled).unwrap();
    pair.settle();
    assert!(is_accepted(&pair, id));
    assert!(pair.seen[NEAR][&id].reset.is_some());
}

/// A peer may have no more than so many unanswered.
#[test]
fn many_accepts_do_not_wait() {
    let mut pair = up();
    let ids: Vec<_> = (0..100).map(|_| pair.open(NEAR)).collect();
    pair.settle();
    assert!(ids.iter().all(|&id| is_accepted(&pair, id)));
}
