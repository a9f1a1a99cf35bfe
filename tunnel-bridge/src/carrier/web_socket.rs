//! A WebSocket as a carrier (RFC 6455), after its handshake.

mod frames;
mod mask;
mod messages;
mod outgoing;
mod read;
mod write;

use std::fmt;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tunnel_proto::{ChunkQueue, Role};

use super::{Carrier, CarrierEnd, UNSENT_BYTES};
use crate::buffer::{Block, Filled, ReadSize};
pub(crate) use messages::Duplex;
pub use messages::{MessageStream, Piece};
use outgoing::Outgoing;
use read::{Found, Reader};

/// A [`Carrier`] over a WebSocket whose handshake is over. The payloads of its binary messages are the link's bytes; Ping
/// is answered, and other messages are ignored.
///
/// ```
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
/// use tunnel_bridge::{Link, Role, Target, WebSocketCarrier};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // Two ends of a connection on which both have agreed on WebSocket.
/// let (near, far) = tokio::io::duplex(64 * 1024);
/// let near = Link::over(WebSocketCarrier::new(near, Role::Client, b""), Role::Client);
/// let far = Link::over(WebSocketCarrier::new(far, Role::Server, b""), Role::Server);
///
/// let mut stream = near.open(&Target::new("echo")?).await?;
/// stream.write_all(b"hello").await?;
/// let mut served = far.accept().await.ok_or("the link is gone")?.accept();
/// let mut five = [0; 5];
/// served.read_exact(&mut five).await?;
/// assert_eq!(&five, b"hello");
/// # Ok(())
/// # }
/// ```
pub struct WebSocketCarrier<S> {
    stream: S,
    reader: Reader,
    size: ReadSize,
    /// What came behind the handshake.
    behind: BytesMut,
    /// What has arrived and was not given out.
    arrived: ChunkQueue,
    /// A Ping was answered.
    answered: bool,
    /// How it ended behind what has arrived.
    end: Option<CarrierEnd>,
    outgoing: Outgoing,
}

impl<S> WebSocketCarrier<S> {
    /// A carrier over `stream`, on which `role` is our side of the WebSocket. `behind` is what has been read from it behind
    /// the handshake.
    pub fn new(stream: S, role: Role, behind: &[u8]) -> WebSocketCarrier<S> {
        WebSocketCarrier {
            stream,
            reader: Reader::new(role),
            size: ReadSize::up_to(SHORT_READ),
            behind: BytesMut::from(behind),
            arrived: ChunkQueue::new(),
            answered: false,
            end: None,
            outgoing: Outgoing::new(role, UNSENT_BYTES),
        }
    }
}

impl<S> fmt::Debug for WebSocketCarrier<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocketCarrier").finish_non_exhaustive()
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> WebSocketCarrier<S> {
    /// Reads what is there and sorts it.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.behind.is_empty() {
            let mut behind = std::mem::take(&mut self.behind);
            self.sort(&mut behind, usize::MAX, cx);
            return Poll::Ready(());
        }
        let asked = self.next_read();
        let mut block = Block::take(asked);
        let Poll::Ready(filled) = block.poll_fill(&mut self.stream, asked, cx) else {
            block.keep();
            return Poll::Pending;
        };
        let copy_below = block.copy_below();
        let got = block.filled();
        if asked == self.size.next() {
            self.size.learn(asked, got.len());
        }
        self.sort(got, copy_below, cx);
        block.keep();
        let end = match filled {
            Filled::Open => return Poll::Ready(()),
            Filled::End => CarrierEnd::cut(),
            Filled::Failed(error) => error.into(),
        };
        // What the other end said about it came first.
        self.end.get_or_insert(end);
        Poll::Ready(())
    }

    /// How much to read at once. Long messages are read one by one, so that each has its block to itself.
    fn next_read(&self) -> usize {
        let (left, latest) = self.reader.lengths();
        let wanted = if left >= LONG_MESSAGE {
            left
        } else if latest >= LONG_MESSAGE {
            left.saturating_add(latest)
        } else {
            return self.size.next();
        };
        usize::try_from(wanted).unwrap_or(LARGEST_READ).min(LARGEST_READ)
    }

    /// Sorts what has arrived. Parts of it that are shorter than `copy_below` are copied.
    fn sort(&mut self, bytes: &mut BytesMut, copy_below: usize, cx: &mut Context<'_>) {
        while self.end.is_none() {
            match self.reader.next(bytes) {
                Ok(None) => return,
                Ok(Some(Found::Bytes(part))) if part.len() < copy_below => self.arrived.push_slice(&part),
                Ok(Some(Found::Bytes(part))) => self.arrived.push(part.freeze()),
                // The messages of a link are one stream of bytes.
                Ok(Some(Found::End)) => {}
                Ok(Some(Found::Ping(payload))) => {
                    self.answered = true;
                    if let Err(error) = self.outgoing.pong(payload) {
                        self.end = Some(error.into());
                    }
                }
                Ok(Some(Found::Close { code, reason })) => {
                    self.close(code, cx);
                    self.end = Some(CarrierEnd::Closed { message: reason });
                }
                Err(breach) => {
                    self.close(Some(breach.code()), cx);
                    self.end = Some(CarrierEnd::Broken {
                        message: breach.to_string(),
                    });
                }
            }
        }
        bytes.clear();
    }

    /// Says Close if the stream takes it at once; nothing waits for that.
    fn close(&mut self, code: Option<u16>, cx: &mut Context<'_>) {
        self.outgoing.close(code);
        if let Poll::Ready(Err(error)) = self.poll_flush(cx) {
            tracing::trace!(%error, "the other end did not wait for our Close");
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Carrier for WebSocketCarrier<S> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CarrierEnd>> {
        ready!(self.outgoing.poll_room(&mut self.stream, cx))?;
        Poll::Ready(Ok(()))
    }

    fn start_send(&mut self, bytes: &mut ChunkQueue) -> Result<(), CarrierEnd> {
        self.outgoing.put(bytes);
        Ok(())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CarrierEnd>> {
        ready!(self.outgoing.poll_send_all(&mut self.stream, cx))?;
        Poll::Ready(Ok(()))
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, CarrierEnd>> {
        for has_read in [false, true] {
            if let Some(bytes) = self.arrived.pop() {
                return Poll::Ready(Ok(bytes));
            }
            // Lets the answer be sent, also where the end came right behind the Ping.
            if std::mem::take(&mut self.answered) {
                return Poll::Ready(Ok(Bytes::new()));
            }
            if let Some(end) = self.end.take() {
                return Poll::Ready(Err(end));
            }
            if !has_read {
                ready!(self.poll_read(cx));
            }
        }
        // Nothing for the link. However much of that there is, others get their turn.
        Poll::Ready(Ok(Bytes::new()))
    }

    fn start_close(&mut self) -> Result<(), CarrierEnd> {
        self.outgoing.close(Some(frames::GOING_AWAY));
        Ok(())
    }
}

/// Most that is read at once.
const LARGEST_READ: usize = 512 * 1024;

/// The same of short messages, of which many are read together and copied out.
const SHORT_READ: usize = 128 * 1024;

/// Messages from this size on are read one by one.
const LONG_MESSAGE: u64 = 32 * 1024;
