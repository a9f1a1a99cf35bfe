//! A link whose connection is lost at any byte, any number of times, with whatever is on its way.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use tunnel_proto::{Config, Error, Event, Features, ResumeToken, StreamId, Violation};

use crate::arrival::{self, Step};
use crate::support::{FAR, NEAR, Pair, byte, frame, hello, small};

/// What may be kept above the limit: a transmission, its last frame and control frames.
const SLACK: usize = 64 * 1024 + 32 * 1024 + 256 * 1024;

#[derive(Debug, Clone)]
enum Move {
    Step(Step),
    /// The connection is cut: that many bytes of what is on its way still arrive at each end.
    Cut([usize; 2]),
    /// As above, and only the client has noticed when it comes back.
    CutUnnoticed([usize; 2]),
    /// Another connection; before that, some that end with the server's answer on its way.
    Connect(usize),
}

fn a_move() -> impl Strategy<Value = Move> {
    let bytes = prop_oneof![Just(0), 1..20usize, 1..100_000usize];
    let both = [bytes.clone(), bytes];
    prop_oneof![
        20 => arrival::step().prop_map(Move::Step),
        2 => both.clone().prop_map(Move::Cut),
        1 => both.prop_map(Move::CutUnnoticed),
        3 => (0..3usize).prop_map(Move::Connect),
    ]
}

fn resumable(config: &Config, replay_kib: u32) -> Config {
    Config {
        features: Features::RESUME,
        replay_bytes: replay_kib * 1024,
        resume_window: Duration::from_secs(65_535),
        ..config.clone()
    }
}

/// Two ends that have met, and their token.
fn up(near: Config, far: Config) -> Pair {
    let mut pair = Pair::new(near, far);
    pair.wait_for_acks = true;
    pair.ends[FAR].set_resume_token(ResumeToken::from_bytes([7; 16]));
    pair.settle();
    assert!(pair.others[NEAR].contains(&Event::Resumable));
    assert_eq!(pair.ends[NEAR].resume_token(), pair.ends[FAR].resume_token());
    assert!(pair.ends[NEAR].resume_token().is_some());
    pair
}

/// What is on its way arrives in part, and the rest is lost.
fn cut(pair: &mut Pair, arriving: [usize; 2], noticed: &[usize]) {
    for end in [NEAR, FAR] {
        pair.deliver(end, arriving[end]).unwrap();
        pair.wires[end].clear();
    }
    for &end in noticed {
        assert!(pair.ends[end].handle_carrier_lost(pair.now).is_some());
    }
}

/// A connection is made, and both ends go on. `failing` ones before that get no further than the server's answer.
fn connect(pair: &mut Pair, failing: usize) {
    let has = [NEAR, FAR].map(|end| pair.ends[end].received_bytes());
    for _ in 0..failing {
        pair.ends[FAR].handle_resume(has[NEAR], pair.now).unwrap();
        pair.transmit(FAR, 5000);
        pair.wires = Default::default();
    }
    pair.ends[FAR].handle_resume(has[NEAR], pair.now).unwrap();
    pair.ends[NEAR].handle_resume(has[FAR], pair.now).unwrap();
}

fn check_memory(pair: &Pair, most: [usize; 2]) {
    for end in [NEAR, FAR] {
        let kept = pair.ends[end].replay_len();
        assert!(kept <= most[end] + SLACK, "end {end} keeps {kept} bytes");
        let unread = pair.seen[end]
            .values()
            .map(|seen| u64::from(seen.unread))
            .sum::<u64>();
        // At most 20 streams, each with its initial window above the budget.
        assert!(
            unread <= 2048 * 1024 + 20 * 64 * 1024,
            "end {end} holds {unread} unread bytes"
        );
    }
}

fn take(pair: &mut Pair, moves: Vec<Move>, most: [usize; 2]) -> BTreeSet<(usize, StreamId)> {
    let mut refused = BTreeSet::new();
    for next in moves {
        let up = !pair.ends[NEAR].is_detached();
        match next {
            Move::Step(step) => refused.extend(arrival::run(pair, vec![step])),
            Move::Cut(arriving) if up => cut(pair, arriving, &[NEAR, FAR]),
            Move::CutUnnoticed(arriving) if up => cut(pair, arriving, &[NEAR]),
            Move::Connect(failing) if !up => connect(pair, failing),
            _ => {}
        }
        // The end that has not noticed goes on sending, to nobody.
        if pair.ends[NEAR].is_detached() {
            pair.wires = Default::default();
        }
        check_memory(pair, most);
    }
    refused
}

/// Everything arrives; then each stream that is left carries more than any window, so that no credit was lost, and none was made.
fn conclude(pair: &mut Pair) {
    if pair.ends[NEAR].is_detached() {
        connect(pair, 0);
    }
    pair.settle_reading();
    pair.accept_at_once = true;
    for end in [NEAR, FAR] {
        for id in pair.seen[end].keys().copied().collect::<Vec<_>>() {
            drop(pair.ends[end].accept(id, pair.now));
            // Fails for those that are over, or have ended in this direction.
            drop(pair.write(end, id, 700_000));
        }
    }
    arrival::conclude(pair);
    for end in &pair.ends {
        assert!(
            end.replay_len() < 64 * 1024,
            "{} bytes are kept at rest",
            end.replay_len()
        );
    }
}

fn campaign(cases: u32, moves: usize) {
    let strategy = (
        (arrival::config(), 64u32..300),
        (arrival::config(), 64u32..300),
        prop::collection::vec(a_move(), 1..moves),
    );
    let config = ProptestConfig {
        cases,
        ..ProptestConfig::default()
    };
    let mut runner = prop::test_runner::TestRunner::new(config);
    let outcome = runner.run(&strategy, |((near, near_kib), (far, far_kib), moves)| {
        let mut pair = up(resumable(&near, near_kib), resumable(&far, far_kib));
        pair.accept_at_once = false;
        pair.read_at_once = false;
        let most = [near_kib, far_kib].map(|kib| kib as usize * 1024);
        let refused = take(&mut pair, moves, most);
        conclude(&mut pair);
        arrival::refusals_were_heard(&pair, &refused);
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

#[test]
fn every_stream_is_whole_or_reset_whatever_is_lost_with_its_connection() {
    campaign(40, 300);
}

#[test]
#[ignore = "takes minutes: cargo test --release -p tunnel-proto --test mux -- --ignored campaign"]
fn campaign_of_connections_that_are_lost() {
    campaign(5_000, 600);
}

#[test]
fn a_cut_at_each_byte_of_an_exchange_loses_nothing() {
    let mut whole = 0;
    for at in 0.. {
        let mut pair = up(resumable(&small(), 64), resumable(&small(), 64));
        let id = pair.open(NEAR);
        pair.write(NEAR, id, 300).unwrap();
        pair.ends[NEAR].finish(id, pair.now).unwrap();
        pair.transmit(NEAR, 64 * 1024);
        let under_way = pair.wires[FAR].len();
        cut(&mut pair, [0, at], &[NEAR, FAR]);
        connect(&mut pair, 1);
        pair.settle();
        let seen = &pair.seen[FAR][&id];
        assert!(seen.finished && seen.received == 300, "cut at {at}: {seen:?}");
        // The answer, cut at the same byte.
        pair.write(FAR, id, 300).unwrap();
        pair.ends[FAR].finish(id, pair.now).unwrap();
        pair.transmit(FAR, 64 * 1024);
        cut(&mut pair, [at, 0], &[NEAR]);
        connect(&mut pair, 0);
        pair.settle();
        let seen = &pair.seen[NEAR][&id];
        assert!(seen.closed && seen.received == 300, "cut at {at}: {seen:?}");
        whole += 1;
        if at > under_way {
            break;
        }
    }
    assert!(whole > 300);
}

#[test]
fn before_both_ends_know_the_token_a_loss_is_the_end() {
    for (near, far, token) in [
        (resumable(&small(), 64), small(), true),
        (small(), resumable(&small(), 64), true),
        (resumable(&small(), 64), resumable(&small(), 64), false),
    ] {
        let mut pair = Pair::new(near, far);
        if token {
            pair.ends[FAR].set_resume_token(ResumeToken::from_bytes([1; 16]));
        }
        pair.settle();
        let id = pair.open(NEAR);
        pair.write(NEAR, id, 1000).unwrap();
        pair.settle();
        for end in &mut pair.ends {
            assert_eq!(end.handle_carrier_lost(pair.now), None);
            assert!(matches!(
                end.handle_resume(0, pair.now),
                Err(Error::CannotResume { .. })
            ));
            assert!(!end.is_detached());
        }
        assert_eq!(pair.seen[FAR][&id].received, 1000);
    }
    // Nothing is kept for a peer that offers nothing.
    let pair = Pair::up(resumable(&small(), 64), small());
    assert_eq!(pair.ends[NEAR].replay_len(), 0);
}

#[test]
fn an_offset_that_is_not_kept_changes_nothing() {
    let mut pair = up(resumable(&small(), 64), resumable(&small(), 64));
    let id = pair.open(NEAR);
    pair.write(NEAR, id, 100_000).unwrap();
    pair.settle();
    let sent = pair.ends[FAR].received_bytes();
    let kept = pair.ends[NEAR].replay_len() as u64;
    assert!(kept < sent);
    for offset in [0, sent - kept - 1, sent + 1, u64::MAX] {
        assert!(!pair.ends[NEAR].can_resume(offset));
        let error = pair.ends[NEAR].handle_resume(offset, pair.now).unwrap_err();
        assert_eq!(error, Error::CannotResume { offset });
    }
    pair.write(NEAR, id, 1000).unwrap();
    pair.settle();
    assert_eq!(pair.seen[FAR][&id].received, 101_000);
}

#[test]
fn without_a_connection_nobody_is_asked_until_the_window_is_over() {
    let config = Config {
        resume_window: Duration::from_secs(30),
        ..resumable(&Config::default(), 1024)
    };
    let mut pair = up(resumable(&Config::default(), 1024), config);
    let lost_at = pair.now;
    cut(&mut pair, [0, 0], &[NEAR, FAR]);
    for end in [NEAR, FAR] {
        // The client has the server's window.
        assert_eq!(
            pair.ends[end].poll_timeout(),
            Some(lost_at + Duration::from_secs(30))
        );
        // A request waits, and can be withdrawn without a word.
        let id = pair.open(end);
        assert!(pair.ends[end].is_held(id));
        assert!(!pair.transmit(end, 64 * 1024) && !pair.ends[end].wants_transmit());
    }
    pair.now = lost_at + Duration::from_secs(30);
    for end in [NEAR, FAR] {
        pair.ends[end].handle_timeout(pair.now);
        assert_eq!(pair.ends[end].poll_event(), Some(Event::Expired));
        assert_eq!(pair.ends[end].poll_timeout(), None);
        assert!(!pair.ends[end].can_resume(pair.ends[1 - end].received_bytes()));
    }
}

/// A link at rest sends a question and its answer, and no acknowledgements of acknowledgements.
#[test]
fn acknowledgements_come_soon_and_end() {
    let mut pair = up(
        resumable(&Config::default(), 1024),
        resumable(&Config::default(), 1024),
    );
    let id = pair.open(NEAR);
    pair.settle();
    pair.write(NEAR, id, 50_000).unwrap();
    pair.wait_for_acks = false;
    pair.settle();
    assert!(pair.ends[NEAR].replay_len() >= 50_000, "not yet");
    let due = pair.ends[FAR].poll_timeout().unwrap();
    assert!(due <= pair.now + Duration::from_millis(100));
    pair.now = due;
    pair.ends[FAR].handle_timeout(due);
    pair.settle();
    assert!(
        pair.ends[NEAR].replay_len() < 100,
        "{}",
        pair.ends[NEAR].replay_len()
    );
    let before = pair.ends.each_ref().map(tunnel_proto::Connection::received_bytes);
    let start = pair.now;
    while pair.now - start < Duration::from_secs(60) {
        pair.now = pair
            .ends
            .iter()
            .filter_map(tunnel_proto::Connection::poll_timeout)
            .min()
            .unwrap();
        for end in &mut pair.ends {
            end.handle_timeout(pair.now);
        }
        pair.settle();
    }
    for (end, before) in pair.ends.iter().zip(before) {
        let bytes = end.received_bytes() - before;
        // RECLAIM and RETURN of the quiet stream, ten questions or answers.
        assert!(bytes <= 12 * 32 + 100, "{bytes} bytes in a minute of rest");
    }
}

#[test]
fn a_peer_that_acknowledges_nothing_makes_nothing_grow() {
    let mut end = tunnel_proto::Connection::new(
        tunnel_proto::Role::Server,
        resumable(&Config::default(), 64),
        std::time::Instant::now(),
    )
    .unwrap();
    let now = std::time::Instant::now();
    let mut words = hello();
    words[11] = 1;
    end.handle_bytes(words.into(), now).unwrap();
    // Acknowledgements of what it sends are few, and kept as well.
    let most = 64 * 1024 + 4 * 1024 * 1024 + 64 * 1024;
    let mut sent = 0;
    // Each question wants an answer, and each answer is kept.
    for token in 0..400_000u64 {
        end.handle_bytes(frame(0x02, 0, &token.to_be_bytes()).into(), now)
            .unwrap();
        let mut sink = bytes::BytesMut::new();
        end.poll_transmit(&mut sink, 64 * 1024);
        sent += sink.len() as u64;
        assert!(end.replay_len() <= most);
    }
    assert!(end.replay_len() > 4 * 1024 * 1024, "this is about the bound");
    // It goes on once they are read.
    end.handle_bytes(frame(0x42, 0, &sent.to_be_bytes()).into(), now)
        .unwrap();
    assert_eq!(end.replay_len(), 0);
    assert!(end.wants_transmit());
    // What each needs an answer of its own is a flood.
    let mut outcome = Ok(());
    for stream in (1..2_000_000).step_by(2) {
        outcome = end.handle_bytes(frame(0x10, stream, b"x").into(), now);
        if outcome.is_err() {
            break;
        }
        end.poll_transmit(&mut bytes::BytesMut::new(), 64 * 1024);
        assert!(end.replay_len() <= most + 64 * 1024);
    }
    assert_eq!(outcome, Err(Error::Violation(Violation::Flood)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever comes as one of these frames is taken, or is a violation: it never panics and never makes memory grow.
    #[test]
    fn hostile_frames_of_resume_are_taken_or_refused(
        frames in prop::collection::vec(
            (0x40u8..=0x45, 0u32..2, prop::collection::vec(any::<u8>(), 0..40), any::<bool>()),
            1..40,
        ),
        offered in any::<bool>(),
        client in any::<bool>(),
    ) {
        let now = std::time::Instant::now();
        let role = if client { tunnel_proto::Role::Client } else { tunnel_proto::Role::Server };
        let mut end = tunnel_proto::Connection::new(role, resumable(&small(), 64), now).unwrap();
        end.set_resume_token(ResumeToken::from_bytes([9; 16]));
        let mut words = hello();
        words[11] = u8::from(offered);
        end.handle_bytes(words.into(), now).unwrap();
        let mut sink = bytes::BytesMut::new();
        for (kind, stream, mut payload, small_number) in frames {
            if small_number && payload.len() >= 8 {
                payload[..7].fill(0);
            }
            let alive = end.handle_bytes(frame(kind, stream, &payload).into(), now).is_ok();
            end.poll_transmit(&mut sink, 1000);
            prop_assert!(end.replay_len() <= 4096);
            if !offered {
                prop_assert!(!alive, "kind {kind:#x} is unknown to a side that was offered nothing");
            }
            if !alive {
                prop_assert_eq!(end.handle_carrier_lost(now), None);
                break;
            }
            let received = end.received_bytes();
            if end.handle_carrier_lost(now).is_some() {
                prop_assert!(end.handle_resume(payload.len() as u64, now).is_ok() || end.is_detached());
                prop_assert_eq!(end.received_bytes(), received);
                if end.is_detached() {
                    break;
                }
            }
        }
    }

    #[test]
    fn first_frames_and_answers_are_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..100), kind in 0x3fu8..0x46) {
        let framed = frame(kind, 0, &bytes);
        for bytes in [&bytes, &framed] {
            for cut in 0..=bytes.len() {
                if let Ok(Some((_, taken))) = tunnel_proto::FirstFrame::parse(&bytes[..cut]) {
                    prop_assert!(taken <= cut);
                }
                if let Ok(Some((_, taken))) = tunnel_proto::ResumeAnswer::parse(&bytes[..cut]) {
                    prop_assert!(taken <= cut);
                }
            }
        }
    }
}

/// The bytes of a stream are what its place says, also in the middle of a frame that was cut.
#[test]
fn a_frame_that_was_cut_in_its_head_goes_on_where_it_was() {
    let mut pair = up(resumable(&small(), 64), resumable(&small(), 64));
    let id = pair.open(NEAR);
    pair.settle();
    pair.write(NEAR, id, 20_000).unwrap();
    pair.transmit(NEAR, 64 * 1024);
    cut(&mut pair, [0, 3], &[NEAR, FAR]);
    connect(&mut pair, 2);
    pair.transmit(NEAR, 1);
    assert_eq!(pair.wires[FAR].len(), 1, "as little as is asked for");
    pair.settle();
    assert_eq!(pair.seen[FAR][&id].received, 20_000);
    assert_ne!(byte(id, NEAR, 0), byte(id, FAR, 0));
}
