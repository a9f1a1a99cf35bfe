//! What was sent and may have to be sent again.

use bytes::{Buf, Bytes};

use crate::{ChunkQueue, TransmitSink};

/// The bytes of a link from the first one that the peer has not acknowledged, in order. Large payloads are the buffers that were
/// sent, not copies.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// The offset of the first byte kept.
    start: u64,
    /// Sent on the connection of the moment.
    sent: ChunkQueue,
    /// Behind those: sent on a former connection, and not on this one yet.
    again: ChunkQueue,
}

impl Replay {
    /// How many bytes it keeps.
    pub(super) const fn len(&self) -> usize {
        self.sent.len() + self.again.len()
    }

    /// The offset behind what was sent on the connection of the moment.
    const fn position(&self) -> u64 {
        self.start + self.sent.len() as u64
    }

    /// The offset behind what was ever sent.
    const fn end(&self) -> u64 {
        self.start + self.len() as u64
    }

    /// Whether something must be sent again before anything new.
    pub(super) const fn is_behind(&self) -> bool {
        !self.again.is_empty()
    }

    /// Whether a peer that has received all bytes before `offset` can be sent the others.
    pub(super) const fn reaches(&self, offset: u64) -> bool {
        self.start <= offset && offset <= self.end()
    }

    /// The peer has everything before `offset`; `false` where it has not been sent as much. What it said before may come later, when
    /// it is sent again.
    pub(super) fn acknowledge(&mut self, offset: u64) -> bool {
        let fits = offset <= self.position();
        if fits && offset > self.start {
            // No more than is kept, so it fits.
            let acknowledged = usize::try_from(offset - self.start).unwrap_or(usize::MAX);
            self.sent.advance(acknowledged.min(self.sent.len()));
            self.start = offset;
        }
        fits
    }

    /// A new connection begins, to a peer that has everything before `offset`, which must be [within reach](Replay::reaches).
    pub(super) fn rewind(&mut self, offset: u64) {
        let mut all = std::mem::take(&mut self.sent);
        all.append(&mut self.again);
        let acknowledged = usize::try_from(offset.saturating_sub(self.start)).unwrap_or(usize::MAX);
        all.advance(acknowledged.min(all.len()));
        self.start = offset;
        self.again = all;
    }

    /// Sends about `limit` bytes again.
    pub(super) fn put_again<S: TransmitSink>(&mut self, out: &mut S, limit: usize) {
        let mut left = limit;
        while let Some(chunk) = self.again.pop_up_to(left) {
            left -= chunk.len();
            self.keep(&chunk);
            out.put_bytes(chunk);
        }
    }

    fn keep(&mut self, bytes: &Bytes) {
        // A small piece must not keep the buffer that it is a part of.
        if bytes.len() < COPY_BELOW {
            self.sent.push_slice(bytes);
        } else {
            self.sent.push(bytes.clone());
        }
    }
}

/// Puts what is sent into a sink, and keeps it.
pub(super) struct Keeping<'a, S> {
    pub(super) out: &'a mut S,
    pub(super) replay: &'a mut Replay,
}

impl<S: TransmitSink> TransmitSink for Keeping<'_, S> {
    fn put_slice(&mut self, bytes: &[u8]) {
        self.replay.sent.push_slice(bytes);
        self.out.put_slice(bytes);
    }

    fn put_bytes(&mut self, bytes: Bytes) {
        self.replay.keep(&bytes);
        self.out.put_bytes(bytes);
    }
}

/// Payloads below this size are copied.
const COPY_BELOW: usize = 4 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(range: std::ops::Range<u32>) -> Bytes {
        range.map(|n| n.to_le_bytes()[0]).collect()
    }

    #[test]
    fn what_is_not_acknowledged_is_sent_again_from_any_offset() {
        for offset in [0, 1, 7, 5000, 9999, 10_000] {
            let mut replay = Replay::default();
            let mut out = ChunkQueue::new();
            let mut keeping = Keeping {
                out: &mut out,
                replay: &mut replay,
            };
            keeping.put_slice(&bytes(0..8));
            keeping.put_bytes(bytes(8..6000));
            keeping.put_bytes(bytes(6000..10_000));
            assert!(replay.reaches(offset) && !replay.reaches(10_001));
            replay.rewind(offset);
            let mut again = Vec::new();
            while replay.is_behind() {
                replay.put_again(&mut again_sink(&mut again), 700);
            }
            assert_eq!(again, bytes(u32::try_from(offset).unwrap()..10_000));
            assert_eq!(replay.len() as u64, 10_000 - offset);
            assert!(!replay.reaches(offset.wrapping_sub(1)));
        }
    }

    #[test]
    fn an_acknowledgement_may_come_late_but_not_early() {
        let mut replay = Replay::default();
        let mut sink = Vec::new();
        let mut out = again_sink(&mut sink);
        let mut keeping = Keeping {
            out: &mut out,
            replay: &mut replay,
        };
        keeping.put_slice(&[1; 100]);
        assert!(replay.acknowledge(60));
        assert!(replay.acknowledge(10), "an older one");
        assert_eq!(replay.len(), 40);
        assert!(!replay.acknowledge(101));
        replay.rewind(80);
        assert!(!replay.acknowledge(90), "not sent on this connection yet");
        replay.put_again(&mut out, 100);
        assert!(replay.acknowledge(100));
        assert_eq!(replay.len(), 0);
    }

    struct Sink<'a>(&'a mut Vec<u8>);

    fn again_sink(bytes: &mut Vec<u8>) -> Sink<'_> {
        Sink(bytes)
    }

    impl TransmitSink for Sink<'_> {
        fn put_slice(&mut self, bytes: &[u8]) {
            self.0.extend_from_slice(bytes);
        }

        fn put_bytes(&mut self, bytes: Bytes) {
            self.0.extend_from_slice(&bytes);
        }
    }
}
