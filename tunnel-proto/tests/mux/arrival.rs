//! Every stream arrives whole, or its end says that it does not.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use tunnel_proto::{Config, Refusal, RefusalKind, ResetReason, StreamId};

use crate::support::{FAR, NEAR, Pair, small};

#[derive(Debug, Clone)]
pub(crate) enum Step {
    Open(usize),
    Write(usize, prop::sample::Index, usize),
    Finish(usize, prop::sample::Index),
    Reset(usize, prop::sample::Index),
    Answer(usize, prop::sample::Index, bool),
    Read(usize, prop::sample::Index, u32),
    Transmit(usize, usize),
    Deliver(usize, usize),
    Pass(u64),
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let end = 0..2usize;
    let which = any::<prop::sample::Index>();
    let bytes = prop_oneof![1..20usize, 1..30_000usize];
    prop_oneof![
        2 => end.clone().prop_map(Step::Open),
        5 => (end.clone(), which.clone(), bytes.clone()).prop_map(|(e, w, n)| Step::Write(e, w, n)),
        2 => (end.clone(), which.clone()).prop_map(|(e, w)| Step::Finish(e, w)),
        1 => (end.clone(), which.clone()).prop_map(|(e, w)| Step::Reset(e, w)),
        2 => (end.clone(), which.clone(), any::<bool>()).prop_map(|(e, w, yes)| Step::Answer(e, w, yes)),
        3 => (end.clone(), which, 1..100_000u32).prop_map(|(e, w, n)| Step::Read(e, w, n)),
        6 => (end.clone(), bytes.clone()).prop_map(|(e, n)| Step::Transmit(e, n)),
        8 => (end, bytes).prop_map(|(e, n)| Step::Deliver(e, n)),
        1 => (0..15_000u64).prop_map(Step::Pass),
    ]
}

pub(crate) fn config() -> impl Strategy<Value = Config> {
    let limits = (1u32..=32, 0u32..3, 1u32..5, 64u64..2048, 0..3u64);
    limits.prop_map(|(frame_kib, doublings, pending, budget_kib, coalesce_ms)| {
        Config {
            coalesce_delay: Duration::from_millis(coalesce_ms),
            initial_window: 64 * 1024,
            resting_window: 64 * 1024,
            max_window: (64 * 1024) << doublings,
            max_frame: frame_kib * 1024,
            receive_budget: budget_kib * 1024,
            max_pending_opens: pending,
            max_streams: 20,
            // Time passes here without the other end's answers.
            ping_interval: Duration::from_secs(3600),
            ..Config::default()
        }
    })
}

/// Takes the steps; which streams were refused, and at which end.
pub(crate) fn run(pair: &mut Pair, steps: Vec<Step>) -> BTreeSet<(usize, StreamId)> {
    let mut refused = BTreeSet::new();
    for step in steps {
        let pick = |pair: &Pair, end: usize, which: prop::sample::Index| {
            let streams = pair.seen[end].keys().copied().collect::<Vec<_>>();
            (!streams.is_empty()).then(|| *which.get(&streams))
        };
        match step {
            Step::Open(end) => {
                if pair.ends[end].stream_count() < 20 {
                    pair.open(end);
                }
            }
            // Streams that are over, or not accepted, say so; what they say is tested elsewhere.
            Step::Write(end, which, n) => {
                if let Some(id) = pick(pair, end, which) {
                    drop(pair.write(end, id, n));
                }
            }
            Step::Finish(end, which) => {
                if let Some(id) = pick(pair, end, which) {
                    drop(pair.ends[end].finish(id, pair.now));
                }
            }
            Step::Reset(end, which) => {
                if let Some(id) = pick(pair, end, which)
                    && pair.ends[end].reset(id, ResetReason::Cancelled).is_ok()
                {
                    pair.seen[end].get_mut(&id).unwrap().reset = Some(ResetReason::Cancelled);
                }
            }
            Step::Answer(end, which, yes) => {
                if let Some(id) = pick(pair, end, which) {
                    let refusal = Refusal::new(RefusalKind::NotFound, "none");
                    if yes {
                        drop(pair.ends[end].accept(id, pair.now));
                    } else if pair.ends[end].refuse(id, &refusal).is_ok() {
                        pair.seen[end].get_mut(&id).unwrap().refused = Some(refusal);
                        refused.insert((end, id));
                    }
                }
            }
            Step::Read(end, which, n) => {
                if let Some(id) = pick(pair, end, which) {
                    pair.read(end, id, n);
                }
            }
            Step::Transmit(end, limit) => {
                pair.transmit(end, limit);
            }
            Step::Deliver(end, n) => pair.deliver(end, n).unwrap(),
            Step::Pass(millis) => {
                pair.pass(std::time::Duration::from_millis(millis));
                for end in [NEAR, FAR] {
                    pair.ends[end].handle_timeout(pair.now);
                }
            }
        }
    }
    refused
}

/// Each refusal was heard by the end that had opened the stream, unless that had reset it meanwhile; and no other was.
pub(crate) fn refusals_were_heard(pair: &Pair, refused: &BTreeSet<(usize, StreamId)>) {
    for &(end, id) in refused {
        let opener = &pair.seen[1 - end][&id];
        let heard = opener
            .refused
            .as_ref()
            .is_some_and(|refusal| refusal.kind == RefusalKind::NotFound && refusal.message == "none");
        assert!(heard || opener.reset.is_some(), "stream {id}: {opener:?}");
    }
    for end in [NEAR, FAR] {
        for (&id, seen) in &pair.seen[end] {
            let said = refused.contains(&(end, id)) || refused.contains(&(1 - end, id));
            // Both ends together may open more streams than each of them may have, before they hear of each other's.
            let full = |refusal: &Refusal| refusal.message == "20 streams are open";
            assert!(
                said || seen.refused.as_ref().is_none_or(full),
                "stream {id}: {seen:?}"
            );
        }
    }
}

/// Whoever has not answered or ended a stream does it, and then all that was given must be there.
pub(crate) fn conclude(pair: &mut Pair) {
    pair.accept_at_once = true;
    for end in [NEAR, FAR] {
        for id in pair.seen[end].keys().copied().collect::<Vec<_>>() {
            drop(pair.ends[end].accept(id, pair.now));
            drop(pair.ends[end].finish(id, pair.now));
        }
    }
    pair.settle_reading();
    // Streams that came only now.
    for end in [NEAR, FAR] {
        for id in pair.seen[end].keys().copied().collect::<Vec<_>>() {
            drop(pair.ends[end].finish(id, pair.now));
        }
    }
    pair.settle_reading();
    for end in [NEAR, FAR] {
        for (id, seen) in &pair.seen[end] {
            let given = pair.given[1 - end].get(id).copied().unwrap_or(0);
            assert!(seen.received <= given);
            let whole = seen.finished && seen.received == given;
            let over = seen.reset.is_some() || seen.refused.is_some();
            assert!(
                whole || over,
                "stream {id} at end {end}: {seen:?}, {given} bytes were given"
            );
            assert!(seen.is_over(), "stream {id} at end {end} is left open: {seen:?}");
            if seen.closed {
                assert_eq!(seen.sent, pair.given[end].get(id).copied().unwrap_or(0));
            }
        }
        assert_eq!(pair.ends[end].stream_count(), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn every_stream_arrives_whole_under_any_cutting_and_order(
        near in config(),
        far in config(),
        hello_first in any::<bool>(),
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut pair = if hello_first { Pair::up(near, far) } else { Pair::new(near, far) };
        pair.accept_at_once = false;
        pair.read_at_once = false;
        pair.wait_for_acks = true;
        let refused = run(&mut pair, steps);
        conclude(&mut pair);
        refusals_were_heard(&pair, &refused);
    }

    #[test]
    fn bytes_one_at_a_time_make_no_difference(lens in prop::collection::vec(0..3000usize, 1..5)) {
        let mut pair = Pair::new(small(), small());
        let ids = lens.iter().map(|&len| {
            let id = pair.open(NEAR);
            pair.write(NEAR, id, len).unwrap();
            pair.ends[NEAR].finish(id, pair.now).unwrap();
            id
        }).collect::<Vec<_>>();
        for _ in 0..20 {
            for end in [NEAR, FAR] {
                pair.transmit(end, 64 * 1024);
                while !pair.wires[1 - end].is_empty() {
                    pair.deliver(1 - end, 1).unwrap();
                }
            }
        }
        for (id, len) in ids.iter().zip(lens) {
            let seen = &pair.seen[FAR][id];
            prop_assert!(seen.finished && seen.received == len as u64, "{seen:?}");
        }
    }
}

#[test]
fn half_closed_streams_carry_the_other_direction() {
    let mut pair = Pair::up(small(), small());
    let id = pair.open(NEAR);
    pair.write(NEAR, id, 10).unwrap();
    pair.ends[NEAR].finish(id, pair.now).unwrap();
    pair.settle();
    assert!(pair.seen[FAR][&id].finished && !pair.seen[FAR][&id].closed);
    assert!(pair.ends[NEAR].send(id, "more".into()).is_err());
    pair.write(FAR, id, 1024 * 1024).unwrap();
    pair.ends[FAR].finish(id, pair.now).unwrap();
    pair.settle();
    assert_eq!(pair.seen[NEAR][&id].received, 1024 * 1024);
    assert!(pair.seen[NEAR][&id].closed && pair.seen[FAR][&id].closed);
}

#[test]
fn stalled_streams_never_stop_another_one() {
    let mut pair = Pair::up(small(), small());
    pair.read_at_once = false;
    // Far more than the receive budget.
    let stalled = (0..60).map(|_| pair.open(NEAR)).collect::<Vec<_>>();
    for &id in &stalled {
        pair.write(NEAR, id, 300_000).unwrap();
    }
    pair.settle();
    let fast = pair.open(NEAR);
    pair.write(NEAR, fast, 2_000_000).unwrap();
    pair.ends[NEAR].finish(fast, pair.now).unwrap();
    for _ in 0..1000 {
        pair.settle();
        pair.read(FAR, fast, u32::MAX);
    }
    assert_eq!(pair.seen[FAR][&fast].received, 2_000_000);
    assert!(pair.seen[FAR][&fast].finished);
    for id in &stalled {
        assert_eq!(pair.seen[FAR][id].received, 64 * 1024, "no more than its window");
    }
    pair.settle_reading();
    assert!(stalled.iter().all(|id| pair.seen[FAR][id].received == 300_000));
}

#[test]
fn a_reset_drops_what_waits_and_says_why() {
    let mut pair = Pair::up(small(), small());
    let id = pair.open(NEAR);
    pair.settle();
    pair.write(NEAR, id, 5000).unwrap();
    pair.ends[NEAR].reset(id, ResetReason::TimedOut).unwrap();
    assert!(pair.write(NEAR, id, 1).is_err());
    pair.settle();
    assert_eq!(pair.seen[FAR][&id].reset, Some(ResetReason::TimedOut));
    assert_eq!(pair.seen[FAR][&id].received, 0);
    // Data of the far end that crossed with the reset is ignored.
    let id = pair.open(NEAR);
    pair.settle();
    pair.write(FAR, id, 5000).unwrap();
    pair.transmit(FAR, 64 * 1024);
    pair.ends[NEAR].reset(id, ResetReason::Cancelled).unwrap();
    pair.settle();
    assert_eq!(pair.ends[NEAR].stream_count() + pair.ends[FAR].stream_count(), 0);
}
