//! One stream of a link, as its user holds it.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tunnel_proto::ChunkQueue;

use crate::link::Command;
use crate::stream::Broken;
use crate::{ByteStream, Refusal, RefusalKind, ResetReason};

/// How many bytes of one stream may wait for the driver to put them on the wire. More than a frame, so that the
/// driver always finds a full one.
const SEND_ALLOWANCE: usize = 256 * 1024;

/// How many bytes of all streams of a link may wait for the wire. As they near it, each stream may have less waiting, down to
/// [`LEAST_ALLOWANCE`], which keeps every stream moving.
const SEND_BUDGET: usize = 16 * 1024 * 1024;

/// What a stream may have waiting whatever the others have, and beyond what the far side has granted.
const LEAST_ALLOWANCE: usize = 4 * 1024;

/// Bytes read are reported to the driver in steps of this size: half of the smallest window that it grants.
const REPORT_STEP: u32 = 8 * 1024;

/// Bytes of all streams of a link that were handed to its driver and are not on the wire yet.
#[derive(Debug, Default)]
pub(crate) struct Unsent(AtomicUsize);

impl Unsent {
    pub(crate) fn bytes(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

/// What a stream and the driver share.
#[derive(Debug)]
pub(crate) struct Flow {
    /// The stream's number on the wire; 0 until the driver has opened it.
    pub(crate) id: AtomicU32,
    /// Bytes handed to the driver and not yet on the wire.
    queued: AtomicUsize,
    /// The same of all streams of the link.
    unsent: Arc<Unsent>,
    /// How many more bytes the far side takes than were handed over, and [`LEAST_ALLOWANCE`] on top, so that there is
    /// something to send when it grants more.
    takes: AtomicI64,
    /// A writer that found no room wants to be woken when no more than this is queued.
    wake_at: AtomicUsize,
    writer: AtomicWaker,
    /// Bytes that were read and not reported to the driver.
    unreported: AtomicU32,
    /// What arrived and was not read, bounded by the credit granted to the far side, which the driver enforces.
    received: Mutex<Received>,
    reader: AtomicWaker,
    /// The far side has connected the stream to its target, or has asked for it itself.
    accepted: AtomicBool,
    /// Set once, when the stream ended early.
    broken: OnceLock<Box<Broken>>,
    /// The request for the stream is on its way.
    open_sent: AtomicBool,
    /// While the far side has not answered it.
    unanswered: Mutex<Option<Unanswered>>,
}

/// One of a link's requests that the far side has not answered.
#[derive(Debug)]
pub(crate) struct Unanswered(Arc<AtomicUsize>);

impl Unanswered {
    /// Counts one more in, and gives out how many there were.
    pub(crate) fn count(all: &Arc<AtomicUsize>) -> (Unanswered, usize) {
        let before = all.fetch_add(1, Ordering::AcqRel);
        (Unanswered(Arc::clone(all)), before)
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[derive(Debug, Default)]
struct Received {
    chunks: ChunkQueue,
    finished: bool,
}

impl Flow {
    /// `unanswered` is for a stream whose request is about to be made. Without it the stream is one that the far side
    /// has asked for, and waits for no answer of its.
    pub(crate) fn new(unsent: Arc<Unsent>, unanswered: Option<Unanswered>) -> Flow {
        Flow {
            id: AtomicU32::new(0),
            queued: AtomicUsize::new(0),
            unsent,
            takes: AtomicI64::new(LEAST_ALLOWANCE as i64),
            wake_at: AtomicUsize::new(0),
            writer: AtomicWaker::new(),
            unreported: AtomicU32::new(0),
            received: Mutex::default(),
            reader: AtomicWaker::new(),
            accepted: AtomicBool::new(unanswered.is_none()),
            broken: OnceLock::new(),
            open_sent: AtomicBool::new(false),
            unanswered: Mutex::new(unanswered),
        }
    }

    /// The request is on its way.
    pub(crate) fn open_sent(&self) {
        self.open_sent.store(true, Ordering::Release);
        self.reader.wake();
    }

    fn answered(&self) {
        drop(
            self.unanswered
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
    }

    /// The driver has put `bytes` on the wire.
    pub(crate) fn sent(&self, bytes: usize) {
        self.unsent.0.fetch_sub(bytes, Ordering::AcqRel);
        let before = self.queued.fetch_sub(bytes, Ordering::AcqRel);
        // Wakes the writer once there is room for a large write, not for each frame. From there on each frame wakes it:
        // the queue may have been that short before the writer began to wait. The last one always does.
        if before - bytes <= self.wake_at.load(Ordering::Acquire) {
            self.writer.wake();
        }
    }

    /// The far side takes that many more bytes.
    pub(crate) fn add_credit(&self, bytes: u32) {
        if self.takes.fetch_add(bytes.into(), Ordering::AcqRel) <= 0 {
            self.writer.wake();
        }
    }

    /// The driver has given that much of what the far side takes back.
    pub(crate) fn return_credit(&self, bytes: u32) {
        self.takes.fetch_sub(bytes.into(), Ordering::AcqRel);
    }

    /// How many bytes may be handed to the driver.
    fn room(&self) -> usize {
        let left = SEND_BUDGET.saturating_sub(self.unsent.0.load(Ordering::Acquire));
        let allowance = left.clamp(LEAST_ALLOWANCE, SEND_ALLOWANCE);
        let takes = usize::try_from(self.takes.load(Ordering::Acquire)).unwrap_or(0);
        allowance
            .saturating_sub(self.queued.load(Ordering::Acquire))
            .min(takes)
    }

    fn hand_over(&self, bytes: usize) {
        self.unsent.0.fetch_add(bytes, Ordering::AcqRel);
        self.queued.fetch_add(bytes, Ordering::AcqRel);
        // What may be handed over fits.
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.takes.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// The far side has connected the stream.
    pub(crate) fn accept(&self) {
        self.accepted.store(true, Ordering::Release);
        self.answered();
        self.reader.wake();
    }

    /// Bytes of the far side. They wait here however slowly they are read.
    pub(crate) fn receive(&self, bytes: Bytes) {
        self.received().chunks.push(bytes);
        self.reader.wake();
    }

    /// Bytes of the far side that were not read.
    pub(crate) fn unread(&self) -> usize {
        self.received().chunks.len()
    }

    /// The far side's direction has ended.
    pub(crate) fn finish(&self) {
        self.received().finished = true;
        self.reader.wake();
    }

    /// The stream is over: writes fail with this from here on, and reads once what arrived before has been read.
    pub(crate) fn break_with(&self, broken: Broken) {
        // The first reason stands.
        if self.broken.set(Box::new(broken)).is_ok() {
            self.answered();
            self.writer.wake();
            self.reader.wake();
        }
    }

    fn received(&self) -> MutexGuard<'_, Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Flow {
    /// What was queued on a stream that ended early is dropped with it.
    fn drop(&mut self) {
        self.unsent.0.fetch_sub(*self.queued.get_mut(), Ordering::AcqRel);
    }
}

/// Says that bytes of a stream were read, from time to time.
fn report(flow: &Arc<Flow>, bytes: usize, send: impl FnOnce(Command)) {
    // What waits is bounded by a window, so it fits.
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    if flow.unreported.fetch_add(bytes, Ordering::AcqRel) + bytes >= REPORT_STEP {
        let flow = Arc::clone(flow);
        let bytes = flow.unreported.swap(0, Ordering::AcqRel);
        send(Command::Consumed { flow, bytes });
    }
}

/// Bytes that were given out and count as read when whoever has them lets go of them.
struct Lent {
    bytes: Bytes,
    flow: Arc<Flow>,
    /// Not what keeps the driver running.
    commands: mpsc::WeakUnboundedSender<Command>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        report(&self.flow, self.bytes.len(), |command| {
            if let Some(Err(_)) = self.commands.upgrade().map(|commands| commands.send(command)) {
                tracing::trace!("read after the link's end");
            }
        });
    }
}

/// A stream of a [`Link`](crate::Link): see [`ByteStream`](crate::ByteStream) for how it ends.
///
/// Writes wait while the far side grants no credit, and when 256 KiB are on their way to the wire, less where other
/// streams of the link have much waiting; what arrives waits in this stream, bounded by the credit that was granted, and stops no other
/// stream.
#[derive(Debug)]
pub(crate) struct MuxStream {
    flow: Arc<Flow>,
    commands: mpsc::UnboundedSender<Command>,
    current: Bytes,
    read_finished: bool,
    write_finished: bool,
}

impl MuxStream {
    pub(crate) fn new(flow: Arc<Flow>, commands: mpsc::UnboundedSender<Command>) -> MuxStream {
        MuxStream {
            flow,
            commands,
            current: Bytes::new(),
            read_finished: false,
            write_finished: false,
        }
    }

    /// Resolves when the far side has connected this stream to its target. Reading and writing need not wait for it.
    ///
    /// # Errors
    /// The far side's [`Refusal`]; kind [`RefusalKind::LinkLost`] when the link is gone, [`RefusalKind::Internal`]
    /// when the stream was reset first.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub(crate) async fn accepted(&mut self) -> Result<(), Refusal> {
        std::future::poll_fn(|cx| {
            self.flow.reader.register(cx.waker());
            if let Some(broken) = self.flow.broken.get() {
                Poll::Ready(Err(refusal_for(broken)))
            } else if self.is_connected() {
                Poll::Ready(Ok(()))
            } else {
                Poll::Pending
            }
        })
        .await
    }

    /// Resolves when the request is on its way: from then on the far side serves it, also if it leaves.
    pub(crate) async fn open_sent(&self) -> Result<(), Refusal> {
        std::future::poll_fn(|cx| {
            self.flow.reader.register(cx.waker());
            if self.flow.open_sent.load(Ordering::Acquire) {
                return Poll::Ready(Ok(()));
            }
            match self.flow.broken.get() {
                Some(broken) => Poll::Ready(Err(refusal_for(broken))),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Resets the stream and says why; dropping it says [`ResetReason::Cancelled`].
    pub(crate) fn reset(mut self, reason: ResetReason) {
        self.send_reset(reason);
    }

    /// Whether both directions have ended in good order.
    pub(crate) fn is_finished(&self) -> bool {
        self.read_finished && self.write_finished
    }

    /// Resolves when the stream has ended early. Shares the waker of whoever writes.
    pub(crate) fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.flow.writer.register(cx.waker());
        match self.flow.broken.get() {
            Some(_) => Poll::Ready(()),
            None => Poll::Pending,
        }
    }

    fn hand_over(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        self.flow.hand_over(bytes.len());
        self.command(Command::Data {
            flow: Arc::clone(&self.flow),
            bytes,
        });
    }

    /// Makes `current` hold bytes; leaves it empty at the end.
    fn poll_current(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.current.is_empty() || self.read_finished {
            return Poll::Ready(Ok(()));
        }
        for registered in [false, true] {
            // Looked at first: what arrived before the break is in the queue by then.
            let broken = self.flow.broken.get();
            let mut received = self.flow.received();
            if let Some(bytes) = received.chunks.pop() {
                drop(received);
                self.current = bytes;
                return Poll::Ready(Ok(()));
            }
            if received.finished {
                drop(received);
                self.read_finished = true;
                return Poll::Ready(Ok(()));
            }
            if let Some(broken) = broken {
                return Poll::Ready(Err(broken.to_error()));
            }
            if !registered {
                self.flow.reader.register(cx.waker());
            }
        }
        Poll::Pending
    }

    fn consumed(&self, bytes: usize) {
        report(&self.flow, bytes, |command| self.command(command));
    }

    fn send_reset(&mut self, reason: ResetReason) {
        if !self.is_finished() && self.flow.broken.get().is_none() {
            self.flow.break_with(Broken::Reset(reason));
            self.command(Command::Reset {
                flow: Arc::clone(&self.flow),
                reason,
            });
        }
    }

    /// Ends the stream without a word: the driver knows already.
    pub(crate) fn disarm(mut self) {
        self.read_finished = true;
        self.write_finished = true;
    }

    fn command(&self, command: Command) {
        // Fails only when the driver is gone; reads and writes learn of that from `broken`.
        if self.commands.send(command).is_err() {
            self.flow.break_with(Broken::LinkLost);
        }
    }
}

impl AsyncRead for MuxStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_current(cx))?;
        let n = buf.remaining().min(self.current.len());
        buf.put_slice(&self.current[..n]);
        self.current.advance(n);
        if self.current.is_empty() {
            // Else it would keep the buffer that it was a part of.
            self.current = Bytes::new();
        }
        if n > 0 {
            self.consumed(n);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MuxStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let room = ready!(self.poll_room(cx))?;
        let n = room.min(buf.len());
        self.hand_over(Bytes::copy_from_slice(&buf[..n]));
        Poll::Ready(Ok(n))
    }

    /// Ready at once: the driver sends what it has without being asked.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.write_finished {
            if let Some(broken) = self.flow.broken.get() {
                return Poll::Ready(Err(broken.to_error()));
            }
            self.write_finished = true;
            self.command(Command::Finish {
                flow: Arc::clone(&self.flow),
            });
        }
        Poll::Ready(Ok(()))
    }
}

impl ByteStream for MuxStream {
    /// Gives out what arrived, as it arrived. It counts as read once nobody holds it any more: what waits for a slow
    /// reader elsewhere makes no room for more.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        ready!(self.poll_current(cx))?;
        if self.current.is_empty() {
            return Poll::Ready(Ok(None));
        }
        Poll::Ready(Ok(Some(Bytes::from_owner(Lent {
            bytes: std::mem::take(&mut self.current),
            flow: Arc::clone(&self.flow),
            commands: self.commands.downgrade(),
        }))))
    }

    /// Hands over as much of `bytes` as may wait for the wire, without copying.
    fn poll_write_chunk(&mut self, cx: &mut Context<'_>, bytes: &mut Bytes) -> Poll<io::Result<usize>> {
        let room = ready!(self.poll_room(cx))?;
        let part = bytes.split_to(room.min(bytes.len()));
        let n = part.len();
        self.hand_over(part);
        Poll::Ready(Ok(n))
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.write_finished {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        for registered in [false, true] {
            if let Some(broken) = self.flow.broken.get() {
                return Poll::Ready(Err(broken.to_error()));
            }
            let room = self.flow.room();
            if room > 0 {
                return Poll::Ready(Ok(room));
            }
            if !registered {
                let half = self.flow.queued.load(Ordering::Acquire) / 2;
                self.flow.wake_at.store(half, Ordering::Release);
                self.flow.writer.register(cx.waker());
            }
        }
        Poll::Pending
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.flow.broken.get().is_none() {
            self.flow.writer.register(cx.waker());
        }
        self.flow
            .broken
            .get()
            .map_or(Poll::Pending, |broken| Poll::Ready(broken.to_error()))
    }

    fn is_connected(&self) -> bool {
        self.flow.accepted.load(Ordering::Acquire)
    }
}

impl Drop for MuxStream {
    fn drop(&mut self) {
        self.send_reset(ResetReason::Cancelled);
    }
}

pub(crate) fn refusal_for(broken: &Broken) -> Refusal {
    match broken {
        Broken::Refused(refusal) => refusal.clone(),
        Broken::Reset(reason) => Refusal::new(RefusalKind::Internal, reason.to_string()),
        Broken::LinkLost => Refusal::new(RefusalKind::LinkLost, "the link to the far side was lost"),
    }
}
