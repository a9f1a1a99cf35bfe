//! A peer that says anything, in any pieces, to an owner that does anything, over connections that come and go.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tunnel_proto::{
    Config, Connection, Error, Event, Features, GoAwayReason, Refusal, RefusalKind, ResetReason, ResumeToken,
    Role, StreamId, Violation,
};

const SECRET: [u8; 16] = [7; 16];

/// The kinds of frames that a peer says by one byte: all that there are, and some that there are not.
const KINDS: [u8; 24] = [
    0x01, 0x02, 0x03, 0x04, 0x10, 0x11, 0x12, 0x13, 0x13, 0x13, 0x14, 0x15, 0x16, 0x17, 0x20, 0x21, 0x21,
    0x42, 0x43, 0x44, 0x90, 0x91, 0x92, 0xFF,
];

/// Gives out what a case consists of, one small choice after the other; zeros when there is no more.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn some(&mut self, most: usize) -> Vec<u8> {
        let (some, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        some.to_vec()
    }

    /// One of the first few streams of either side, or the connection itself.
    fn stream(&mut self) -> u32 {
        u32::from(self.byte() % 12)
    }
}

/// A frame whose length is right.
fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let head = u32::from(kind) << 24 | u32::try_from(payload.len()).expect("a short payload");
    [&head.to_be_bytes()[..], &stream.to_be_bytes(), payload].concat()
}

fn hello(features: u16) -> Vec<u8> {
    let mut payload = [1_u16.to_be_bytes(), features.to_be_bytes()].concat();
    for number in [16_384_u32, 8 * 1024, 16, 4] {
        payload.extend_from_slice(&number.to_be_bytes());
    }
    frame(0x01, 0, &payload)
}

/// A connection, and what has been seen of it.
struct End {
    connection: Connection,
    seen: Vec<Event>,
    violation: Option<Violation>,
}

impl End {
    fn new(role: Role, config: &Config, now: Instant) -> End {
        let mut connection = Connection::new(role, config.clone(), now).expect("a good config");
        connection.set_resume_token(ResumeToken::from_bytes(SECRET));
        End {
            connection,
            seen: Vec::new(),
            violation: None,
        }
    }

    /// Takes what the peer says, in pieces of these sizes, or all at once where there are none.
    fn hear(&mut self, bytes: &[u8], cuts: &[u8], now: Instant) {
        let mut rest = Bytes::copy_from_slice(bytes);
        let mut cuts = cuts.iter().cycle();
        while self.violation.is_none() && !rest.is_empty() {
            let most = cuts.next().map_or(rest.len(), |cut| usize::from(*cut).max(1));
            let piece = rest.split_to(most.min(rest.len()));
            match self.connection.handle_bytes(piece, now) {
                Ok(()) => {}
                Err(Error::Violation(violation)) => self.violation = Some(violation),
                Err(other) => panic!("a peer's bytes lead to no such error: {other}"),
            }
        }
        self.look();
    }

    /// Notes what happened. How a stream's bytes are cut means nothing.
    fn look(&mut self) {
        while let Some(event) = self.connection.poll_event() {
            if let Event::Data { id, bytes } = &event
                && let Some(Event::Data {
                    id: last,
                    bytes: before,
                }) = self.seen.last_mut()
                && last == id
            {
                *before = [&before[..], bytes].concat().into();
                continue;
            }
            self.seen.push(event);
        }
    }
}

/// Plays a case. `bytes` say what happens: a role, the cuts, and then one thing after the other.
///
/// # Panics
/// Where a peer's bytes mean something else when they are cut elsewhere; where a link that goes on sends something else than what it
/// was asked for; and where the machine itself does.
pub(crate) fn check(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let first = choices.byte();
    let role = if first & 1 == 0 {
        Role::Client
    } else {
        Role::Server
    };
    let offered = [
        Features::RESUME,
        Features::RESUME | Features::DATAGRAMS,
        Features::DATAGRAMS,
        Features::default(),
    ];
    let config = Config {
        initial_window: 16 * 1024,
        resting_window: 16 * 1024,
        max_window: 64 * 1024,
        max_frame: 8 * 1024,
        receive_budget: 1024 * 1024,
        max_streams: 16,
        max_pending_opens: 4,
        features: offered[usize::from(first >> 1 & 3)],
        replay_bytes: 64 * 1024,
        resume_window: Duration::from_secs(60),
        ..Config::default()
    };
    let cuts = {
        let count = usize::from(choices.byte() % 4) + 1;
        choices.some(count)
    };
    let mut now = Instant::now();
    // Two that differ in nothing but how what they hear is cut.
    let mut ends = [End::new(role, &config, now), End::new(role, &config, now)];
    // All bytes of the link that the first one has sent, and up to where the peer has them.
    let (mut sent, mut at) = (Vec::new(), 0_usize);
    while !choices.0.is_empty() {
        match choices.byte() % 10 {
            0 => {
                let length = usize::from(choices.byte());
                hear(&mut ends, &choices.some(length), &cuts, now);
            }
            1 => hear(&mut ends, &hello(u16::from(choices.byte())), &cuts, now),
            2 | 3 => {
                let kind = KINDS[usize::from(choices.byte()) % KINDS.len()];
                let stream = choices.stream();
                let length = usize::from(choices.byte());
                hear(
                    &mut ends,
                    &frame(kind, stream, &choices.some(length % 64)),
                    &cuts,
                    now,
                );
            }
            4 => {
                // As much as a frame may hold, of whichever stream.
                let length = usize::from(choices.byte()) * 32;
                let data = frame(0x13, choices.stream(), &vec![9; length]);
                hear(&mut ends, &data, &cuts, now);
            }
            5 => {
                // What has been sent and what is known to be received, whatever the link makes of it.
                let ack = frame(0x42, 0, &(sent.len() as u64).to_be_bytes());
                let token = [&SECRET[..], &60_u16.to_be_bytes(), &65_536_u32.to_be_bytes()].concat();
                let said = if choices.byte() % 2 == 0 {
                    ack
                } else {
                    frame(0x43, 0, &token)
                };
                hear(&mut ends, &said, &cuts, now);
            }
            6 => {
                let (what, id, length) = (choices.byte(), choices.stream(), choices.byte());
                let [first, second] = &mut ends;
                let done = act(first, what, id, length, now);
                assert_eq!(
                    done,
                    act(second, what, id, length, now),
                    "what its owner asks for"
                );
            }
            7 => {
                let limit = usize::from(choices.byte()) * 64;
                let before = sent.len();
                let mut out = BytesMut::new();
                ends[0].connection.poll_transmit(&mut out, limit);
                // After a return it says again what it said before, byte for byte, and then goes on.
                let again = out.len().min(before - at);
                assert_eq!(out[..again], sent[at..at + again], "said again, and not the same");
                sent.extend_from_slice(&out[again..]);
                at += out.len();
                ends[1].connection.poll_transmit(&mut BytesMut::new(), limit);
            }
            8 => {
                now += Duration::from_millis(u64::from(choices.byte()) * 200);
                for end in &mut ends {
                    end.connection.handle_timeout(now);
                }
            }
            _ => {
                // The connection is lost, and the peer comes back with what it says that it has.
                let said = match choices.byte() {
                    0..=127 => at,
                    other => at.saturating_sub(usize::from(other) - 128),
                };
                let said = said as u64 + u64::from(choices.byte() == 255);
                for end in &mut ends {
                    let connection = &mut end.connection;
                    if connection.handle_carrier_lost(now).is_none() {
                        continue;
                    }
                    let mut out = BytesMut::new();
                    assert!(
                        !connection.poll_transmit(&mut out, 1 << 20) && out.is_empty(),
                        "to nobody"
                    );
                }
                let [first, second] = &mut ends;
                let could = first.connection.can_resume(said);
                assert_eq!(first.connection.handle_resume(said, now).is_ok(), could);
                if could {
                    assert!(said <= sent.len() as u64, "nobody has what was never sent");
                    at = usize::try_from(said).expect("not more than was sent");
                    // The other one has sent the same, as it was asked to each time.
                    drop(second.connection.handle_resume(said, now));
                }
            }
        }
        for end in &mut ends {
            end.look();
        }
        let [first, second] = &ends;
        assert_eq!(first.violation, second.violation);
        if first.violation.is_some() {
            // What came of the last frame before that is up to the pieces.
            return;
        }
        assert_eq!(first.seen, second.seen, "what was heard in other pieces");
        assert_eq!(
            first.connection.received_bytes(),
            second.connection.received_bytes()
        );
        assert_eq!(first.connection.stream_count(), second.connection.stream_count());
        assert!(
            first.connection.stream_count() <= 32,
            "more streams than both sides may open"
        );
        for end in &mut ends {
            end.seen.clear();
        }
    }
}

fn hear(ends: &mut [End; 2], bytes: &[u8], cuts: &[u8], now: Instant) {
    let [first, second] = ends;
    first.hear(bytes, &[], now);
    second.hear(bytes, cuts, now);
}

/// What the owner asks for, as a text where it fails.
fn act(end: &mut End, what: u8, id: u32, length: u8, now: Instant) -> Result<(), String> {
    let connection = &mut end.connection;
    let stream = StreamId::from_number(id);
    let bytes = Bytes::from(vec![5; usize::from(length) * 64]);
    let done = match what % 14 {
        0 => connection.open(b"target", now).map(drop),
        1 => connection.open_flow(b"target", now).map(drop),
        2 => connection.accept(stream, now),
        3 => connection.refuse(stream, &Refusal::new(RefusalKind::Refused, "no")),
        4 | 5 => connection.send(stream, bytes),
        6 => connection.send_datagram(stream, bytes).map(drop),
        7 => connection.finish(stream, now),
        8 => connection.reset(stream, ResetReason::Cancelled),
        9 => connection.consumed(stream, u32::from(length) * 32, now),
        10 => {
            connection.drain("leaving", now);
            Ok(())
        }
        11 => {
            connection.go_away(GoAwayReason::Internal, "leaving");
            Ok(())
        }
        12 => connection.name_successor("wss://b.example/"),
        _ => {
            connection.probe(Duration::from_secs(1), now);
            connection.drop_datagrams();
            Ok(())
        }
    };
    done.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::check;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        #[test]
        fn any_peer_and_any_owner_in_any_pieces(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            check(&bytes);
        }

        /// Both sides have met, and the link can be taken up again.
        #[test]
        fn any_peer_that_has_said_hello(
            first in 0..4_u8,
            bytes in prop::collection::vec(prop_oneof![3 => 0..12_u8, 1 => any::<u8>()], 0..600),
        ) {
            let met = [&[first, 1, 3, 7, 1, 3, 5, 1, 7, 255], &bytes[..]].concat();
            check(&met);
        }
    }
}
