//! What waits for something to go with: ACCEPTs, and ends that nobody waits for.

use std::time::Duration;

use bytes::BytesMut;
use tunnel_proto::{Config, ResetReason, StreamId};

use crate::support::{FAR, NEAR, Pair, byte};

const DELAY: Duration = Duration::from_millis(1);

/// Two ends that have met; the far one delays what it answers.
fn up() -> Pair {
    let far = Config {
        coalesce_delay: DELAY,
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

/// Two ends of which both delay, with a stream whose request was answered: nothing waits any more.
fn answered() -> (Pair, StreamId) {
    let config = Config {
        coalesce_delay: DELAY,
        ..Config::default()
    };
    let mut pair = Pair::up(config.clone(), config);
    let id = exchange(&mut pair);
    (pair, id)
}

/// A stream with a request and its answer.
fn exchange(pair: &mut Pair) -> StreamId {
    let id = pair.open(NEAR);
    pair.write(NEAR, id, 100).unwrap();
    pair.settle();
    pair.write(FAR, id, 10).unwrap();
    pair.settle();
    assert_eq!(pair.seen[NEAR][&id].received, 10);
    id
}

fn is_finished(pair: &Pair, end: usize, id: StreamId) -> bool {
    pair.seen[end][&id].finished
}

#[test]
fn an_end_after_the_answer_is_sent_after_its_delay() {
    let (mut pair, id) = answered();
    pair.ends[NEAR].finish(id, pair.now).unwrap();
    pair.settle();
    assert!(!is_finished(&pair, FAR, id));
    assert_eq!(pair.ends[NEAR].poll_timeout(), Some(pair.now + DELAY));
    pair.pass(DELAY);
    pair.ends[NEAR].handle_timeout(pair.now);
    pair.settle();
    assert!(is_finished(&pair, FAR, id));
    // The answering end has heard last as well.
    pair.ends[FAR].finish(id, pair.now).unwrap();
    pair.settle();
    assert!(!is_finished(&pair, NEAR, id));
    pass(&mut pair, DELAY);
    assert!(is_finished(&pair, NEAR, id));
    assert!(pair.seen.iter().all(|seen| seen[&id].closed));
}

/// Whoever waits for each end before they go on waits for one of many.
#[test]
fn after_an_end_has_waited_in_vain_none_waits_for_a_while() {
    let (mut pair, first) = answered();
    pair.ends[NEAR].finish(first, pair.now).unwrap();
    pair.pass(DELAY);
    pair.ends[NEAR].handle_timeout(pair.now);
    for _ in 0..10 {
        let id = exchange(&mut pair);
        pair.ends[NEAR].finish(id, pair.now).unwrap();
        pair.settle();
        assert!(is_finished(&pair, FAR, id));
        pair.pass(4 * DELAY);
    }
    pair.pass(10 * DELAY);
    let id = exchange(&mut pair);
    pair.ends[NEAR].finish(id, pair.now).unwrap();
    pair.settle();
    assert!(!is_finished(&pair, FAR, id), "it is tried again");
}

#[test]
fn an_end_goes_with_the_next_request_in_one_message_and_behind_it() {
    let (mut pair, id) = answered();
    pair.ends[NEAR].finish(id, pair.now).unwrap();
    let next = pair.open(NEAR);
    pair.write(NEAR, next, 1).unwrap();
    let mut wire = BytesMut::new();
    assert!(pair.ends[NEAR].poll_transmit(&mut wire, 64 * 1024));
    assert!(!pair.ends[NEAR].wants_transmit());
    // OPEN first, and last DATA with its one byte and FIN.
    let data = wire.len() - 8 - 9;
    assert_eq!((wire[0], wire[data], wire[data + 9]), (0x10, 0x13, 0x14));
    pair.wires[FAR].unsplit(wire);
    pair.settle();
    assert!(is_finished(&pair, FAR, id));
    assert_eq!(pair.seen[FAR][&next].received, 1);
}

/// It may be a request that ends there, or an answer.
#[test]
fn an_end_behind_data_of_its_own_does_not_wait() {
    let (mut pair, id) = answered();
    pair.write(NEAR, id, 1).unwrap();
    pair.settle();
    pair.ends[NEAR].finish(id, pair.now).unwrap();
    pair.settle();
    assert!(is_finished(&pair, FAR, id));
    pair.write(FAR, id, 1).unwrap();
    pair.ends[FAR].finish(id, pair.now).unwrap();
    pair.settle();
    assert!(is_finished(&pair, NEAR, id));
    // Nor does one of a stream on which nothing was said.
    let silent = pair.open(NEAR);
    pair.ends[NEAR].finish(silent, pair.now).unwrap();
    pair.settle();
    assert!(is_finished(&pair, FAR, silent));
}

/// What ends makes room at once, at either end.
#[test]
fn a_stream_whose_end_waits_takes_no_place() {
    let config = Config {
        coalesce_delay: DELAY,
        max_streams: 1,
        max_pending_opens: 1,
        max_pending_opens_per_target: 1,
        ..Config::default()
    };
    let mut pair = Pair::up(config.clone(), config);
    for _ in 0..3 {
        let id = exchange(&mut pair);
        pair.write(FAR, id, 1).unwrap();
        pair.ends[FAR].finish(id, pair.now).unwrap();
        pair.settle();
        pair.ends[NEAR].finish(id, pair.now).unwrap();
        // The next one takes its place: see `exchange`.
    }
}

#[test]
fn a_reset_comes_behind_the_end_that_waited() {
    let (mut pair, id) = answered();
    pair.ends[NEAR].finish(id, pair.now).unwrap();
    pair.ends[NEAR].reset(id, ResetReason::Cancelled).unwrap();
    pair.settle();
    assert!(is_finished(&pair, FAR, id));
    assert!(pair.seen[FAR][&id].reset.is_some());
}
