//! Two connections, two wires, one clock.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tunnel_proto::{Config, Connection, Error, Event, Refusal, ResetReason, Role, StreamId};

pub(crate) const NEAR: usize = 0;
pub(crate) const FAR: usize = 1;

/// Small limits, so that few bytes reach them.
pub(crate) fn small() -> Config {
    Config {
        initial_window: 64 * 1024,
        resting_window: 64 * 1024,
        max_window: 256 * 1024,
        max_frame: 8 * 1024,
        receive_budget: 4 * 1024 * 1024,
        max_streams: 64,
        max_pending_opens: 3,
        ..Config::default()
    }
}

/// What one end has seen of a stream.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) target: Option<Bytes>,
    pub(crate) accepted: bool,
    pub(crate) refused: Option<Refusal>,
    pub(crate) reset: Option<ResetReason>,
    pub(crate) finished: bool,
    pub(crate) closed: bool,
    pub(crate) received: u64,
    pub(crate) unread: u32,
    pub(crate) sent: u64,
}

impl Seen {
    pub(crate) fn is_over(&self) -> bool {
        self.closed || self.reset.is_some() || self.refused.is_some()
    }
}

/// Byte `at` of what `end` sends on stream `id`: everybody can tell it without keeping anything.
pub(crate) fn byte(id: StreamId, end: usize, at: u64) -> u8 {
    let mixed = (u64::from(id.number()) << 33 | at << 1 | end as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed.to_be_bytes()[0]
}

pub(crate) struct Pair {
    pub(crate) ends: [Connection; 2],
    /// What is on its way to that end.
    pub(crate) wires: [BytesMut; 2],
    pub(crate) seen: [BTreeMap<StreamId, Seen>; 2],
    /// What that end was given to send, per stream.
    pub(crate) given: [BTreeMap<StreamId, u64>; 2],
    pub(crate) others: [Vec<Event>; 2],
    pub(crate) now: Instant,
    pub(crate) accept_at_once: bool,
    pub(crate) read_at_once: bool,
    /// Where nothing moves any more, wait for acknowledgements, and for ACCEPTs that are delayed.
    pub(crate) wait_for_acks: bool,
}

impl Pair {
    pub(crate) fn new(near: Config, far: Config) -> Pair {
        let now = Instant::now();
        Pair {
            ends: [
                Connection::new(Role::Client, near, now).unwrap(),
                Connection::new(Role::Server, far, now).unwrap(),
            ],
            wires: Default::default(),
            seen: Default::default(),
            given: Default::default(),
            others: Default::default(),
            now,
            accept_at_once: true,
            read_at_once: true,
            wait_for_acks: false,
        }
    }

    /// Past the HELLOs.
    pub(crate) fn up(near: Config, far: Config) -> Pair {
        let mut pair = Pair::new(near, far);
        pair.settle();
        pair
    }

    /// Opens a stream to a target that no other stream has.
    pub(crate) fn open(&mut self, end: usize) -> StreamId {
        let target = format!("{:06}", self.seen[end].len());
        self.open_to(end, target.as_bytes())
    }

    pub(crate) fn open_to(&mut self, end: usize, target: &[u8]) -> StreamId {
        let id = self.ends[end].open(target, self.now).unwrap();
        self.seen[end].insert(id, Seen::default());
        id
    }

    pub(crate) fn write(&mut self, end: usize, id: StreamId, len: usize) -> Result<(), Error> {
        let at = self.given[end].entry(id).or_default();
        let bytes = (*at..*at + len as u64)
            .map(|at| byte(id, end, at))
            .collect::<Bytes>();
        self.ends[end].send(id, bytes)?;
        *at += len as u64;
        Ok(())
    }

    /// `end` puts about `limit` bytes on the wire.
    pub(crate) fn transmit(&mut self, end: usize, limit: usize) -> bool {
        let sent = self.ends[end].poll_transmit(&mut self.wires[1 - end], limit);
        self.take_events(end);
        sent
    }

    /// The next `n` bytes of the wire arrive at `end`.
    pub(crate) fn deliver(&mut self, end: usize, n: usize) -> Result<(), Error> {
        let n = n.min(self.wires[end].len());
        let bytes = self.wires[end].split_to(n).freeze();
        let result = self.ends[end].handle_bytes(bytes, self.now);
        self.take_events(end);
        result
    }

    pub(crate) fn read(&mut self, end: usize, id: StreamId, bytes: u32) {
        let seen = self.seen[end].get_mut(&id).unwrap();
        let n = seen.unread.min(bytes);
        seen.unread -= n;
        match self.ends[end].consumed(id, n, self.now) {
            Ok(()) | Err(Error::NotOpen { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn take_events(&mut self, end: usize) {
        while let Some(event) = self.ends[end].poll_event() {
            self.take_event(end, event);
        }
    }

    fn take_event(&mut self, end: usize, event: Event) {
        let id = match &event {
            Event::Opened { id, .. }
            | Event::Accepted { id }
            | Event::Refused { id, .. }
            | Event::Data { id, .. }
            | Event::Finished { id }
            | Event::Reset { id, .. }
            | Event::Sent { id, .. }
            | Event::Closed { id } => *id,
            other => return self.others[end].push(other.clone()),
        };
        let seen = self.seen[end].entry(id).or_default();
        assert!(!seen.is_over(), "{event:?} after the stream's end: {seen:?}");
        match event {
            Event::Opened { target, .. } => {
                seen.target = Some(target);
                if self.accept_at_once {
                    match self.ends[end].accept(id, self.now) {
                        // Its reset came with it.
                        Ok(()) | Err(Error::NotOpen { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            Event::Accepted { .. } => seen.accepted = true,
            Event::Refused { refusal, .. } => seen.refused = Some(refusal),
            Event::Data { bytes, .. } => {
                assert!(!seen.finished && !bytes.is_empty());
                for &received in &bytes {
                    assert_eq!(
                        received,
                        byte(id, 1 - end, seen.received),
                        "stream {id}, byte {}",
                        seen.received
                    );
                    seen.received += 1;
                }
                seen.unread += u32::try_from(bytes.len()).unwrap();
                if self.read_at_once {
                    self.read(end, id, u32::MAX);
                }
            }
            Event::Finished { .. } => seen.finished = true,
            Event::Reset { reason, .. } => seen.reset = Some(reason),
            Event::Sent { bytes, .. } => seen.sent += bytes as u64,
            Event::Closed { .. } => seen.closed = true,
            _ => unreachable!(),
        }
    }

    /// Everything that can move moves.
    pub(crate) fn settle(&mut self) {
        for _ in 0..100_000 {
            let mut moved = false;
            for end in [NEAR, FAR] {
                moved |= self.transmit(end, 64 * 1024);
                moved |= !self.wires[end].is_empty();
                self.deliver(end, usize::MAX).unwrap();
            }
            if !moved && !self.acks_are_due() {
                return;
            }
        }
        panic!("the two never come to rest");
    }

    /// Lets the time pass within which acknowledgements come, if any do.
    fn acks_are_due(&mut self) -> bool {
        let soon = self.now + Duration::from_millis(100);
        let due = |end: &Connection| end.poll_timeout().is_some_and(|due| due <= soon);
        if !self.wait_for_acks || !self.ends.iter().any(due) {
            return false;
        }
        self.now = soon;
        for end in &mut self.ends {
            end.handle_timeout(soon);
        }
        true
    }

    /// What was received and not read is read, until nothing moves any more.
    pub(crate) fn settle_reading(&mut self) {
        self.read_at_once = true;
        loop {
            self.settle();
            let mut waiting = Vec::new();
            for end in [NEAR, FAR] {
                waiting.extend(
                    self.seen[end]
                        .iter()
                        .filter(|(_, s)| s.unread > 0)
                        .map(|(&id, _)| (end, id)),
                );
            }
            if waiting.is_empty() {
                return;
            }
            for (end, id) in waiting {
                self.read(end, id, u32::MAX);
            }
        }
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now += time;
    }
}

/// A frame by hand.
pub(crate) fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap();
    let mut bytes = (u32::from(kind) << 24 | len).to_be_bytes().to_vec();
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// HELLO of version 1: window 256 KiB, frames of 64 KiB, 4096 streams, 256 unanswered opens.
pub(crate) fn hello() -> Vec<u8> {
    hello_offering(0)
}

pub(crate) fn hello_offering(features: u8) -> Vec<u8> {
    let mut payload = vec![0, 1, 0, features];
    for number in [256 * 1024u32, 64 * 1024, 4096, 256] {
        payload.extend_from_slice(&number.to_be_bytes());
    }
    frame(0x01, 0, &payload)
}
