//! A WebSocket whose messages mean something by themselves, for protocols that are not ours.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tunnel_proto::{ChunkQueue, Role};

use super::outgoing::Outgoing;
use super::read::{Found, Reader};
use super::{CarrierEnd, frames};
use crate::buffer::{Block, Filled, ReadSize};

/// Whatever a WebSocket runs over.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// A WebSocket (RFC 6455) after its handshake, as binary messages in both directions: [`ws::messages`](crate::ws::messages) makes a
/// client's end, [`Upgrade::accept_messages`](crate::ws::Upgrade::accept_messages) a server's.
///
/// What arrives is given out in pieces as it comes, without copying, and no message is put together. What is sent is gathered:
/// everything that waits when the connection takes the next message becomes one, up to 512 KiB, so that bulk goes in a few long
/// messages and a request in one of its own. [`flush`](MessageStream::flush) is a boundary. Ping is answered as pieces are taken; texts
/// are ignored.
///
/// ```
/// use tunnel_bridge::ws::{self, ConnectOptions, Piece, Upgrade};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// let url = format!("ws://{}/", listener.local_addr()?).parse()?;
/// let server = async {
///     let upgrade = Upgrade::read(listener.accept().await?.0).await?;
///     Ok::<_, Box<dyn std::error::Error>>(upgrade.accept_messages("example.1").await?)
/// };
/// let options = ConnectOptions::new(url, "example.1");
/// let (near, far) = tokio::join!(ws::messages(&options), server);
/// let (near, mut far) = (near?, far?);
///
/// // Each message begins with the number of a channel.
/// let mut near = near.leading_with(7);
/// near.send("hello".into());
/// near.flush().await?;
/// assert_eq!(far.next().await?, Piece::Bytes("\x07hello".into()));
/// assert_eq!(far.next().await?, Piece::End);
/// # Ok(())
/// # }
/// ```
pub struct MessageStream {
    stream: Box<dyn Duplex>,
    reader: Reader,
    size: ReadSize,
    /// What came behind the handshake.
    behind: BytesMut,
    /// What has arrived and was not given out.
    arrived: VecDeque<Piece>,
    /// How it ended behind what has arrived.
    end: Option<CarrierEnd>,
    /// A Ping was answered, and the answer is not on its way.
    answered: bool,
    outgoing: Outgoing,
    /// Who waits for the connection to take more, while the one who reads may send an answer to a Ping.
    waits: Option<Waker>,
}

/// What arrives on a [`MessageStream`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// The next bytes of a message; never none.
    Bytes(Bytes),
    /// The message is whole.
    End,
}

impl MessageStream {
    pub(crate) fn new(stream: Box<dyn Duplex>, role: Role, behind: &[u8]) -> MessageStream {
        MessageStream {
            stream,
            reader: Reader::new(role),
            size: ReadSize::default(),
            behind: BytesMut::from(behind),
            arrived: VecDeque::new(),
            end: None,
            answered: false,
            outgoing: Outgoing::new(role, UNSENT_BYTES),
            waits: None,
        }
    }

    /// Begins each message that is sent from here on with `lead`, which many protocols have as the number of a channel.
    #[must_use]
    pub fn leading_with(mut self, lead: u8) -> MessageStream {
        self.outgoing.lead_with(lead);
        self
    }

    /// The next piece of what arrives.
    ///
    /// # Errors
    /// The end of the connection, after which this must not be called again.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, CarrierEnd>> {
        loop {
            if let Some(piece) = self.arrived.pop_front() {
                return Poll::Ready(Ok(piece));
            }
            if self.answered
                && let Err(error) = self.poll_answer(cx)
            {
                self.end.get_or_insert(error.into());
            }
            if let Some(end) = self.end.take() {
                return Poll::Ready(Err(end));
            }
            ready!(self.poll_read(cx));
        }
    }

    /// [`poll_next`](MessageStream::poll_next) as a future.
    ///
    /// # Errors
    /// The end of the connection.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn next(&mut self) -> Result<Piece, CarrierEnd> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Waits while a good deal is unsent, and returns how much more may be [sent](MessageStream::send).
    ///
    /// # Errors
    /// The end of the connection.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, CarrierEnd>> {
        let polled = self.outgoing.poll_room(&mut self.stream, cx)?;
        if polled.is_pending() {
            self.waits = Some(cx.waker().clone());
        }
        polled.map(Ok)
    }

    /// Takes bytes to be sent. There is no bound here: [`poll_room`](MessageStream::poll_room) says how much there should be.
    pub fn send(&mut self, bytes: Bytes) {
        let mut taken = ChunkQueue::new();
        taken.push(bytes);
        self.outgoing.put(&mut taken);
    }

    /// Begins the closing handshake behind what was taken; flushing carries it out. Nothing is sent afterwards.
    pub fn start_close(&mut self) {
        self.outgoing.close(Some(frames::NORMAL));
    }

    /// Sends what was taken. What is taken afterwards is in another message.
    ///
    /// # Errors
    /// The end of the connection.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CarrierEnd>> {
        let polled = self.outgoing.poll_send_all(&mut self.stream, cx)?;
        self.waits = polled.is_pending().then(|| cx.waker().clone());
        polled.map(Ok)
    }

    /// [`poll_flush`](MessageStream::poll_flush) as a future.
    ///
    /// # Errors
    /// The end of the connection.
    ///
    /// # Cancel safety
    /// May be dropped at any time; what is left is sent by the next flush.
    pub async fn flush(&mut self) -> Result<(), CarrierEnd> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Sends the answer to a Ping as far as that goes at once.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.outgoing.poll_send_all(&mut self.stream, cx) {
            Poll::Ready(sent) => {
                self.answered = false;
                // The connection will wake only the one that asked last.
                if let Some(waiting) = self.waits.take() {
                    waiting.wake();
                }
                sent
            }
            Poll::Pending => Ok(()),
        }
    }

    /// Reads what is there and sorts it.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.behind.is_empty() {
            let mut behind = std::mem::take(&mut self.behind);
            self.sort(&mut behind, usize::MAX);
            return Poll::Ready(());
        }
        let asked = self.size.next();
        let mut block = Block::take(asked);
        let Poll::Ready(filled) = block.poll_fill(&mut self.stream, asked, cx) else {
            block.keep();
            return Poll::Pending;
        };
        let copy_below = block.copy_below();
        let got = block.filled();
        self.size.learn(asked, got.len());
        self.sort(got, copy_below);
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

    /// Sorts what has arrived. Parts of it that are shorter than `copy_below` are copied.
    fn sort(&mut self, bytes: &mut BytesMut, copy_below: usize) {
        while self.end.is_none() {
            match self.reader.next(bytes) {
                Ok(None) => return,
                Ok(Some(Found::Bytes(part))) => {
                    let part = if part.len() < copy_below {
                        Bytes::copy_from_slice(&part)
                    } else {
                        part.freeze()
                    };
                    self.arrived.push_back(Piece::Bytes(part));
                }
                Ok(Some(Found::End)) => self.arrived.push_back(Piece::End),
                Ok(Some(Found::Ping(payload))) => {
                    self.answered = true;
                    if let Err(error) = self.outgoing.pong(payload) {
                        self.end = Some(error.into());
                    }
                }
                Ok(Some(Found::Close { code, reason })) => {
                    // Our own Close leaves with the answers.
                    self.answered = true;
                    self.outgoing.close(code);
                    self.end = Some(CarrierEnd::Closed { message: reason });
                }
                Err(breach) => {
                    self.answered = true;
                    self.outgoing.close(Some(breach.code()));
                    self.end = Some(CarrierEnd::Broken {
                        message: breach.to_string(),
                    });
                }
            }
        }
        bytes.clear();
    }
}

impl fmt::Debug for MessageStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageStream").finish_non_exhaustive()
    }
}

/// Unsent bytes from which on no more should be taken. Other programs put each message into memory of its own, which long
/// messages make cheap for each byte.
const UNSENT_BYTES: usize = 512 * 1024;
