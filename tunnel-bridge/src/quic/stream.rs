//! One stream: a QUIC stream with a few bytes of ours in front.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, Bytes};
use quinn::{ReadError, RecvStream, ResetError, SendStream, StoppedError, VarInt, WriteError};
use tokio::io::ReadBuf;
use tokio::sync::mpsc;

use super::native::{Native, Place};
use super::wire::{self, AnswerReader};
use crate::link::Command;
use crate::stream::Broken;
use crate::{Refusal, RefusalKind, ResetReason};

/// Most chunks taken at once, and put together: one is what a packet carried, and a system call for each costs more than a
/// copy.
const CHUNKS: usize = 64;

/// Error codes of resets from here on are those of refusals.
const REFUSED: u32 = 0x100;

/// Resolves when the other end wants no more of what we write, or has it all.
pub(super) type Stopped = Pin<Box<dyn Future<Output = Result<Option<VarInt>, StoppedError>> + Send + Sync>>;

/// One end of a stream.
pub(crate) struct QuicStream {
    send: SendStream,
    recv: RecvStream,
    native: Arc<Native>,
    /// Keeps the link.
    _link: mpsc::UnboundedSender<Command>,
    /// Counts this stream among those that this end opened.
    place: Option<Place>,
    /// A request or an answer that stands in front of what is written.
    unsent: Bytes,
    /// While the other end has not answered.
    answer: Option<AnswerReader>,
    broken: Option<Broken>,
    read_finished: bool,
    write_finished: bool,
    /// Made when somebody asks for it.
    stopped: Mutex<Option<Stopped>>,
    /// Whoever waits to read.
    reader: Option<Waker>,
}

impl QuicStream {
    /// A stream of ours, whose request is still to be sent.
    pub(super) fn opened(
        streams: (SendStream, RecvStream),
        native: Arc<Native>,
        link: mpsc::UnboundedSender<Command>,
        place: Place,
        request: Bytes,
    ) -> QuicStream {
        let mut stream = QuicStream::new(streams, native, link);
        stream.place = Some(place);
        stream.unsent = request;
        stream.answer = Some(AnswerReader::default());
        stream
    }

    /// A stream that the other end asks for.
    pub(super) fn requested(
        streams: (SendStream, RecvStream),
        native: Arc<Native>,
        link: mpsc::UnboundedSender<Command>,
    ) -> QuicStream {
        QuicStream::new(streams, native, link)
    }

    fn new(
        (send, recv): (SendStream, RecvStream),
        native: Arc<Native>,
        link: mpsc::UnboundedSender<Command>,
    ) -> QuicStream {
        QuicStream {
            send,
            recv,
            native,
            _link: link,
            place: None,
            unsent: Bytes::new(),
            answer: None,
            broken: None,
            read_finished: false,
            write_finished: false,
            stopped: Mutex::default(),
            reader: None,
        }
    }

    /// The stream's number, as QUIC has it.
    pub(super) fn number(&self) -> u64 {
        VarInt::from(self.send.id()).into_inner()
    }

    /// How it has ended early, if it has.
    pub(super) fn broken_error(&self) -> Option<io::Error> {
        self.broken.as_ref().map(Broken::to_error)
    }

    /// The link is gone, or is about to be.
    pub(super) fn lose(&mut self) -> io::Error {
        self.break_with(Broken::LinkLost);
        self.error()
    }

    /// Sends the request.
    pub(super) async fn request(&mut self) -> Result<(), Refusal> {
        let sent = std::future::poll_fn(|cx| self.poll_unsent(cx)).await;
        sent.map_err(|_| self.refusal())
    }

    /// See [`MuxStream::accepted`](crate::MuxStream::accepted).
    pub(crate) async fn accepted(&mut self) -> Result<(), Refusal> {
        let answered = std::future::poll_fn(|cx| self.poll_answer(cx)).await;
        answered.map_err(|_| self.refusal())
    }

    fn refusal(&self) -> Refusal {
        self.broken
            .as_ref()
            .map_or_else(crate::link::link_lost, crate::mux::refusal_for)
    }

    /// Accepts what the other end asks for.
    pub(crate) fn accept(&mut self) {
        self.unsent = Bytes::from_static(wire::ACCEPTED);
        // What does not go out at once goes with the next write, or while this is read.
        if let Poll::Ready(Err(error)) = self.poll_unsent(&mut Context::from_waker(Waker::noop())) {
            tracing::trace!(%error, "accepted and given up");
        }
    }

    /// Refuses what the other end asks for.
    pub(crate) fn refuse(mut self, refusal: &Refusal) {
        self.unsent = wire::refusal(refusal);
        let polled = self.poll_unsent(&mut Context::from_waker(Waker::noop()));
        let code = VarInt::from_u32(REFUSED + u32::from(refusal.kind.code()));
        if let Poll::Ready(Ok(())) = polled {
            // Fails for a stream that is over.
            if self.send.finish().is_ok() && self.recv.stop(code).is_ok() {
                self.read_finished = true;
                self.write_finished = true;
            }
        } else {
            // There is no room for the message, but there is for a code.
            self.reset_with(code);
        }
    }

    /// Resets the stream and says why.
    pub(crate) fn reset(mut self, reason: ResetReason) {
        self.end(reason);
    }

    /// Whether both directions have ended in good order.
    pub(crate) fn is_finished(&self) -> bool {
        self.read_finished && self.write_finished
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.answer.is_none()
    }

    /// Resolves when the other end has given the stream up, or the link is gone.
    pub(crate) fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.broken.is_some() {
            return Poll::Ready(());
        }
        self.poll_stopped(cx).map(drop)
    }

    fn poll_stopped(&self, cx: &mut Context<'_>) -> Poll<Result<Option<VarInt>, StoppedError>> {
        let mut stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let future = stopped.get_or_insert_with(|| Box::pin(self.send.stopped()));
        let resolved = ready!(future.as_mut().poll(cx));
        // A future that has resolved must not be polled again.
        *stopped = None;
        Poll::Ready(resolved)
    }

    pub(crate) fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.broken.is_none() {
            match ready!(self.poll_stopped(cx)) {
                Ok(Some(code)) => self.stopped_with(code),
                Err(_) => self.break_with(Broken::LinkLost),
                // It has all that we wrote, and says no more about that direction.
                Ok(None) if self.read_finished => return Poll::Pending,
                Ok(None) => {
                    let reset = pin!(self.recv.received_reset()).poll(cx);
                    match ready!(reset) {
                        Ok(Some(code)) => self.break_with(broken_by(code)),
                        Ok(None) => return Poll::Pending,
                        Err(ResetError::ConnectionLost(_) | ResetError::ZeroRttRejected) => {
                            self.break_with(Broken::LinkLost);
                        }
                    }
                }
            }
        }
        self.broken
            .as_ref()
            .map_or(Poll::Pending, |broken| Poll::Ready(broken.to_error()))
    }

    /// The other end takes no more. A refusal has its words in the answer, which most often came with it.
    fn stopped_with(&mut self, code: VarInt) {
        if self.answer.is_some() {
            // Not the waker of whoever writes: whoever reads may be waiting with another one.
            let waker = self.reader.clone().unwrap_or_else(|| Waker::noop().clone());
            if self.poll_answer(&mut Context::from_waker(&waker)).is_pending() {
                tracing::trace!("stopped before the answer came");
            }
        }
        self.break_with(broken_by(code));
    }

    /// The first reason stands.
    fn break_with(&mut self, broken: Broken) {
        if self.broken.is_none() {
            self.broken = Some(broken);
            if let Some(reader) = self.reader.take() {
                reader.wake();
            }
        }
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if let Some(broken) = &self.broken {
                return Poll::Ready(Err(broken.to_error()));
            }
            let Some(answer) = &mut self.answer else {
                return Poll::Ready(Ok(()));
            };
            match answer.poll() {
                Some(Ok(Ok(()))) => {
                    self.answer = None;
                    continue;
                }
                Some(Ok(Err(refusal))) => {
                    self.break_with(Broken::Refused(refusal));
                    continue;
                }
                Some(Err(violation)) => {
                    self.native.break_protocol(&violation);
                    self.break_with(Broken::LinkLost);
                    continue;
                }
                None => {}
            }
            let mut some = [0; 256];
            let wanted = answer.missing().min(some.len());
            match self
                .recv
                .poll_read(cx, some.get_mut(..wanted).unwrap_or_default())
            {
                Poll::Ready(Ok(0)) => self.break_with(Broken::Reset(ResetReason::Internal)),
                Poll::Ready(Ok(count)) => answer.handle_bytes(some.get(..count).unwrap_or_default()),
                Poll::Ready(Err(error)) => self.break_with(broken_reading(&error)),
                Poll::Pending => {
                    self.note_reader(cx);
                    return Poll::Pending;
                }
            }
        }
    }

    fn note_reader(&mut self, cx: &Context<'_>) {
        match &mut self.reader {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    /// Sends what stands in front.
    fn poll_unsent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let mut unsent = std::mem::take(&mut self.unsent);
            let written = self.poll_send(cx, &mut unsent);
            self.unsent = unsent;
            ready!(written)?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &mut Bytes) -> Poll<io::Result<usize>> {
        // Shares the bytes, and copies none.
        let polled = pin!(self.send.write_chunks(&mut [bytes.clone()])).poll(cx);
        match ready!(polled) {
            Ok(written) => {
                bytes.advance(written.bytes);
                return Poll::Ready(Ok(written.bytes));
            }
            Err(WriteError::Stopped(code)) => self.stopped_with(code),
            Err(WriteError::ConnectionLost(_) | WriteError::ZeroRttRejected) => {
                self.break_with(Broken::LinkLost);
            }
            // Only this end closes it early, and then it is broken.
            Err(WriteError::ClosedStream) => self.break_with(Broken::Reset(ResetReason::Internal)),
        }
        Poll::Ready(Err(self.error()))
    }

    fn error(&self) -> io::Error {
        self.broken
            .as_ref()
            .map_or_else(|| io::ErrorKind::BrokenPipe.into(), Broken::to_error)
    }

    /// Before anything is read: the answer is there, and what stands in front of what we write is on its way.
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.unsent.is_empty()
            && let Poll::Ready(Err(error)) = self.poll_unsent(cx)
        {
            return Poll::Ready(Err(error));
        }
        self.poll_answer(cx)
    }

    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.read_finished {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_readable(cx))?;
        let before = buf.filled().len();
        match self.recv.poll_read_buf(cx, buf) {
            Poll::Ready(Ok(())) => {
                self.read_finished = buf.filled().len() == before && buf.remaining() > 0;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => {
                self.break_with(broken_reading(&error));
                Poll::Ready(Err(self.error()))
            }
            Poll::Pending => {
                self.note_reader(cx);
                Poll::Pending
            }
        }
    }

    pub(crate) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if self.read_finished {
            return Poll::Ready(Ok(None));
        }
        ready!(self.poll_readable(cx))?;
        let mut chunks = [const { Bytes::new() }; CHUNKS];
        let read = pin!(self.recv.read_chunks(&mut chunks)).poll(cx);
        match read {
            Poll::Ready(Ok(Some(count))) => Poll::Ready(Ok(Some(join(chunks, count)))),
            Poll::Ready(Ok(None)) => {
                self.read_finished = true;
                Poll::Ready(Ok(None))
            }
            Poll::Ready(Err(error)) => {
                self.break_with(broken_reading(&error));
                Poll::Ready(Err(self.error()))
            }
            Poll::Pending => {
                self.note_reader(cx);
                Poll::Pending
            }
        }
    }

    /// Whether anything may be written.
    fn check_writable(&self) -> io::Result<()> {
        match &self.broken {
            Some(broken) => Err(broken.to_error()),
            None if self.write_finished => Err(io::ErrorKind::BrokenPipe.into()),
            None => Ok(()),
        }
    }

    pub(crate) fn poll_write_chunk(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &mut Bytes,
    ) -> Poll<io::Result<usize>> {
        self.check_writable()?;
        ready!(self.poll_unsent(cx))?;
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.poll_send(cx, bytes)
    }

    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check_writable()?;
        ready!(self.poll_unsent(cx))?;
        match ready!(Pin::new(&mut self.send).poll_write(cx, buf)) {
            Ok(count) => return Poll::Ready(Ok(count)),
            Err(WriteError::Stopped(code)) => self.stopped_with(code),
            Err(WriteError::ConnectionLost(_) | WriteError::ZeroRttRejected) => {
                self.break_with(Broken::LinkLost);
            }
            Err(WriteError::ClosedStream) => self.break_with(Broken::Reset(ResetReason::Internal)),
        }
        Poll::Ready(Err(self.error()))
    }

    pub(crate) fn poll_room(&self) -> Poll<io::Result<usize>> {
        Poll::Ready(self.check_writable().map(|()| usize::MAX))
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_unsent(cx)
    }

    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.write_finished {
            return Poll::Ready(Ok(()));
        }
        self.check_writable()?;
        ready!(self.poll_unsent(cx))?;
        // Fails where the other end has reset it, which the next call tells.
        if self.send.finish().is_err() {
            self.break_with(Broken::Reset(ResetReason::Internal));
            return Poll::Ready(Err(self.error()));
        }
        self.write_finished = true;
        Poll::Ready(Ok(()))
    }

    /// Resets the stream and says why, unless both directions are over.
    pub(super) fn end(&mut self, reason: ResetReason) {
        if self.is_finished() {
            return;
        }
        self.reset_with(VarInt::from_u32(reason.code().into()));
    }

    fn reset_with(&mut self, code: VarInt) {
        // Fail for a direction that is over.
        let reset = self.send.reset(code).is_ok();
        let stopped = self.recv.stop(code).is_ok();
        tracing::trace!(reset, stopped, "stream given up");
        self.break_with(Broken::Reset(ResetReason::Cancelled));
        self.read_finished = true;
        self.write_finished = true;
    }
}

impl Drop for QuicStream {
    fn drop(&mut self) {
        if self.broken.is_none() && self.is_finished() {
            // The link waits for it when it leaves.
            self.native.linger(Box::pin(self.send.stopped()));
        } else {
            self.end(ResetReason::Cancelled);
        }
    }
}

impl std::fmt::Debug for QuicStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QuicStream")
            .field("id", &self.send.id())
            .field("broken", &self.broken)
            .field("read_finished", &self.read_finished)
            .field("write_finished", &self.write_finished)
            .finish_non_exhaustive()
    }
}

/// Puts the first `count` chunks together.
fn join(chunks: [Bytes; CHUNKS], count: usize) -> Bytes {
    if count == 1 {
        let [first, ..] = chunks;
        return first;
    }
    let mut joined = Vec::with_capacity(chunks.iter().map(Bytes::len).sum());
    for chunk in &chunks {
        joined.extend_from_slice(chunk);
    }
    joined.into()
}

fn broken_by(code: VarInt) -> Broken {
    let code = code.into_inner();
    match u16::try_from(code) {
        Ok(code) if u32::from(code) < REFUSED => Broken::Reset(ResetReason::from_code(code)),
        _ => {
            let kind = u16::try_from(code - u64::from(REFUSED)).unwrap_or(u16::MAX);
            Broken::Refused(Refusal::new(RefusalKind::from_code(kind), ""))
        }
    }
}

fn broken_reading(error: &ReadError) -> Broken {
    match error {
        ReadError::Reset(code) => broken_by(*code),
        ReadError::ConnectionLost(_) | ReadError::ZeroRttRejected => Broken::LinkLost,
        ReadError::ClosedStream | ReadError::IllegalOrderedRead => Broken::Reset(ResetReason::Internal),
    }
}
