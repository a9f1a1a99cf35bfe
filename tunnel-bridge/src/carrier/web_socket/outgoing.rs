//! What is on its way to the stream under a WebSocket.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;
use tunnel_proto::{ChunkQueue, Role};

use super::frames::Payload;
use super::write::Writer;
use crate::buffer::Stage;
use crate::carrier::poll_write_some;

/// The sending side of a WebSocket: takes bytes, and writes them as frames.
pub(super) struct Outgoing {
    writer: Writer,
    /// Frames on their way: copied and masked, or as they are where neither has to be.
    stage: Stage,
    out: ChunkQueue,
    unflushed: bool,
    /// Unsent bytes from which on it takes no more.
    most_unsent: usize,
}

impl Outgoing {
    pub(super) fn new(role: Role, most_unsent: usize) -> Outgoing {
        Outgoing {
            writer: Writer::new(role),
            stage: Stage::default(),
            out: ChunkQueue::new(),
            unflushed: false,
            most_unsent,
        }
    }

    /// Begins each message from here on with `lead`.
    pub(super) const fn lead_with(&mut self, lead: u8) {
        self.writer.lead_with(lead);
    }

    /// Takes all of `bytes`.
    pub(super) fn put(&mut self, bytes: &mut ChunkQueue) {
        self.writer.put(bytes);
    }

    /// Answers a Ping.
    ///
    /// # Errors
    /// Where the system has no random bytes.
    pub(super) fn pong(&mut self, payload: Payload) -> io::Result<()> {
        self.writer.pong(payload)
    }

    /// Closes behind what was taken, once.
    pub(super) fn close(&mut self, code: Option<u16>) {
        self.writer.close(code);
    }

    /// Waits while a good deal is unsent, and returns how much more may be taken.
    ///
    /// # Errors
    /// The stream's.
    pub(super) fn poll_room<S>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<usize>>
    where
        S: AsyncWrite + Unpin,
    {
        loop {
            match self.most_unsent.saturating_sub(self.unsent()) {
                0 => ready!(self.poll_write(stream, cx))?,
                room => return Poll::Ready(Ok(room)),
            }
        }
    }

    /// Sends what was taken.
    ///
    /// # Errors
    /// The stream's.
    pub(super) fn poll_send_all<S>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>>
    where
        S: AsyncWrite + Unpin,
    {
        while self.stage.len() + self.out.len() > 0 || !self.writer.is_empty() {
            ready!(self.poll_write(stream, cx))?;
        }
        self.stage.rest();
        if self.unflushed {
            ready!(Pin::new(stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn unsent(&self) -> usize {
        self.writer.len() + self.stage.len() + self.out.len()
    }

    fn poll_write<S>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>>
    where
        S: AsyncWrite + Unpin,
    {
        self.unflushed = true;
        if self.writer.is_plain() && stream.is_write_vectored() {
            if self.out.len() < self.most_unsent {
                self.writer.drain(&mut self.out)?;
            }
            return poll_write_some(stream, &mut self.out, cx);
        }
        if self.stage.len() == 0 {
            self.stage.fill(|room| self.writer.fill(room))?;
        }
        self.stage.poll_write(stream, cx)
    }
}
