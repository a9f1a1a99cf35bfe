//! What a dial returns: a stream or a flow that counts as open at its endpoint for as long as it lives.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker, ready};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tunnel_bridge::{ByteStream, DatagramFlow, Refusal, ResetReason, refusal_of};

use super::is_the_endpoints;
use crate::endpoints::Open;
use crate::road::Endpoint;

/// As much as is held of what was sent before the target's first byte. A longer request goes to one endpoint only.
const MAX_HELD_BYTES: usize = 64 * 1024;

/// A flow of datagrams.
pub(super) struct CarriedFlow {
    pub(super) inner: Box<dyn DatagramFlow>,
    pub(super) _open: Open,
}

impl DatagramFlow for CarriedFlow {
    fn poll_send(&mut self, cx: &mut Context<'_>, datagram: &Bytes) -> Poll<io::Result<()>> {
        self.inner.poll_send(cx, datagram)
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        self.inner.poll_receive(cx)
    }

    fn max_datagram(&self) -> usize {
        self.inner.max_datagram()
    }

    fn reset(&mut self, reason: ResetReason) {
        self.inner.reset(reason);
    }

    fn dropped(&self) -> u64 {
        self.inner.dropped()
    }
}

/// A stream to an endpoint, which counts there.
pub(super) type Reached = (Box<dyn ByteStream>, Open);

/// Where a stream goes whose endpoint has refused it.
pub(super) trait Elsewhere: Send {
    /// Opens a stream to another endpoint than `refused` and those before it.
    ///
    /// # Errors
    /// What the program is to be told.
    fn reach(self: Box<Self>, refused: Arc<Endpoint>, refusal: Refusal) -> Reaching;
}

type Reaching = BoxFuture<'static, Result<(Reached, Box<dyn Elsewhere>), Refusal>>;

/// A stream that goes to another endpoint when its own refuses it late.
///
/// A way into the cluster returns a stream before the endpoint has taken the connection: to wait for that would cost every
/// connection what few need. A refusal means that no byte has reached the endpoint. So what is sent before the first byte arrives
/// is held, and another endpoint gets it from the beginning.
pub(super) struct CarriedStream {
    inner: Box<dyn ByteStream>,
    open: Open,
    stage: Stage,
    /// Whoever reads and whoever writes: either may wait for another endpoint.
    waiting: Arc<Waiting>,
}

enum Stage {
    /// Nothing has arrived, and another endpoint could have it all.
    Fresh(Sent, Box<dyn Elsewhere>),
    Reaching(Sent, Reaching),
    /// The new endpoint gets what was sent; behind that it is [`Fresh`](Stage::Fresh) again.
    Replaying(Sent, Box<dyn Elsewhere>, VecDeque<Bytes>),
    /// It stays where it is.
    Settled,
}

#[derive(Default)]
struct Sent {
    chunks: Vec<Bytes>,
    bytes: usize,
    /// Our direction has ended.
    ended: bool,
}

impl CarriedStream {
    pub(super) fn new((inner, open): Reached, elsewhere: Box<dyn Elsewhere>) -> CarriedStream {
        CarriedStream {
            inner,
            open,
            stage: Stage::Fresh(Sent::default(), elsewhere),
            waiting: Arc::default(),
        }
    }

    /// Waits while the stream is between two endpoints.
    fn poll_placed(&mut self, cx: &mut Context<'_>, who: Who) -> Poll<io::Result<()>> {
        if matches!(self.stage, Stage::Fresh(..) | Stage::Settled) {
            return Poll::Ready(Ok(()));
        }
        self.waiting.of(who).register(cx.waker());
        let waker = Waker::from(Arc::clone(&self.waiting));
        let placed = ready!(self.poll_move(&mut Context::from_waker(&waker)));
        self.waiting.wake_by_ref();
        Poll::Ready(placed)
    }

    fn poll_move(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match std::mem::replace(&mut self.stage, Stage::Settled) {
                Stage::Reaching(sent, mut reaching) => match reaching.as_mut().poll(cx) {
                    Poll::Pending => {
                        self.stage = Stage::Reaching(sent, reaching);
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok(((inner, open), elsewhere))) => {
                        (self.inner, self.open) = (inner, open);
                        let chunks = sent.chunks.iter().cloned().collect();
                        self.stage = Stage::Replaying(sent, elsewhere, chunks);
                    }
                    Poll::Ready(Err(refusal)) => {
                        return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionRefused, refusal)));
                    }
                },
                Stage::Replaying(sent, elsewhere, mut left) => {
                    let replayed = replay(&mut *self.inner, &mut left, sent.ended, cx);
                    match replayed {
                        Poll::Pending => {
                            self.stage = Stage::Replaying(sent, elsewhere, left);
                            return Poll::Pending;
                        }
                        Poll::Ready(replayed) => {
                            self.stage = Stage::Fresh(sent, elsewhere);
                            match replayed {
                                Ok(()) => return Poll::Ready(Ok(())),
                                Err(error) => self.leave(error)?,
                            }
                        }
                    }
                }
                placed => {
                    self.stage = placed;
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    /// Begins to go elsewhere, if that may help against this error and can still be done.
    fn leave(&mut self, error: io::Error) -> io::Result<()> {
        let refusal = refusal_of(&error).filter(|refusal| is_the_endpoints(refusal.kind));
        match (std::mem::replace(&mut self.stage, Stage::Settled), refusal) {
            (Stage::Fresh(sent, elsewhere), Some(refusal)) => {
                let endpoint = Arc::clone(self.open.endpoint());
                tracing::debug!(%endpoint, %refusal, "endpoint has refused late");
                self.stage = Stage::Reaching(sent, elsewhere.reach(endpoint, refusal.clone()));
                Ok(())
            }
            _ => Err(error),
        }
    }

    /// The endpoint has said something: it has the connection.
    fn settle(&mut self) {
        if !matches!(self.stage, Stage::Settled) {
            self.stage = Stage::Settled;
        }
    }

    const fn is_fresh(&self) -> bool {
        matches!(self.stage, Stage::Fresh(..))
    }

    /// Holds what was sent.
    fn hold(&mut self, chunk: Bytes) {
        if let Stage::Fresh(sent, _) = &mut self.stage {
            sent.bytes += chunk.len();
            if sent.bytes > MAX_HELD_BYTES {
                self.stage = Stage::Settled;
            } else {
                sent.chunks.push(chunk);
            }
        }
    }
}

fn replay(
    inner: &mut dyn ByteStream,
    left: &mut VecDeque<Bytes>,
    ended: bool,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    while let Some(chunk) = left.front_mut() {
        ready!(inner.poll_write_chunk(cx, chunk))?;
        if chunk.is_empty() {
            left.pop_front();
        }
    }
    let mut inner = Pin::new(inner);
    ready!(inner.as_mut().poll_flush(cx))?;
    if ended {
        ready!(inner.poll_shutdown(cx))?;
    }
    Poll::Ready(Ok(()))
}

/// Does something with the inner stream once it has a place, again after each time that it was moved.
macro_rules! placed {
    ($self:ident, $cx:ident, $who:expr, $poll:expr) => {
        loop {
            ready!($self.poll_placed($cx, $who))?;
            match ready!($poll) {
                Ok(done) => break done,
                Err(error) => $self.leave(error)?,
            }
        }
    };
}

impl ByteStream for CarriedStream {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        let chunk = placed!(self, cx, Who::Reader, self.inner.poll_chunk(cx));
        self.settle();
        Poll::Ready(Ok(chunk))
    }

    fn poll_write_chunk(&mut self, cx: &mut Context<'_>, bytes: &mut Bytes) -> Poll<io::Result<usize>> {
        let mut before = Bytes::new();
        let n = placed!(self, cx, Who::Writer, {
            if self.is_fresh() {
                before = bytes.clone();
            }
            self.inner.poll_write_chunk(cx, bytes)
        });
        if self.is_fresh() {
            self.hold(before.slice(..n));
        }
        Poll::Ready(Ok(n))
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(placed!(self, cx, Who::Writer, self.inner.poll_room(cx))))
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            if let Err(error) = ready!(self.poll_placed(cx, Who::Writer)) {
                return Poll::Ready(error);
            }
            let error = ready!(self.inner.poll_broken(cx));
            if let Err(error) = self.leave(error) {
                return Poll::Ready(error);
            }
        }
    }

    fn is_connected(&self) -> bool {
        matches!(self.stage, Stage::Fresh(..) | Stage::Settled) && self.inner.is_connected()
    }

    fn carries_half_close(&self) -> bool {
        self.inner.carries_half_close()
    }
}

impl AsyncRead for CarriedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        placed!(
            self,
            cx,
            Who::Reader,
            Pin::new(&mut *self.inner).poll_read(cx, buf)
        );
        self.settle();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for CarriedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let n = placed!(
            self,
            cx,
            Who::Writer,
            Pin::new(&mut *self.inner).poll_write(cx, buf)
        );
        if self.is_fresh() {
            self.hold(Bytes::copy_from_slice(&buf[..n]));
        }
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        placed!(self, cx, Who::Writer, Pin::new(&mut *self.inner).poll_flush(cx));
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        placed!(
            self,
            cx,
            Who::Writer,
            Pin::new(&mut *self.inner).poll_shutdown(cx)
        );
        if let Stage::Fresh(sent, _) = &mut self.stage {
            sent.ended = true;
        }
        Poll::Ready(Ok(()))
    }
}

#[derive(Clone, Copy)]
enum Who {
    Reader,
    Writer,
}

/// Wakes both, since what they wait for is one thing and only one of them has polled it last.
#[derive(Default)]
struct Waiting {
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl Waiting {
    const fn of(&self, who: Who) -> &AtomicWaker {
        match who {
            Who::Reader => &self.reader,
            Who::Writer => &self.writer,
        }
    }
}

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.reader.wake();
        self.writer.wake();
    }
}

#[cfg(test)]
mod tests;
