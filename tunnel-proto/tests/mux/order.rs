//! Who goes first, how much, and how many.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tunnel_proto::{
    Config, Connection, Error, Event, GoAwayReason, Refusal, RefusalKind, ResetReason, Role, StreamId,
};

use crate::support::{FAR, NEAR, Pair, frame, small};

/// Kind, length and stream of each frame.
fn frames(mut bytes: &[u8]) -> Vec<(u8, usize, u32)> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let len = usize::from(bytes[1]) << 16 | usize::from(bytes[2]) << 8 | usize::from(bytes[3]);
        let stream = u32::from_be_bytes(bytes[4..8].try_into().unwrap());
        all.push((bytes[0], len, stream));
        bytes = &bytes[8 + len..];
    }
    all
}

#[test]
fn streams_take_turns_a_frame_each() {
    let mut pair = Pair::up(small(), small());
    let ids = [pair.open(NEAR), pair.open(NEAR), pair.open(NEAR)];
    pair.settle();
    for id in ids {
        pair.write(NEAR, id, 3 * 8192).unwrap();
    }
    pair.transmit(NEAR, 1_000_000);
    let numbers = ids.map(StreamId::number);
    let order = frames(&pair.wires[FAR])
        .into_iter()
        .map(|(_, len, id)| (len, id))
        .collect::<Vec<_>>();
    assert_eq!(order, numbers.map(|id| (8192, id)).repeat(3));
}

#[test]
fn short_requests_go_before_bulk_and_do_not_starve_it() {
    let mut pair = Pair::up(
        Config {
            max_pending_opens: 64,
            ..small()
        },
        Config {
            max_pending_opens: 64,
            ..small()
        },
    );
    let bulk = pair.open(NEAR);
    let brief = (0..40).map(|_| pair.open(NEAR)).collect::<Vec<_>>();
    pair.settle();
    pair.write(NEAR, bulk, 60_000).unwrap();
    for &id in &brief {
        pair.write(NEAR, id, 100).unwrap();
    }
    pair.transmit(NEAR, 1_000_000);
    let order = frames(&pair.wires[FAR]);
    let at = |wanted: u32| order.iter().position(|&(_, _, id)| id == wanted).unwrap();
    assert_eq!(at(brief[0].number()), 0);
    assert_eq!(at(bulk.number()), 16);
    assert!(at(brief[39].number()) < order.len() - 4, "{order:?}");
}

#[test]
fn control_goes_before_data() {
    let mut pair = Pair::up(small(), small());
    let bulk = pair.open(NEAR);
    pair.settle();
    pair.write(NEAR, bulk, 60_000).unwrap();
    let late = pair.open(NEAR);
    pair.transmit(NEAR, 1);
    assert_eq!(frames(&pair.wires[FAR])[0], (0x10, 6, late.number()));
}

#[test]
fn a_transmit_keeps_near_its_limit() {
    let mut pair = Pair::up(small(), small());
    let id = pair.open(NEAR);
    pair.settle();
    pair.write(NEAR, id, 60_000).unwrap();
    pair.transmit(NEAR, 10_000);
    assert_eq!(pair.wires[FAR].len(), 2 * (8192 + 8));
}

#[test]
fn frames_are_no_longer_than_the_other_end_takes() {
    let mut pair = Pair::up(
        small(),
        Config {
            max_frame: 1024,
            ..small()
        },
    );
    let id = pair.open(NEAR);
    pair.settle();
    pair.write(NEAR, id, 5000).unwrap();
    pair.write(FAR, id, 5000).unwrap();
    pair.settle();
    assert_eq!(pair.seen[FAR][&id].received, 5000);
    assert_eq!(pair.seen[NEAR][&id].received, 5000);
}

#[test]
fn opens_beyond_the_limit_wait_and_more_streams_than_allowed_are_an_error() {
    let mut pair = Pair::up(small(), small());
    pair.accept_at_once = false;
    let ids = (0..64).map(|_| pair.open(NEAR)).collect::<Vec<_>>();
    assert_eq!(
        pair.ends[NEAR].open(b"x", pair.now),
        Err(Error::TooManyStreams { limit: 64 })
    );
    pair.settle();
    let opened = |pair: &Pair| pair.seen[FAR].len();
    assert_eq!(opened(&pair), 3);
    // One that is reset while it waits is never heard of.
    pair.ends[NEAR].reset(ids[3], ResetReason::Cancelled).unwrap();
    pair.ends[FAR].accept(ids[0], pair.now).unwrap();
    pair.ends[FAR]
        .refuse(ids[1], &Refusal::new(RefusalKind::NotFound, "gone\nnow"))
        .unwrap();
    pair.settle();
    assert_eq!(opened(&pair), 5);
    assert!(!pair.seen[FAR].contains_key(&ids[3]));
    assert!(pair.seen[NEAR][&ids[0]].accepted);
    let refusal = pair.seen[NEAR][&ids[1]].refused.clone().unwrap();
    assert_eq!(
        (refusal.kind, refusal.message.as_str()),
        (RefusalKind::NotFound, "gone now")
    );
    pair.accept_at_once = true;
    pair.ends[FAR].accept(ids[2], pair.now).unwrap();
    for id in [ids[4], ids[5]] {
        pair.ends[FAR].accept(id, pair.now).unwrap();
    }
    pair.settle();
    assert_eq!(opened(&pair), 63);
}

/// 300 opens of a target that never answers, and one of another.
#[test]
fn a_silent_target_keeps_nobody_else_waiting() {
    let mut pair = Pair::up(Config::default(), Config::default());
    pair.accept_at_once = false;
    let silent = (0..300)
        .map(|_| pair.open_to(NEAR, b"silent"))
        .collect::<Vec<_>>();
    pair.open_to(NEAR, b"other");
    pair.settle();
    let waiting = |pair: &Pair, target: &[u8]| {
        let all = pair.seen[FAR].values();
        all.filter(|seen| seen.target.as_deref() == Some(target) && seen.reset.is_none())
            .count()
    };
    assert_eq!(waiting(&pair, b"other"), 1);
    assert_eq!(waiting(&pair, b"silent"), 32);
    // Those who give up are never heard of when they waited, and make room when they did not.
    for id in silent[..290].iter().rev() {
        pair.ends[NEAR].reset(*id, ResetReason::Cancelled).unwrap();
    }
    pair.settle();
    assert_eq!(waiting(&pair, b"silent"), 10);
    assert_eq!(pair.seen[FAR].len(), 1 + 32 + 10);
}

/// Streams whose OPEN was overtaken have another number on the wire, and everything that is said about them finds them.
#[test]
fn streams_that_were_overtaken_keep_their_bytes_and_their_ends() {
    let config = Config {
        max_pending_opens_per_target: 2,
        ..Config::default()
    };
    let now = Instant::now();
    let mut near = Connection::new(Role::Client, config.clone(), now).unwrap();
    let mut far = Connection::new(Role::Server, config, now).unwrap();
    let mut ours = Vec::new();
    for number in 0..60u32 {
        let id = near
            .open(&[[b'a', b'b', b'c'][number as usize / 20]], now)
            .unwrap();
        near.send(id, Bytes::copy_from_slice(&number.to_be_bytes()))
            .unwrap();
        ours.push((id, number));
    }
    // The far end repeats what a stream says, or resets or refuses it, by the number in it.
    let (mut heard, mut opened, mut wire) = (BTreeMap::new(), Vec::new(), BytesMut::new());
    for _ in 0..200 {
        near.poll_transmit(&mut wire, 1 << 20);
        far.handle_bytes(wire.split().freeze(), now).unwrap();
        while let Some(event) = far.poll_event() {
            let Event::Data { id, bytes } = event else {
                if let Event::Opened { id, .. } = event {
                    opened.push(id);
                }
                continue;
            };
            match u32::from_be_bytes(bytes[..].try_into().unwrap()) % 3 {
                0 => far.refuse(id, &Refusal::new(RefusalKind::NotFound, "")).unwrap(),
                1 => far.reset(id, ResetReason::TimedOut).unwrap(),
                _ => {
                    far.accept(id, now).unwrap();
                    far.send(id, bytes).unwrap();
                    far.finish(id, now).unwrap();
                }
            }
        }
        far.poll_transmit(&mut wire, 1 << 20);
        near.handle_bytes(wire.split().freeze(), now).unwrap();
        while let Some(event) = near.poll_event() {
            match event {
                Event::Data { id, bytes } => {
                    near.consumed(id, 4, now).unwrap();
                    heard.insert(id, u32::from_be_bytes(bytes[..].try_into().unwrap()));
                }
                Event::Finished { id } => near.finish(id, now).unwrap(),
                Event::Refused { id, .. } => drop(heard.insert(id, 0)),
                Event::Reset { id, .. } => drop(heard.insert(id, 1)),
                _ => {}
            }
        }
    }
    assert!(opened.iter().is_sorted(), "{opened:?}");
    assert!(opened.iter().any(|id| id.number() > 120), "none was overtaken");
    for (id, number) in ours {
        let wanted = if number % 3 == 2 { number } else { number % 3 };
        assert_eq!(heard.get(&id), Some(&wanted), "stream {id}");
    }
    assert_eq!((near.stream_count(), far.stream_count()), (0, 0));
}

/// The RESET of an unanswered stream goes out before the OPEN that it makes room for, which would be refused otherwise.
#[test]
fn who_gives_up_makes_room_before_the_next_one_is_sent() {
    let mut pair = Pair::up(small(), small());
    pair.accept_at_once = false;
    let ids = [(); 4].map(|()| pair.open(NEAR));
    pair.settle();
    pair.ends[NEAR].reset(ids[0], ResetReason::Cancelled).unwrap();
    pair.settle();
    assert_eq!(pair.seen[NEAR][&ids[3]].refused, None);
    assert!(pair.seen[FAR].contains_key(&ids[3]));
}

/// However many targets are silent: each has some of the places, and a place is left for one more.
#[test]
fn many_silent_targets_share_what_the_other_end_allows() {
    let mut pair = Pair::up(Config::default(), Config::default());
    pair.accept_at_once = false;
    let silent = (0..40u8).map(|number| vec![b'a' + number]).collect::<Vec<_>>();
    for _ in 0..32 {
        for target in &silent {
            pair.open_to(NEAR, target);
        }
    }
    pair.settle();
    for target in &silent {
        let sent = pair.seen[FAR]
            .values()
            .filter(|seen| seen.target.as_deref() == Some(target));
        assert!((5..=7).contains(&sent.count()));
    }
    let other = pair.open_to(NEAR, b"other");
    pair.settle();
    assert!(pair.seen[FAR].contains_key(&other));
}

#[test]
fn windows_grow_while_they_hold_a_stream_back_and_shrink_after_a_rest() {
    let mut pair = Pair::new(small(), small());
    // A round trip of 40 ms, measured with the first ping.
    pair.transmit(FAR, 1000);
    pair.transmit(NEAR, 1000);
    pair.pass(Duration::from_millis(40));
    pair.settle();
    pair.pass(Duration::from_millis(40));
    pair.settle();
    assert!(pair.ends[FAR].rtt().is_some());
    let id = pair.open(NEAR);
    pair.settle();
    pair.write(NEAR, id, 8_000_000).unwrap();
    pair.read_at_once = false;
    let in_flight = |pair: &mut Pair| {
        pair.settle();
        let unread = pair.seen[FAR][&id].unread;
        pair.read(FAR, id, u32::MAX);
        unread
    };
    let mut rounds = Vec::new();
    for _ in 0..6 {
        rounds.push(in_flight(&mut pair));
        pair.pass(Duration::from_millis(50));
    }
    assert_eq!(rounds[0], 64 * 1024);
    assert_eq!(rounds[5], 256 * 1024, "{rounds:?}");
    // The first read after a long rest sets the window back; what was granted stays granted.
    pair.pass(Duration::from_secs(60));
    in_flight(&mut pair);
    pair.pass(Duration::from_secs(1));
    in_flight(&mut pair);
    pair.pass(Duration::from_secs(1));
    assert_eq!(in_flight(&mut pair), 64 * 1024);
}

#[test]
fn both_sides_end_a_connection_in_good_order() {
    let mut pair = Pair::up(small(), small());
    let id = pair.open(NEAR);
    pair.settle();
    pair.ends[FAR].go_away(GoAwayReason::Superseded, "by 9");
    pair.settle();
    let gone = Event::GoingAway {
        reason: GoAwayReason::Superseded,
        message: "by 9".to_owned(),
    };
    assert!(pair.others[NEAR].contains(&gone));
    for end in [NEAR, FAR] {
        assert_eq!(pair.ends[end].open(b"x", pair.now), Err(Error::GoingAway));
    }
    // What is open goes on.
    pair.write(NEAR, id, 1000).unwrap();
    pair.settle();
    assert_eq!(pair.seen[FAR][&id].received, 1000);
}

#[test]
fn a_draining_end_serves_what_crossed_with_its_word_and_refuses_what_came_later() {
    let mut pair = Pair::up(small(), small());
    let before = pair.open(NEAR);
    pair.settle();
    // Its OPEN is under way when the other end says that it leaves; the last two are held back.
    let ids = [(); 5].map(|()| pair.open(NEAR));
    pair.transmit(NEAR, 64 * 1024);
    pair.ends[FAR].drain("back soon", pair.now);
    pair.accept_at_once = false;
    pair.settle();
    let gone = Event::GoingAway {
        reason: GoAwayReason::Leaving,
        message: "back soon".to_owned(),
    };
    assert!(pair.others[NEAR].contains(&gone));
    for id in &ids[..3] {
        pair.ends[FAR].accept(*id, pair.now).unwrap();
    }
    for id in &ids[3..] {
        let refusal = pair.seen[NEAR][id].refused.clone().unwrap();
        assert_eq!(refusal.kind, RefusalKind::LinkLost);
        assert!(!pair.seen[FAR].contains_key(id));
    }
    for id in [before, ids[0]] {
        pair.write(NEAR, id, 1000).unwrap();
        pair.write(FAR, id, 1000).unwrap();
        pair.settle();
        assert_eq!(
            (pair.seen[FAR][&id].received, pair.seen[NEAR][&id].received),
            (1000, 1000)
        );
    }
    for end in [NEAR, FAR] {
        assert_eq!(pair.ends[end].open(b"x", pair.now), Err(Error::GoingAway));
    }
    // A client that opens all the same, though it has answered what came behind the GOAWAY.
    pair.wires[FAR].extend_from_slice(&frame(0x10, 999, b"late"));
    pair.deliver(FAR, usize::MAX).unwrap();
    assert!(!pair.seen[FAR].contains_key(&StreamId::from_number(999)));
    pair.transmit(FAR, 64 * 1024);
    let answer = frames(&pair.wires[NEAR]);
    assert!(
        answer.iter().any(|&(kind, _, id)| (kind, id) == (0x12, 999)),
        "{answer:?}"
    );
    pair.wires[NEAR].clear();
    // Leaving for good is said again, with its own reason.
    pair.ends[FAR].go_away(GoAwayReason::Superseded, "by 9");
    pair.settle();
    assert!(matches!(
        pair.others[NEAR].last(),
        Some(Event::GoingAway {
            reason: GoAwayReason::Superseded,
            ..
        })
    ));
}

#[test]
fn limits_that_make_no_sense_are_refused() {
    let now = Instant::now();
    let refused = |config| Connection::new(Role::Client, config, now).unwrap_err();
    for (what, config) in [
        (
            "max_frame",
            Config {
                max_frame: 1 << 24,
                ..Config::default()
            },
        ),
        (
            "resting_window",
            Config {
                resting_window: 8 * 1024,
                ..Config::default()
            },
        ),
        (
            "max_frame",
            Config {
                max_frame: 0,
                ..Config::default()
            },
        ),
        (
            "initial_window",
            Config {
                initial_window: 1024,
                ..Config::default()
            },
        ),
        (
            "max_window",
            Config {
                max_window: 1024,
                ..Config::default()
            },
        ),
        (
            "max_streams",
            Config {
                max_streams: 0,
                ..Config::default()
            },
        ),
        (
            "max_pending_opens",
            Config {
                max_pending_opens: 0,
                ..Config::default()
            },
        ),
        (
            "missed_pings",
            Config {
                missed_pings: 0,
                ..Config::default()
            },
        ),
        (
            "ping_interval (ms)",
            Config {
                ping_interval: Duration::ZERO,
                ..Config::default()
            },
        ),
    ] {
        assert!(
            matches!(refused(config), Error::LimitOutOfRange { what: named, .. } if named == what),
            "{what}"
        );
    }
}

/// The exchange that `docs/protocol.md` shows, byte for byte, between sides that grant nothing but the initial window.
#[test]
fn the_example_of_the_protocol_text_is_what_is_sent() {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let hello = "0100001400000000000100000000400000010000\
                 0000404000000100";
    let config = Config {
        resting_window: Config::default().initial_window,
        ..Config::default()
    };
    let mut pair = Pair::new(config.clone(), config);
    for end in [NEAR, FAR] {
        pair.transmit(end, 1000);
        let sent = hex(&pair.wires[1 - end]);
        // A PING follows, which measures the round trip.
        assert_eq!(sent, format!("{hello}02000008000000000000000000000001"));
    }
    pair.settle();
    let now = pair.now;
    let client = &mut pair.ends[NEAR];
    let id = client.open(b"x", now).unwrap();
    client.send(id, "hi".into()).unwrap();
    client.finish(id, now).unwrap();
    let mut wire = BytesMut::new();
    client.poll_transmit(&mut wire, 1000);
    assert_eq!(
        hex(&wire),
        "1000000100000001781400000200000001\
                            6869"
    );
    let server = &mut pair.ends[FAR];
    server.handle_bytes(wire.split().freeze(), now).unwrap();
    server.accept(id, now).unwrap();
    server.send(id, "hi".into()).unwrap();
    server.finish(id, now).unwrap();
    server.poll_transmit(&mut wire, 1000);
    assert_eq!(
        hex(&wire),
        "11000000000000011400000200000001\
                            6869"
    );
}
