//! Flows of datagrams: they take room from nobody, and what is lost is counted.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use proptest::prelude::*;
use tunnel_proto::{
    Config, Connection, Error, Event, Features, Refusal, RefusalKind, ResetReason, Role, StreamId, Violation,
};

use crate::support::{FAR, NEAR, Pair, frame, hello, hello_offering, small};

fn config() -> Config {
    Config {
        features: Features::DATAGRAMS,
        ..small()
    }
}

/// Datagram number `at` of a flow: it says what it is, so that nothing has to be kept.
fn datagram(flow: StreamId, end: usize, at: u32, len: usize) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.extend_from_slice(&flow.number().to_be_bytes());
    bytes.extend_from_slice(&[u8::try_from(end).unwrap()]);
    bytes.extend_from_slice(&at.to_be_bytes());
    bytes.resize(9 + len, at.to_be_bytes()[3]);
    bytes.freeze()
}

/// What has become of the datagrams of the flows of a pair.
#[derive(Debug, Default)]
struct Ledger {
    flows: Vec<StreamId>,
    sent: BTreeMap<(usize, StreamId), u32>,
    /// How many arrived, and the number after the last one.
    arrived: BTreeMap<(usize, StreamId), (u32, u32)>,
    dropped: u64,
    over: Vec<StreamId>,
}

impl Ledger {
    fn open(&mut self, pair: &mut Pair) -> StreamId {
        let target = format!("flow {}", self.flows.len());
        let id = pair.ends[NEAR].open_flow(target.as_bytes(), pair.now).unwrap();
        self.flows.push(id);
        id
    }

    fn send(&mut self, pair: &mut Pair, end: usize, flow: StreamId, len: usize) {
        let at = self.sent.entry((end, flow)).or_default();
        match pair.ends[end].send_datagram(flow, datagram(flow, end, *at, len)) {
            Ok(dropped) => {
                *at += 1;
                self.dropped += u64::from(dropped);
            }
            Err(Error::NotOpen { .. } | Error::WrongState { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// Looks at what the pair has been told since.
    fn take(&mut self, pair: &mut Pair) {
        for end in [NEAR, FAR] {
            for event in std::mem::take(&mut pair.others[end]) {
                match event {
                    Event::FlowOpened { id, .. } => match pair.ends[end].accept(id, pair.now) {
                        Ok(()) | Err(Error::NotOpen { .. }) => {}
                        Err(error) => panic!("{error}"),
                    },
                    Event::Datagram { id, mut bytes } => {
                        assert_eq!(bytes.get_u32(), id.number());
                        assert_eq!(usize::from(bytes.get_u8()), 1 - end);
                        let at = bytes.get_u32();
                        assert!(bytes.iter().all(|&byte| byte == at.to_be_bytes()[3]));
                        let (count, next) = self.arrived.entry((end, id)).or_default();
                        assert!(at >= *next, "in order, none twice");
                        (*count, *next) = (*count + 1, at + 1);
                    }
                    _ => {}
                }
            }
        }
    }

    fn settle(&mut self, pair: &mut Pair) {
        for _ in 0..10 {
            pair.settle_reading();
            self.take(pair);
        }
    }

    fn total_sent(&self) -> u64 {
        self.sent.values().copied().map(u64::from).sum()
    }

    fn total_arrived(&self) -> u64 {
        self.arrived.values().map(|(count, _)| u64::from(*count)).sum()
    }
}

#[derive(Debug, Clone)]
enum Step {
    OpenStream,
    OpenFlow,
    Write(prop::sample::Index, usize),
    Datagrams(usize, prop::sample::Index, usize, usize),
    Transmit(usize, usize),
    Deliver(usize, usize),
    ResetFlow(usize, prop::sample::Index),
    FinishFlow(usize, prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    let end = 0..2usize;
    let which = any::<prop::sample::Index>();
    let bytes = prop_oneof![1..20usize, 1..30_000usize];
    prop_oneof![
        1 => Just(Step::OpenStream),
        1 => Just(Step::OpenFlow),
        4 => (which.clone(), bytes.clone()).prop_map(|(w, n)| Step::Write(w, n)),
        6 => (end.clone(), which.clone(), 1..40usize, 0..8_000usize)
            .prop_map(|(e, w, n, len)| Step::Datagrams(e, w, n, len)),
        6 => (end.clone(), bytes.clone()).prop_map(|(e, n)| Step::Transmit(e, n)),
        8 => (end.clone(), bytes).prop_map(|(e, n)| Step::Deliver(e, n)),
        1 => (end.clone(), which.clone()).prop_map(|(e, w)| Step::ResetFlow(e, w)),
        1 => (end, which).prop_map(|(e, w)| Step::FinishFlow(e, w)),
    ]
}

proptest! {
    #[test]
    fn streams_arrive_whole_beside_flows_and_each_datagram_arrives_or_is_counted(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut pair = Pair::up(config(), config());
        let mut ledger = Ledger::default();
        let mut streams = Vec::new();
        for step in steps {
            match step {
                Step::OpenStream if streams.len() < 8 => streams.push(pair.open(NEAR)),
                Step::OpenFlow if ledger.flows.len() < 8 => {
                    ledger.open(&mut pair);
                }
                Step::Write(which, n) if !streams.is_empty() => {
                    pair.write(NEAR, *which.get(&streams), n).unwrap();
                }
                Step::Datagrams(end, which, n, len) if !ledger.flows.is_empty() => {
                    let flow = *which.get(&ledger.flows);
                    for _ in 0..n {
                        ledger.send(&mut pair, end, flow, len);
                    }
                }
                Step::Transmit(end, limit) => {
                    pair.transmit(end, limit);
                }
                Step::Deliver(end, n) => pair.deliver(end, n).unwrap(),
                Step::ResetFlow(end, which) if !ledger.flows.is_empty() => {
                    let flow = *which.get(&ledger.flows);
                    if pair.ends[end].reset(flow, ResetReason::Cancelled).is_ok() {
                        ledger.over.push(flow);
                        pair.seen[end].entry(flow).or_default().reset = Some(ResetReason::Cancelled);
                    }
                }
                Step::FinishFlow(end, which) if !ledger.flows.is_empty() => {
                    drop(pair.ends[end].finish(*which.get(&ledger.flows), pair.now));
                }
                _ => {}
            }
            ledger.take(&mut pair);
        }
        for &id in &streams {
            pair.ends[NEAR].finish(id, pair.now).unwrap();
        }
        ledger.settle(&mut pair);
        for id in &streams {
            let seen = &pair.seen[FAR][id];
            prop_assert_eq!(seen.received, pair.given[NEAR].get(id).copied().unwrap_or(0));
            prop_assert!(seen.finished);
        }
        // A reset drops what is queued and what crosses it; otherwise each has arrived, or was counted.
        let counted = ledger.total_arrived() + ledger.dropped;
        prop_assert!(counted <= ledger.total_sent());
        if ledger.over.is_empty() {
            prop_assert_eq!(counted, ledger.total_sent());
        }
        let told = pair.ends[NEAR].dropped_datagrams() + pair.ends[FAR].dropped_datagrams();
        prop_assert_eq!(told, ledger.dropped);
    }
}

#[test]
fn what_waits_is_bounded_and_a_fresh_flow_finds_room_beside_full_ones() {
    let near = Config {
        max_streams: 1000,
        max_pending_opens: 1000,
        ..config()
    };
    let mut pair = Pair::up(near.clone(), near);
    let mut ledger = Ledger::default();
    let flows = (0..500).map(|_| ledger.open(&mut pair)).collect::<Vec<_>>();
    for &flow in &flows {
        for _ in 0..400 {
            ledger.send(&mut pair, NEAR, flow, 1400);
        }
    }
    let fresh = ledger.open(&mut pair);
    ledger.send(&mut pair, NEAR, fresh, 512);
    let mut out = BytesMut::new();
    while pair.ends[NEAR].poll_transmit(&mut out, 64 * 1024) {}
    assert!(out.len() < 5 * 1024 * 1024, "{}", out.len());
    assert!(out.len() > 3 * 1024 * 1024, "{}", out.len());
    pair.wires[FAR].unsplit(out);
    ledger.settle(&mut pair);
    assert_eq!(ledger.arrived.get(&(FAR, fresh)), Some(&(1, 1)));
    assert_eq!(ledger.total_arrived() + ledger.dropped, ledger.total_sent());
    // The newest of each flow are those that were kept.
    for flow in flows {
        let (count, next) = ledger.arrived.get(&(FAR, flow)).copied().unwrap_or_default();
        assert!(count == 0 || next == 400, "{count} {next}");
    }
}

#[test]
fn a_datagram_goes_out_before_bulk_and_a_flood_of_them_does_not_starve_it() {
    let mut pair = Pair::up(config(), config());
    let mut ledger = Ledger::default();
    let flow = ledger.open(&mut pair);
    let bulk = (0..4).map(|_| pair.open(NEAR)).collect::<Vec<_>>();
    ledger.settle(&mut pair);
    for &id in &bulk {
        pair.write(NEAR, id, 60_000).unwrap();
    }
    ledger.send(&mut pair, NEAR, flow, 100);
    let mut out = BytesMut::new();
    assert!(pair.ends[NEAR].poll_transmit(&mut out, 1));
    assert_eq!(out[0], 0x21, "the first frame is the datagram");
    // One that comes while bulk goes out waits for one frame of it at most.
    out.clear();
    pair.ends[NEAR].poll_transmit(&mut out, 1);
    ledger.send(&mut pair, NEAR, flow, 100);
    out.clear();
    pair.ends[NEAR].poll_transmit(&mut out, 1);
    assert_eq!(out[0], 0x21);

    // As large as they may be, and always more of them: bulk has its turns all the same, however small the pieces are.
    let (mut of_bulk, mut of_flow) = (0, 0);
    for _ in 0..100 {
        ledger.send(&mut pair, NEAR, flow, 8000);
        ledger.send(&mut pair, NEAR, flow, 8000);
        out.clear();
        pair.ends[NEAR].poll_transmit(&mut out, 1);
        let len = out.len();
        if out[0] == 0x21 {
            of_flow += len;
        } else {
            of_bulk += len;
        }
    }
    assert!(of_bulk * 10 > of_flow, "{of_bulk} of bulk, {of_flow} of the flow");
    assert!(of_flow > of_bulk, "{of_bulk} of bulk, {of_flow} of the flow");
}

#[test]
fn a_flow_ends_as_a_stream_does_behind_its_datagrams() {
    let mut pair = Pair::up(config(), config());
    let mut ledger = Ledger::default();
    let flow = ledger.open(&mut pair);
    for _ in 0..3 {
        ledger.send(&mut pair, NEAR, flow, 10);
    }
    pair.ends[NEAR].finish(flow, pair.now).unwrap();
    assert!(matches!(
        pair.ends[NEAR].send_datagram(flow, Bytes::new()),
        Err(Error::WrongState { .. })
    ));
    ledger.settle(&mut pair);
    assert_eq!(ledger.arrived[&(FAR, flow)], (3, 3));
    assert!(pair.seen[FAR][&flow].finished && pair.seen[NEAR][&flow].accepted);
    ledger.send(&mut pair, FAR, flow, 0);
    pair.ends[FAR].finish(flow, pair.now).unwrap();
    ledger.settle(&mut pair);
    assert_eq!(ledger.arrived[&(NEAR, flow)], (1, 1));
    assert!(pair.seen[NEAR][&flow].closed && pair.seen[FAR][&flow].closed);
    assert_eq!(pair.ends[NEAR].stream_count() + pair.ends[FAR].stream_count(), 0);
}

#[test]
fn flows_are_refused_and_are_no_streams() {
    let mut pair = Pair::up(config(), config());
    let flow = pair.ends[NEAR].open_flow(b"udp", pair.now).unwrap();
    pair.settle();
    let refusal = Refusal::new(RefusalKind::NotFound, "no such port");
    pair.ends[FAR].refuse(flow, &refusal).unwrap();
    pair.settle();
    assert_eq!(pair.seen[NEAR][&flow].refused, Some(refusal));

    let flow = pair.ends[NEAR].open_flow(b"udp", pair.now).unwrap();
    let stream = pair.open(NEAR);
    pair.settle();
    let wrong = |result: Result<(), Error>| assert!(matches!(result, Err(Error::WrongState { .. })));
    wrong(pair.ends[NEAR].send(flow, "bytes".into()));
    wrong(pair.ends[NEAR].consumed(flow, 0, pair.now));
    wrong(pair.ends[NEAR].send_datagram(stream, "datagram".into()).map(drop));
    wrong(
        pair.ends[FAR]
            .send_datagram(flow, "not accepted".into())
            .map(drop),
    );
}

#[test]
fn the_longest_datagram_is_what_both_frames_hold() {
    let mut pair = Pair::up(
        Config {
            max_frame: 1 << 20,
            ..config()
        },
        config(),
    );
    assert_eq!(pair.ends[NEAR].max_datagram(), 8 * 1024);
    let flow = pair.ends[NEAR].open_flow(b"udp", pair.now).unwrap();
    let too_long = pair.ends[NEAR].send_datagram(flow, vec![0; 8 * 1024 + 1].into());
    assert_eq!(
        too_long,
        Err(Error::DatagramTooLong {
            len: 8 * 1024 + 1,
            most: 8 * 1024
        })
    );
    pair.ends[NEAR]
        .send_datagram(flow, vec![0; 8 * 1024].into())
        .unwrap();
    pair.settle();
    let whole = |event: &Event| matches!(event, Event::Datagram { bytes, .. } if bytes.len() == 8 * 1024);
    assert!(pair.others[FAR].iter().any(whole));

    let large = Config {
        max_frame: 1 << 20,
        ..config()
    };
    let pair = Pair::up(large.clone(), large);
    assert_eq!(pair.ends[NEAR].max_datagram(), tunnel_proto::MAX_DATAGRAM_BYTES);
}

#[test]
fn without_the_feature_on_both_sides_there_are_none() {
    for (near, far) in [(config(), small()), (small(), config()), (small(), small())] {
        let mut pair = Pair::up(near, far);
        let unsupported = Error::Unsupported { what: "datagrams" };
        assert_eq!(pair.ends[NEAR].open_flow(b"udp", pair.now), Err(unsupported));
    }
    // Asked for before it is known: refused as soon as it is.
    let mut pair = Pair::new(config(), small());
    let flow = pair.ends[NEAR].open_flow(b"udp", pair.now).unwrap();
    let stream = pair.open(NEAR);
    pair.ends[NEAR].send_datagram(flow, "early".into()).unwrap();
    pair.settle();
    let refused = pair.seen[NEAR][&flow].refused.as_ref().unwrap();
    assert_eq!(refused.kind, RefusalKind::Unsupported);
    assert!(pair.seen[NEAR][&stream].accepted);
}

#[test]
fn what_waits_is_dropped_when_the_link_cannot_send() {
    let mut pair = Pair::up(config(), config());
    let mut ledger = Ledger::default();
    let flow = ledger.open(&mut pair);
    ledger.settle(&mut pair);
    for _ in 0..5 {
        ledger.send(&mut pair, NEAR, flow, 10);
    }
    pair.ends[NEAR].finish(flow, pair.now).unwrap();
    assert_eq!(pair.ends[NEAR].drop_datagrams(), 5);
    assert_eq!(pair.ends[NEAR].dropped_datagrams(), 5);
    assert_eq!(pair.ends[NEAR].poll_dropped(), Some((flow, 5)));
    assert_eq!(pair.ends[NEAR].poll_dropped(), None);
    ledger.settle(&mut pair);
    assert_eq!(ledger.total_arrived(), 0);
    assert!(pair.seen[FAR][&flow].finished, "its end goes out all the same");
}

/// A server behind the client's HELLO, and what it makes of more frames.
fn server(features: u8, frames: &[Vec<u8>]) -> (Connection, Result<(), Error>) {
    let now = Instant::now();
    let mut server = Connection::new(Role::Server, config(), now).unwrap();
    server.handle_bytes(hello_offering(features).into(), now).unwrap();
    let result = server.handle_bytes(frames.concat().into(), now);
    (server, result)
}

#[test]
fn each_breach_has_its_name() {
    let flow = || frame(0x20, 1, b"udp");
    let misplaced = |kind, id| Violation::OutOfPlace { kind, id };
    let cases = [
        (vec![frame(0x20, 2, b"t")], Violation::OpenedOutOfTurn { id: 2 }),
        (vec![flow(), flow()], Violation::OpenedOutOfTurn { id: 1 }),
        (
            vec![flow(), frame(0x10, 1, b"t")],
            Violation::OpenedOutOfTurn { id: 1 },
        ),
        (vec![frame(0x20, 1, b"")], Violation::BadPayload { kind: 0x20 }),
        (
            vec![frame(0x20, 1, &[b'x'; 1025])],
            Violation::BadPayload { kind: 0x20 },
        ),
        (
            vec![frame(0x20, 0, b"t")],
            Violation::WrongStream { kind: 0x20, id: 0 },
        ),
        (
            vec![frame(0x21, 0, b"t")],
            Violation::WrongStream { kind: 0x21, id: 0 },
        ),
        (
            vec![frame(0x21, 1, b"")],
            Violation::NeverOpened { kind: 0x21, id: 1 },
        ),
        (
            vec![frame(0x21, 2, b"")],
            Violation::NeverOpened { kind: 0x21, id: 2 },
        ),
        (
            vec![flow(), frame(0x21, 1, &[0; 8 * 1024 + 1])],
            Violation::FrameTooLong {
                kind: 0x21,
                len: 8 * 1024 + 1,
                limit: 8 * 1024,
            },
        ),
        (vec![flow(), frame(0x13, 1, b"x")], misplaced(0x13, 1)),
        (vec![flow(), frame(0x13, 1, b"")], misplaced(0x13, 1)),
        (vec![flow(), frame(0x14, 1, b"x")], misplaced(0x14, 1)),
        (vec![flow(), frame(0x16, 1, &[0, 0, 0, 1])], misplaced(0x16, 1)),
        (vec![flow(), frame(0x11, 1, b"")], misplaced(0x11, 1)),
        (
            vec![flow(), frame(0x14, 1, b""), frame(0x21, 1, b"x")],
            misplaced(0x21, 1),
        ),
        (
            vec![flow(), frame(0x14, 1, b""), frame(0x14, 1, b"")],
            misplaced(0x14, 1),
        ),
        (
            vec![frame(0x10, 1, b"t"), frame(0x21, 1, b"x")],
            misplaced(0x21, 1),
        ),
        (
            vec![flow(), frame(0x91, 1, &[0, 0, 0, 1])],
            Violation::CreditExceeded { id: 1 },
        ),
    ];
    for (frames, violation) in cases {
        assert_eq!(server(2, &frames).1, Err(violation.into()), "{frames:?}");
    }
    for features in [0, 1] {
        for kind in [0x20, 0x21] {
            let unknown = Violation::UnknownKind { kind };
            assert_eq!(server(features, &[frame(kind, 1, b"t")]).1, Err(unknown.into()));
        }
    }
    // What crossed with the end of a flow, and RECLAIM of credit that it does not have.
    let crossed = [
        flow(),
        frame(0x90, 1, &[0; 4]),
        frame(0x15, 1, &[0, 1]),
        frame(0x21, 1, b"late"),
    ];
    server(2, &crossed).1.unwrap();
    assert_ne!(hello(), hello_offering(2));
}

#[test]
fn a_peer_that_opens_and_sends_without_end_holds_little() {
    // More opens than there may be unanswered are refused; a reset frees their place.
    let frames = (0..1000u32).map(|n| frame(0x20, 2 * n + 1, b"t"));
    let (mut connection, result) = server(2, &frames.collect::<Vec<_>>());
    result.unwrap();
    assert_eq!(connection.stream_count(), 3);
    let mut out = BytesMut::new();
    while connection.poll_transmit(&mut out, 64 * 1024) {}
    let refused = out
        .windows(4)
        .filter(|head| head[0] == 0x12 && head[1] == 0)
        .count();
    assert!(refused >= 997, "{refused}");

    // One message of nothing but empty datagrams, as many as fit.
    let mut frames = frame(0x20, 1, b"t");
    for _ in 0..500_000 {
        frames.extend_from_slice(&frame(0x21, 1, b""));
    }
    let (mut connection, result) = server(2, &[frames]);
    result.unwrap();
    let mut told = 0;
    while let Some(event) = connection.poll_event() {
        told += u64::from(matches!(event, Event::Datagram { .. }));
    }
    assert!((1..=8192).contains(&told), "{told}");
    assert_eq!(told + connection.dropped_datagrams(), 500_000);
    let (flow, dropped) = connection.poll_dropped().unwrap();
    assert_eq!((flow.number(), told + dropped), (1, 500_000));
    assert_eq!(connection.poll_dropped(), None);
}
