//! What is sent, in frames. Every message is one frame.

use std::io;

use bytes::{Buf, BytesMut};
use tunnel_proto::{ChunkQueue, Role};

use super::frames::{self, Head, MAX_HEAD_BYTES, Payload};
use super::mask::Mask;

/// The longest message that is sent. What is taken at once is one message, and seldom half as long.
const MAX_MESSAGE_BYTES: usize = 512 * 1024;

/// Control frames that wait to be sent: once they are this many bytes, only the answer to the latest Ping waits behind them
/// (RFC 6455 §5.5.3).
const MAX_CONTROL_BYTES: usize = 64 * 1024;

/// Keys that are made at a time.
const KEYS: usize = 64;

/// Writes our frames.
pub(super) struct Writer {
    /// A client's frames are masked, a server's are not (RFC 6455 §5.1).
    keys: Option<Keys>,
    /// The byte that each message begins with, before what was taken.
    lead: Option<u8>,
    /// What was taken and is in no frame yet.
    pending: ChunkQueue,
    /// What is missing of the frame that has begun, and its mask.
    left: usize,
    mask: Mask,
    /// Control frames, encoded: they go between two others.
    control: BytesMut,
    latest: Option<Payload>,
    close: Close,
}

#[derive(Clone, Copy)]
enum Close {
    No,
    /// With this code, once nothing is pending.
    Wanted(Option<u16>),
    /// It is among the control frames, or was sent. Nothing comes behind it.
    Put,
}

impl Writer {
    pub(super) fn new(role: Role) -> Writer {
        Writer {
            keys: matches!(role, Role::Client).then(Keys::default),
            lead: None,
            pending: ChunkQueue::new(),
            left: 0,
            mask: Mask::new([0; 4]),
            control: BytesMut::new(),
            latest: None,
            close: Close::No,
        }
    }

    /// Begins each message from here on with `lead`.
    pub(super) const fn lead_with(&mut self, lead: u8) {
        self.lead = Some(lead);
    }

    /// Whether what it writes differs from what it takes by the heads alone.
    pub(super) const fn is_plain(&self) -> bool {
        self.keys.is_none()
    }

    /// How much was taken and has not been written, about.
    pub(super) fn len(&self) -> usize {
        self.pending.len() + self.control.len()
    }

    /// Whether there is anything to write.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0 && self.latest.is_none() && !matches!(self.close, Close::Wanted(_))
    }

    /// Takes all of `bytes`.
    pub(super) fn put(&mut self, bytes: &mut ChunkQueue) {
        self.pending.append(bytes);
    }

    /// Answers a Ping. After a Close there is no answer.
    pub(super) fn pong(&mut self, payload: Payload) -> io::Result<()> {
        if !matches!(self.close, Close::No) {
            return Ok(());
        }
        if self.control.len() < MAX_CONTROL_BYTES {
            self.put_control(frames::PONG, payload)
        } else {
            self.latest = Some(payload);
            Ok(())
        }
    }

    /// Closes behind what was taken, once.
    pub(super) fn close(&mut self, code: Option<u16>) {
        if matches!(self.close, Close::No) {
            self.close = Close::Wanted(code);
        }
    }

    /// Writes frames to `room`, whose length is more than that of a head; how many bytes that took.
    pub(super) fn fill(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        loop {
            let room = &mut room[filled..];
            if self.left > 0 {
                let chunk = self.pending.chunk();
                let n = self.mask.copy(&chunk[..chunk.len().min(self.left)], room);
                if n == 0 {
                    return Ok(filled);
                }
                self.pending.advance(n);
                self.left -= n;
                filled += n;
            } else if self.has_control()? {
                let n = room.len().min(self.control.len());
                if n == 0 {
                    return Ok(filled);
                }
                room[..n].copy_from_slice(&self.control[..n]);
                self.control.advance(n);
                filled += n;
            } else if self.pending.is_empty() || room.len() <= MAX_HEAD_BYTES {
                return Ok(filled);
            } else {
                let head = self.begin()?;
                let head = head.bytes();
                room[..head.len()].copy_from_slice(head);
                filled += head.len();
            }
        }
    }

    /// Moves frames to `out`, without copying payloads, as [`is_plain`](Writer::is_plain) allows.
    pub(super) fn drain(&mut self, out: &mut ChunkQueue) -> io::Result<()> {
        while self.has_control()? {
            out.push_slice(&self.control);
            self.control.clear();
        }
        while !self.pending.is_empty() {
            let head = self.begin()?;
            out.push_slice(head.bytes());
            while self.left > 0
                && let Some(chunk) = self.pending.pop_up_to(self.left)
            {
                self.left -= chunk.len();
                out.push(chunk);
            }
        }
        while self.has_control()? {
            out.push_slice(&self.control);
            self.control.clear();
        }
        Ok(())
    }

    /// Begins a frame for what is pending, or for as much of it as a message may have.
    fn begin(&mut self) -> io::Result<Head> {
        self.left = self.pending.len().min(MAX_MESSAGE_BYTES);
        let key = self.key()?;
        self.mask = Mask::new(key.unwrap_or_default());
        let Some(lead) = self.lead else {
            return Ok(Head::new(frames::BINARY, self.left, key));
        };
        let mut head = Head::new(frames::BINARY, 1 + self.left, key);
        let mut first = [lead];
        self.mask.apply(&mut first);
        head.put_first(first[0]);
        Ok(head)
    }

    /// Whether there are control frames to be sent before any other.
    fn has_control(&mut self) -> io::Result<bool> {
        if self.control.is_empty() {
            if let Some(latest) = self.latest.take() {
                self.put_control(frames::PONG, latest)?;
            }
            if let Close::Wanted(code) = self.close
                && self.pending.is_empty()
            {
                self.close = Close::Put;
                let mut payload = Payload::EMPTY;
                if let Some(code) = code {
                    payload.put(&code.to_be_bytes());
                }
                self.put_control(frames::CLOSE, payload)?;
            }
        }
        Ok(!self.control.is_empty())
    }

    fn put_control(&mut self, opcode: u8, mut payload: Payload) -> io::Result<()> {
        let key = self.key()?;
        let head = Head::new(opcode, payload.bytes().len(), key);
        Mask::new(key.unwrap_or_default()).apply(payload.bytes_mut());
        self.control.extend_from_slice(head.bytes());
        self.control.extend_from_slice(payload.bytes());
        Ok(())
    }

    fn key(&mut self) -> io::Result<Option<[u8; 4]>> {
        self.keys.as_mut().map(Keys::next).transpose()
    }
}

/// Unpredictable keys (RFC 6455 §5.3), from the system.
struct Keys {
    keys: [[u8; 4]; KEYS],
    used: usize,
}

impl Default for Keys {
    fn default() -> Keys {
        Keys {
            keys: [[0; 4]; KEYS],
            used: KEYS,
        }
    }
}

impl Keys {
    fn next(&mut self) -> io::Result<[u8; 4]> {
        if self.used == KEYS {
            getrandom::fill(self.keys.as_flattened_mut()).map_err(io::Error::other)?;
            self.used = 0;
        }
        let key = self.keys.get(self.used).copied().unwrap_or_default();
        self.used += 1;
        Ok(key)
    }
}
