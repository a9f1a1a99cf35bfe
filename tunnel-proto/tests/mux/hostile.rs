//! A peer that does as it likes: a typed violation at worst, never a panic.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use tunnel_proto::{
    Config, Connection, Error, Event, Features, RefusalKind, ResetReason, Role, StreamId, Violation,
};

use crate::support::{frame, hello, hello_offering, small};

const KINDS: [u8; 18] = [
    0x01, 0x02, 0x03, 0x04, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x20, 0x21, 0x80, 0x90, 0x91,
    0xFF,
];

fn server() -> Connection {
    Connection::new(Role::Server, small(), Instant::now()).unwrap()
}

fn handle(connection: &mut Connection, bytes: &[u8]) -> Result<(), Error> {
    connection.handle_bytes(Bytes::copy_from_slice(bytes), Instant::now())
}

/// What a server says to these frames of a client, behind its HELLO.
fn verdict(frames: &[Vec<u8>]) -> Result<(), Violation> {
    let mut server = server();
    handle(&mut server, &hello()).unwrap();
    match handle(&mut server, &frames.concat()) {
        Ok(()) => Ok(()),
        Err(Error::Violation(violation)) => {
            // It says why before it goes, once, and takes nothing more.
            let mut out = BytesMut::new();
            assert!(server.poll_transmit(&mut out, 1 << 20));
            let why = violation.to_string();
            assert_eq!(
                out.windows(why.len())
                    .filter(|part| *part == why.as_bytes())
                    .count(),
                1
            );
            assert!(!server.poll_transmit(&mut out, 1 << 20));
            assert!(handle(&mut server, &[]).is_err());
            assert!(server.open(b"x", Instant::now()).is_err());
            assert_eq!(server.poll_timeout(), None);
            Err(violation)
        }
        Err(other) => panic!("{other}"),
    }
}

fn open(id: u32) -> Vec<u8> {
    frame(0x10, id, b"t")
}

#[test]
fn each_breach_has_its_name() {
    let credit = |id, bytes: u32| frame(0x16, id, &bytes.to_be_bytes());
    let cases: Vec<(Vec<Vec<u8>>, Violation)> = vec![
        (vec![hello()], Violation::HelloMisplaced),
        (vec![frame(0x17, 1, b"")], Violation::UnknownKind { kind: 0x17 }),
        (vec![frame(0x00, 0, b"")], Violation::UnknownKind { kind: 0 }),
        (vec![open(2)], Violation::OpenedOutOfTurn { id: 2 }),
        (vec![open(3), open(3)], Violation::OpenedOutOfTurn { id: 3 }),
        (vec![open(3), open(1)], Violation::OpenedOutOfTurn { id: 1 }),
        (vec![frame(0x10, 1, b"")], Violation::BadPayload { kind: 0x10 }),
        (
            vec![frame(0x10, 1, &[b'x'; 1025])],
            Violation::BadPayload { kind: 0x10 },
        ),
        (
            vec![frame(0x10, 0, b"t")],
            Violation::WrongStream { kind: 0x10, id: 0 },
        ),
        (
            vec![frame(0x02, 1, &[0; 8])],
            Violation::WrongStream { kind: 2, id: 1 },
        ),
        (vec![frame(0x02, 0, &[0; 7])], Violation::BadPayload { kind: 2 }),
        (vec![frame(0x04, 0, &[0; 1])], Violation::BadPayload { kind: 4 }),
        (
            vec![frame(0x11, 1, b"")],
            Violation::NeverOpened { kind: 0x11, id: 1 },
        ),
        (
            vec![frame(0x13, 2, b"x")],
            Violation::NeverOpened { kind: 0x13, id: 2 },
        ),
        (
            vec![open(1), frame(0x11, 1, b"")],
            Violation::OutOfPlace { kind: 0x11, id: 1 },
        ),
        (
            vec![open(1), frame(0x12, 1, &[0, 1])],
            Violation::OutOfPlace { kind: 0x12, id: 1 },
        ),
        (
            vec![open(1), frame(0x14, 1, b""), frame(0x13, 1, b"x")],
            Violation::OutOfPlace { kind: 0x13, id: 1 },
        ),
        (
            vec![open(1), frame(0x15, 1, b"")],
            Violation::BadPayload { kind: 0x15 },
        ),
        (
            vec![open(1), credit(1, u32::MAX)],
            Violation::CreditOverflow { id: 1 },
        ),
        (
            vec![open(1), credit(1, i32::MAX as u32)],
            Violation::CreditOverflow { id: 1 },
        ),
        (
            vec![open(1), frame(0x16, 1, b"")],
            Violation::BadPayload { kind: 0x16 },
        ),
        (
            vec![frame(0x13, 1, &[0; 8193])],
            Violation::FrameTooLong {
                kind: 0x13,
                len: 8193,
                limit: 8192,
            },
        ),
        (
            vec![frame(0x04, 0, &[0; 2049])],
            Violation::FrameTooLong {
                kind: 4,
                len: 2049,
                limit: 2048,
            },
        ),
    ];
    for (frames, wanted) in cases {
        assert_eq!(verdict(&frames), Err(wanted));
    }
    let mut over = vec![open(1)];
    over.extend((0..8).map(|_| frame(0x13, 1, &[0; 8192])));
    assert_eq!(verdict(&over), Ok(()));
    over.push(frame(0x13, 1, b"x"));
    assert_eq!(verdict(&over), Err(Violation::CreditExceeded { id: 1 }));
}

#[test]
fn hello_must_come_first_and_be_of_this_version() {
    for (frames, wanted) in [
        (frame(0x02, 0, &[0; 8]), Violation::HelloMisplaced),
        (frame(0x13, 1, b"x"), Violation::HelloMisplaced),
        (frame(0x01, 0, &[0, 2]), Violation::Version { version: 2 }),
        (frame(0x01, 0, &[0, 1, 0, 0]), Violation::BadPayload { kind: 1 }),
        (frame(0x01, 0, &[0]), Violation::BadPayload { kind: 1 }),
        (
            frame(0x01, 0, &[[0, 1].as_slice(), &[0; 18]].concat()),
            Violation::BadPayload { kind: 1 },
        ),
    ] {
        assert_eq!(handle(&mut server(), &frames), Err(Error::Violation(wanted)));
    }
    // Longer ones are of later revisions, and offered features are not our business.
    let mut longer = hello()[8..].to_vec();
    longer[3] = 0xFF;
    longer.extend_from_slice(b"more");
    handle(&mut server(), &frame(0x01, 0, &longer)).unwrap();
}

#[test]
fn optional_kinds_are_skipped_whatever_they_hold() {
    let optional = frame(0x80, 77, &[0xAA; 100_000]);
    assert_eq!(
        verdict(&[optional.clone(), open(1), frame(0xFF, 0, b""), optional]),
        Ok(())
    );
}

#[test]
fn unknown_codes_are_internal_errors_and_messages_are_made_harmless() {
    let mut server = server();
    handle(&mut server, &hello()).unwrap();
    let id = server.open(b"x", Instant::now()).unwrap();
    handle(
        &mut server,
        &frame(0x12, id.number(), b"\x7f\x7fno\x1b[31m \xff\r\n"),
    )
    .unwrap();
    let refused = std::iter::from_fn(|| server.poll_event()).last();
    match refused {
        Some(Event::Refused { refusal, .. }) => {
            assert_eq!(refusal.kind, RefusalKind::Internal);
            assert_eq!(refusal.message, "no [31m \u{FFFD}  ");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn too_many_opens_are_refused_and_the_connection_goes_on() {
    let mut server = server();
    handle(&mut server, &hello()).unwrap();
    for number in 0..10 {
        handle(&mut server, &open(2 * number + 1)).unwrap();
    }
    let opened = std::iter::from_fn(|| server.poll_event())
        .filter(|e| matches!(e, Event::Opened { .. }))
        .count();
    assert_eq!(opened, 3);
    let mut out = BytesMut::new();
    server.poll_transmit(&mut out, 1 << 20);
    let refusals = out
        .windows(8)
        .filter(|head| head[0] == 0x12 && head[1] == 0 && head[4..7] == [0; 3])
        .count();
    assert_eq!(refusals, 7);
}

/// A peer that asks and never reads must not make us remember every answer.
#[test]
fn a_peer_that_never_reads_costs_bounded_memory() {
    let mut server = server();
    handle(&mut server, &hello()).unwrap();
    for _ in 0..100_000 {
        handle(&mut server, &frame(0x02, 0, &[7; 8])).unwrap();
    }
    let mut out = BytesMut::new();
    server.poll_transmit(&mut out, 1 << 20);
    assert!(out.len() < 200, "one answer for all: {}", out.len());
    let flooded = (0..1_000_000u32).find_map(|number| handle(&mut server, &open(2 * number + 1)).err());
    assert_eq!(flooded, Some(Error::Violation(Violation::Flood)));
}

fn some_frame() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![9 => prop::sample::select(KINDS.to_vec()), 1 => any::<u8>()];
    let stream = prop_oneof![4 => 0..8u32, 1 => any::<u32>()];
    let payload = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..40),
        1 => prop::collection::vec(any::<u8>(), 0..9000),
    ];
    (kind, stream, payload).prop_map(|(kind, stream, payload)| frame(kind, stream, &payload))
}

/// The owner's side of it: it does what it likes as well.
fn act(connection: &mut Connection, verb: u8, id: StreamId, out: &mut BytesMut) {
    let now = Instant::now();
    // Each may be refused; none may panic.
    match verb % 11 {
        0 => drop(connection.open(b"t", now)),
        1 => drop(connection.accept(id, now)),
        2 => drop(connection.refuse(
            id,
            &tunnel_proto::Refusal::new(RefusalKind::Internal, "x".repeat(2000)),
        )),
        3 => drop(connection.send(id, Bytes::from(vec![0; 5000]))),
        4 => drop(connection.finish(id, now)),
        5 => drop(connection.reset(id, ResetReason::Cancelled)),
        6 => drop(connection.consumed(id, 100, now)),
        8 => drop(connection.open_flow(b"t", now)),
        9 => drop(connection.send_datagram(id, Bytes::from(vec![0; 500]))),
        7 => connection.handle_timeout(now + std::time::Duration::from_secs(u64::from(verb))),
        _ => drop(connection.poll_transmit(out, 3000)),
    }
    while connection.poll_event().is_some() {}
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_survived(
        bytes in prop::collection::vec(any::<u8>(), 0..3000),
        after_hello in any::<bool>(),
        cut in 1..500usize,
    ) {
        let mut connection = server();
        if after_hello {
            handle(&mut connection, &hello()).unwrap();
        }
        for part in bytes.chunks(cut) {
            if handle(&mut connection, part).is_err() {
                break;
            }
        }
        let mut out = BytesMut::new();
        while connection.poll_transmit(&mut out, 1000) {}
        while connection.poll_event().is_some() {}
    }

    #[test]
    fn any_frames_and_any_owner_are_survived(
        role in prop::sample::select(vec![Role::Client, Role::Server]),
        steps in prop::collection::vec((some_frame(), any::<u8>(), 0..8u32), 0..60),
        cut in 1..20_000usize,
    ) {
        let config = Config { features: Features::DATAGRAMS, ..small() };
        let mut connection = Connection::new(role, config, Instant::now()).unwrap();
        handle(&mut connection, &hello_offering(2)).unwrap();
        let mut out = BytesMut::new();
        for (frame, verb, id) in steps {
            act(&mut connection, verb, StreamId::from_number(id), &mut out);
            for part in frame.chunks(cut) {
                if handle(&mut connection, part).is_err() {
                    break;
                }
            }
        }
        while connection.poll_transmit(&mut out, 1000) {}
    }
}

/// The default limits, which are what runs.
#[test]
fn the_default_limits_are_sound() {
    Connection::new(Role::Client, Config::default(), Instant::now()).unwrap();
}
