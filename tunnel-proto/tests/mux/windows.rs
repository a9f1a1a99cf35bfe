//! What a peer may make an end hold, by way of windows that have grown.

use std::time::Duration;

use tunnel_proto::{Config, Event, StreamId};

use crate::support::{FAR, NEAR, Pair, small};

const RTT: Duration = Duration::from_millis(40);
const STREAMS: usize = 12;

/// Room for [`STREAMS`] streams, of which a few can have a grown window.
fn limits() -> Config {
    Config {
        max_pending_opens: 64,
        receive_budget: 1536 * 1024,
        ..small()
    }
}

/// Two ends with a measured round trip.
fn pair(config: Config) -> Pair {
    let mut pair = Pair::new(config.clone(), config);
    pair.transmit(FAR, 1000);
    pair.transmit(NEAR, 1000);
    pair.pass(RTT);
    pair.settle();
    pair.pass(RTT);
    pair.settle();
    pair.read_at_once = false;
    pair
}

/// Removes what asks for credit back from what is on its way to the near end, as if that did not know the kind.
fn drop_reclaims(pair: &mut Pair) -> usize {
    let (mut kept, mut dropped) = (bytes::BytesMut::new(), 0);
    while let Some(head) = pair.wires[NEAR].first_chunk::<8>().copied() {
        let len = usize::from(head[1]) << 16 | usize::from(head[2]) << 8 | usize::from(head[3]);
        let frame = pair.wires[NEAR].split_to(8 + len);
        if head[0] == 0x90 {
            dropped += 1;
        } else {
            kept.extend_from_slice(&frame);
        }
    }
    pair.wires[NEAR] = kept;
    dropped
}

/// Sends as much as the window lets it; how much was under way at once. Everything is read.
fn fill(pair: &mut Pair, id: StreamId) -> u32 {
    pair.write(NEAR, id, 400_000).unwrap();
    let mut most = 0;
    while pair.seen[FAR][&id].received < pair.given[NEAR][&id] {
        pair.settle();
        most = most.max(pair.seen[FAR][&id].unread);
        pair.read(FAR, id, u32::MAX);
        pair.pass(RTT);
    }
    pair.settle();
    most
}

/// Grows a stream's window to its largest, if the budget lets it; the window then.
fn grow(pair: &mut Pair, id: StreamId) -> u32 {
    (0..5).map(|_| fill(pair, id)).max().unwrap()
}

fn rest(pair: &mut Pair, cooperative: bool) -> usize {
    let mut dropped = 0;
    for _ in 0..6 {
        pair.pass(Duration::from_secs(5));
        pair.ends[FAR].handle_timeout(pair.now);
        pair.transmit(FAR, 64 * 1024);
        if !cooperative {
            dropped += drop_reclaims(pair);
        }
        // A ping may be among it: the round trip stays what it was.
        pair.pass(RTT);
        pair.settle();
    }
    dropped
}

#[test]
fn idle_streams_give_their_windows_back_without_being_read() {
    let mut pair = pair(limits());
    for _ in 0..STREAMS {
        let id = pair.open(NEAR);
        pair.settle();
        // The budget must come free again and again.
        assert_eq!(grow(&mut pair, id), 256 * 1024, "stream {id}");
        rest(&mut pair, true);
    }
    // Nobody lost anything by it, and nobody has more than the initial window.
    let ids = pair.seen[NEAR].keys().copied().collect::<Vec<_>>();
    for &id in &ids {
        pair.write(NEAR, id, 400_000).unwrap();
    }
    pair.settle();
    for &id in &ids {
        assert_eq!(pair.seen[FAR][&id].unread, 64 * 1024, "stream {id}");
    }
    pair.settle_reading();
    for &id in &ids {
        assert_eq!(pair.seen[FAR][&id].received, pair.given[NEAR][&id]);
    }
}

#[test]
fn a_peer_that_keeps_its_credit_cannot_exceed_the_budget() {
    let mut pair = pair(limits());
    let mut asked = 0;
    for _ in 0..STREAMS {
        let id = pair.open(NEAR);
        pair.settle();
        grow(&mut pair, id);
        asked += rest(&mut pair, false);
        // A read after the rest shrinks the window as well; the credit is still the peer's.
        pair.write(NEAR, id, 1).unwrap();
        pair.settle();
        pair.read(FAR, id, 1);
    }
    assert!(asked >= 2, "nothing was asked back");
    for id in pair.seen[NEAR].keys().copied().collect::<Vec<_>>() {
        pair.write(NEAR, id, 400_000).unwrap();
    }
    pair.settle();
    let unread = pair.seen[FAR]
        .values()
        .map(|seen| u64::from(seen.unread))
        .sum::<u64>();
    let limit = STREAMS as u64 * u64::from(limits().initial_window) + limits().receive_budget;
    assert!(unread <= limit, "{unread} bytes are held, {limit} at most may be");
    pair.settle_reading();
}

/// What is under way when credit is asked back arrives all the same.
#[test]
fn asking_credit_back_from_a_busy_stream_loses_nothing() {
    let mut pair = pair(limits());
    let id = pair.open(NEAR);
    pair.settle();
    grow(&mut pair, id);
    pair.pass(Duration::from_secs(11));
    pair.ends[FAR].handle_timeout(pair.now);
    // Data and the question cross.
    pair.write(NEAR, id, 400_000).unwrap();
    pair.transmit(NEAR, 100_000);
    pair.transmit(FAR, 64 * 1024);
    pair.settle_reading();
    assert_eq!(pair.seen[FAR][&id].received, pair.given[NEAR][&id]);
}

/// Windows as they are by default, a sixteenth of everything.
fn sixteenth() -> Config {
    Config {
        initial_window: 4 * 1024,
        resting_window: 16 * 1024,
        max_window: 512 * 1024,
        max_frame: 8 * 1024,
        receive_budget: 4 * 1024 * 1024,
        max_streams: 4096,
        max_pending_opens: 4096,
        max_pending_opens_per_target: 4096,
        ..Config::default()
    }
}

fn unread(pair: &Pair, end: usize) -> u64 {
    pair.seen[end].values().map(|seen| u64::from(seen.unread)).sum()
}

#[test]
fn a_stream_has_its_window_as_it_opens() {
    for opener in [NEAR, FAR] {
        let mut pair = pair(sixteenth());
        let id = pair.open(opener);
        pair.settle();
        for end in [NEAR, FAR] {
            pair.write(end, id, 100_000).unwrap();
        }
        pair.settle();
        for end in [NEAR, FAR] {
            assert_eq!(pair.seen[end][&id].unread, 16 * 1024);
        }
    }
}

#[test]
fn streams_that_nobody_reads_hold_no_more_than_the_budget() {
    let mut pair = pair(sixteenth());
    let stalled = (0..300).map(|_| pair.open(NEAR)).collect::<Vec<_>>();
    pair.settle();
    for &id in &stalled {
        for end in [NEAR, FAR] {
            pair.write(end, id, 20_000).unwrap();
        }
    }
    pair.settle();
    for end in [NEAR, FAR] {
        let held = unread(&pair, end);
        let limit = 4 * 1024 * 1024 + 300 * 4 * 1024;
        assert!(held <= limit, "{held} bytes are held, {limit} at most may be");
        for id in &stalled {
            assert!(
                pair.seen[end][id].unread >= 4 * 1024,
                "each has its initial window"
            );
        }
    }
    // A stream that is read beside them grows as without them.
    let fast = pair.open(NEAR);
    pair.settle();
    let window = grow(&mut pair, fast);
    assert!(window >= 64 * 1024, "{window}");
}

#[test]
fn streams_that_stop_being_read_after_they_grew_hold_no_more_than_the_budget() {
    let mut pair = pair(sixteenth());
    for _ in 0..16 {
        let id = pair.open(NEAR);
        pair.settle();
        grow(&mut pair, id);
        pair.write(NEAR, id, 400_000).unwrap();
        pair.settle();
        let held = unread(&pair, FAR);
        assert!(held <= 4 * 1024 * 1024, "{held} bytes are held");
    }
    // The next one finds room to grow.
    let fast = pair.open(NEAR);
    pair.settle();
    let window = grow(&mut pair, fast);
    assert!(window >= 32 * 1024, "{window}");
    pair.settle_reading();
}

/// By default the first stream that needs it has half of the budget, and however many streams are open and idle, one that is read grows.
#[test]
fn one_stream_grows_to_half_of_the_budget_beside_any_number_of_idle_ones() {
    let mut pair = pair(Config {
        max_window: 4 * 1024 * 1024,
        ..sixteenth()
    });
    // Their initial windows alone are twice the budget.
    for _ in 0..2048 {
        pair.open(NEAR);
        pair.settle();
    }
    rest(&mut pair, true);
    let fast = pair.open(NEAR);
    pair.settle();
    pair.write(NEAR, fast, 12_000_000).unwrap();
    let mut window = 0;
    while pair.seen[FAR][&fast].received < pair.given[NEAR][&fast] {
        pair.settle();
        window = window.max(pair.seen[FAR][&fast].unread);
        pair.read(FAR, fast, u32::MAX);
        pair.pass(RTT);
    }
    assert!(window >= 1536 * 1024, "{window}");
    // Nobody reads it any more: others find room.
    pair.write(NEAR, fast, 4_000_000).unwrap();
    pair.settle();
    let other = pair.open(NEAR);
    pair.settle();
    let other = grow(&mut pair, other);
    assert!(other >= 64 * 1024, "{other}");
    let held = unread(&pair, FAR);
    let limit = 4 * 1024 * 1024 + 2050 * 4 * 1024;
    assert!(held <= limit, "{held} bytes are held, {limit} at most may be");
}

/// What its window has above the initial one goes with the answer, in one piece. A long request has it before.
#[test]
fn a_request_gets_the_rest_of_its_window_with_its_answer_unless_it_is_long() {
    const ACCEPT_AND_CREDIT: usize = 8 + 8 + 4;
    let mut pair = pair(sixteenth());
    pair.accept_at_once = false;
    let short = pair.open(NEAR);
    pair.write(NEAR, short, 1000).unwrap();
    pair.settle();
    assert_eq!(pair.seen[FAR][&short].unread, 1000);
    pair.ends[FAR].accept(short, pair.now).unwrap();
    pair.transmit(FAR, 64 * 1024);
    assert_eq!(pair.wires[NEAR].len(), ACCEPT_AND_CREDIT);
    pair.write(NEAR, short, 400_000).unwrap();
    pair.settle();
    assert_eq!(pair.seen[FAR][&short].unread, 16 * 1024);

    let long = pair.open(NEAR);
    pair.write(NEAR, long, 400_000).unwrap();
    pair.settle();
    assert_eq!(pair.seen[FAR][&long].unread, 16 * 1024);
    pair.ends[FAR].accept(long, pair.now).unwrap();
    pair.settle_reading();
    assert_eq!(pair.seen[FAR][&long].received, 400_000);
}

/// A request that is waited for sends nothing back.
#[test]
fn nothing_is_sent_back_before_a_short_request_is_answered() {
    let mut pair = pair(sixteenth());
    pair.accept_at_once = false;
    let id = pair.open(NEAR);
    pair.write(NEAR, id, 1000).unwrap();
    pair.transmit(NEAR, 64 * 1024);
    pair.deliver(FAR, usize::MAX).unwrap();
    assert!(!pair.transmit(FAR, 64 * 1024));
}

/// What an owner is told of a stream's credit is what it can send.
#[test]
fn credit_is_told_to_the_owner_byte_for_byte() {
    let mut pair = pair(sixteenth());
    let id = pair.open(NEAR);
    pair.settle();
    pair.write(NEAR, id, 400_000).unwrap();
    for _ in 0..3 {
        pair.settle();
        pair.read(FAR, id, u32::MAX);
        pair.pass(RTT);
    }
    rest(&mut pair, true);
    pair.settle();
    let told = |event: &Event| match event {
        Event::Credit { bytes, .. } => i64::from(*bytes),
        Event::CreditReturned { bytes, .. } => -i64::from(*bytes),
        _ => 0,
    };
    let told = pair.others[NEAR].iter().map(told).sum::<i64>();
    let used = i64::try_from(pair.seen[NEAR][&id].sent).unwrap();
    pair.write(NEAR, id, 1_000_000).unwrap();
    pair.settle();
    let more = i64::try_from(pair.seen[NEAR][&id].sent).unwrap() - used;
    assert_eq!(told - used, more);
}
