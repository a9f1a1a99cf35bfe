//! Flows of datagrams: each has a stream, which begins and ends it, and carries those datagrams that are too long for a packet. The
//! others are QUIC's own (RFC 9221), with the stream's number in front.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use quinn::{SendDatagramError, Side};
use tunnel_proto::MAX_DATAGRAM_BYTES;

use super::native::Native;
use super::stream::QuicStream;
use super::wire::{self, Violation};
use crate::udp::{LinkBytes, QUEUE_BYTES, QUEUE_DATAGRAMS, Shared};
use crate::{Refusal, ResetReason};

/// Where the datagrams of a link go that arrive.
#[derive(Debug, Default)]
pub(super) struct Inboxes {
    table: Mutex<Table>,
    bytes: Arc<LinkBytes>,
}

#[derive(Debug, Default)]
struct Table {
    flows: HashMap<u64, Arc<Shared>>,
    /// Those that have overtaken the request for their flow, or have come after its end: the last 256, and 256 KiB of them.
    early: VecDeque<(u64, Bytes)>,
    early_bytes: usize,
}

impl Inboxes {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a datagram to its flow. `side`: which end of the connection this is.
    pub(super) fn receive(&self, side: Side, bytes: &Bytes) -> Result<(), Violation> {
        let (number, datagram) = wire::datagram_parts(bytes)?;
        // As it came, it would keep all that was received with it in one system call.
        let datagram = Bytes::copy_from_slice(datagram);
        let mut table = self.table();
        if let Some(flow) = table.flows.get(&number).map(Arc::clone) {
            drop(table);
            flow.receive(datagram);
        } else if (number & 1 == 0) != side.is_client() {
            // Of a stream that the other end opened, or is about to.
            table.keep(number, datagram);
        }
        Ok(())
    }

    fn remove(&self, number: u64) {
        self.table().flows.remove(&number);
    }
}

impl Table {
    fn keep(&mut self, number: u64, datagram: Bytes) {
        self.early_bytes += datagram.len();
        self.early.push_back((number, datagram));
        while self.early.len() > QUEUE_DATAGRAMS || self.early_bytes > QUEUE_BYTES {
            let Some((_, oldest)) = self.early.pop_front() else {
                break;
            };
            self.early_bytes -= oldest.len();
        }
    }

    fn add(&mut self, number: u64, flow: &Arc<Shared>) {
        self.flows.insert(number, Arc::clone(flow));
        let mut taken = 0;
        self.early.retain(|(of, datagram)| {
            let others = *of != number;
            if !others {
                taken += datagram.len();
                flow.receive(datagram.clone());
            }
            others
        });
        self.early_bytes -= taken;
        if self.early.is_empty() {
            self.early = VecDeque::new();
        }
    }
}

/// A flow's place in the table.
struct Entry {
    native: Arc<Native>,
    number: u64,
    inbox: Arc<Shared>,
}

impl Entry {
    fn new(native: Arc<Native>, number: u64) -> Entry {
        let inbox = Arc::new(Shared::new(Arc::clone(&native.inboxes.bytes)));
        native.inboxes.table().add(number, &inbox);
        Entry {
            native,
            number,
            inbox,
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.native.inboxes.remove(self.number);
    }
}

/// One end of a flow.
pub(crate) struct QuicFlow {
    stream: QuicStream,
    entry: Entry,
    /// What goes onto the stream, of [`QUEUE_BYTES`] at most.
    outgoing: Outgoing,
    /// What has come of a datagram on the stream, and behind it.
    incoming: BytesMut,
}

/// Datagrams that wait for room on the stream.
#[derive(Default)]
struct Outgoing {
    queue: VecDeque<Bytes>,
    bytes: usize,
}

impl QuicFlow {
    pub(super) fn new(stream: QuicStream, native: Arc<Native>) -> QuicFlow {
        let number = stream.number();
        QuicFlow {
            stream,
            entry: Entry::new(native, number),
            outgoing: Outgoing::default(),
            incoming: BytesMut::new(),
        }
    }

    /// Resolves when the flow has ended early.
    pub(crate) fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_reset(cx)
    }

    pub(crate) fn accept(&mut self) {
        self.stream.accept();
    }

    pub(crate) fn refuse(self, refusal: &Refusal) {
        self.stream.refuse(refusal);
    }

    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>, datagram: &Bytes) -> Poll<io::Result<()>> {
        if let Poll::Ready(error) = self.stream.poll_broken(cx) {
            return Poll::Ready(Err(error));
        }
        if datagram.len() > MAX_DATAGRAM_BYTES {
            self.entry.inbox.drop_one();
            return Poll::Ready(Ok(()));
        }
        let connection = &self.entry.native.connection;
        let head = wire::datagram_head(self.entry.number);
        let length = head.len() + datagram.len();
        if connection.max_datagram_size().is_none_or(|most| length > most) {
            return Poll::Ready(self.send_long(cx, datagram));
        }
        // What is sent without room pushes out what other flows have sent.
        if connection.datagram_send_buffer_space() < length {
            self.entry.inbox.drop_one();
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(
            match connection.send_datagram([&*head, &**datagram].concat().into()) {
                Ok(()) => Ok(()),
                // Packets have become shorter since.
                Err(SendDatagramError::TooLarge) => self.send_long(cx, datagram),
                Err(error) => {
                    tracing::trace!(%error, "a datagram was not sent");
                    Err(self.stream.lose())
                }
            },
        )
    }

    fn send_long(&mut self, cx: &mut Context<'_>, datagram: &Bytes) -> io::Result<()> {
        let message = wire::long_datagram(datagram);
        if self.outgoing.bytes + message.len() > QUEUE_BYTES || self.outgoing.queue.len() >= QUEUE_DATAGRAMS {
            self.entry.inbox.drop_one();
        } else {
            self.outgoing.bytes += message.len();
            self.outgoing.queue.push_back(message);
        }
        match self.poll_outgoing(cx) {
            Poll::Ready(Err(error)) => Err(error),
            _ => Ok(()),
        }
    }

    fn poll_outgoing(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(first) = self.outgoing.queue.front_mut() {
            let written = ready!(self.stream.poll_write_chunk(cx, first))?;
            self.outgoing.bytes -= written;
            if first.is_empty() {
                self.outgoing.queue.pop_front();
            }
        }
        Poll::Ready(Ok(()))
    }

    pub(crate) fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if let Poll::Ready(Err(error)) = self.poll_outgoing(cx) {
            tracing::trace!(%error, "what waited to be sent is lost");
        }
        self.entry.inbox.wake_when_received(cx);
        loop {
            if let Some(datagram) = self.entry.inbox.pop() {
                return Poll::Ready(Ok(Some(datagram)));
            }
            match wire::take_long_datagram(&mut self.incoming) {
                Ok(Some(datagram)) => return Poll::Ready(Ok(Some(datagram))),
                Ok(None) => {}
                Err(violation) => {
                    self.entry.native.break_protocol(&violation);
                    return Poll::Ready(Err(self.stream.lose()));
                }
            }
            let ended = match ready!(self.poll_chunk(cx)) {
                Ok(Some(chunk)) => {
                    self.incoming.extend_from_slice(&chunk);
                    continue;
                }
                Ok(None) => Ok(None),
                Err(error) => Err(error),
            };
            // What came before the end is given out before it.
            return Poll::Ready(
                self.entry
                    .inbox
                    .pop()
                    .map_or(ended, |datagram| Ok(Some(datagram))),
            );
        }
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        match self.stream.broken_error() {
            Some(error) => Poll::Ready(Err(error)),
            None => self.stream.poll_chunk(cx),
        }
    }

    pub(crate) fn max_datagram(&self) -> usize {
        MAX_DATAGRAM_BYTES
    }

    pub(crate) fn reset(&mut self, reason: ResetReason) {
        self.stream.end(reason);
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.entry.inbox.dropped()
    }
}

impl std::fmt::Debug for QuicFlow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QuicFlow")
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(number: u64, text: &'static str) -> Bytes {
        [&wire::datagram_head(number), text.as_bytes()].concat().into()
    }

    fn flow(inboxes: &Inboxes, number: u64) -> Arc<Shared> {
        let flow = Arc::new(Shared::new(Arc::clone(&inboxes.bytes)));
        inboxes.table().add(number, &flow);
        flow
    }

    #[test]
    fn a_datagram_that_overtakes_its_request_is_kept_for_it() {
        let inboxes = Inboxes::default();
        for (number, text) in [(4, "first"), (8, "another's"), (4, "second")] {
            inboxes.receive(Side::Server, &datagram(number, text)).unwrap();
        }
        let of_four = flow(&inboxes, 4);
        inboxes.receive(Side::Server, &datagram(4, "third")).unwrap();
        let received: Vec<_> = std::iter::from_fn(|| of_four.pop()).collect();
        assert_eq!(received, ["first", "second", "third"]);
        assert_eq!(flow(&inboxes, 8).pop().unwrap(), "another's");
        assert_eq!(inboxes.table().early_bytes, 0);
    }

    #[test]
    fn what_belongs_to_no_flow_is_bounded() {
        let inboxes = Inboxes::default();
        let long = [0; 1200];
        for number in 0..100_000 {
            inboxes
                .receive(
                    Side::Server,
                    &[&*wire::datagram_head(number * 4), &long].concat().into(),
                )
                .unwrap();
        }
        let kept = inboxes.table().early.len();
        let bytes = inboxes.table().early_bytes;
        assert_eq!(
            (kept, bytes),
            (QUEUE_DATAGRAMS.min(QUEUE_BYTES / 1200), kept * 1200)
        );
        for number in 0..1000 {
            inboxes.receive(Side::Server, &datagram(number * 4, "")).unwrap();
        }
        assert_eq!(inboxes.table().early.len(), QUEUE_DATAGRAMS);
        // Of a flow that this end opened and that is over: nobody waits for it.
        let inboxes = Inboxes::default();
        inboxes.receive(Side::Client, &datagram(4, "late")).unwrap();
        assert!(inboxes.table().early.is_empty());
    }
}
