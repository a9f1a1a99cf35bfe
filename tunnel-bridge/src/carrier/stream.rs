//! A carrier without framing: the bytes of the link as they are.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite};
use tunnel_proto::ChunkQueue;

use super::{Carrier, CarrierEnd, UNSENT_BYTES, poll_write_some};
use crate::buffer::{Block, Filled, ReadSize, Stage};

/// A [`Carrier`] over anything that can be read and written: a TCP or TLS connection, a pipe, or
/// [`tokio::io::duplex`] for a link inside one process.
///
/// Such a stream has no close of its own that differs from being cut, so its end of file counts as a loss unless the
/// other end has said that it leaves, which a link does.
///
/// ```
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
/// use tunnel_bridge::{Link, Role, StreamCarrier, Target};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (near, far) = tokio::io::duplex(64 * 1024);
/// let near = Link::over(StreamCarrier::new(near), Role::Client);
/// let far = Link::over(StreamCarrier::new(far), Role::Server);
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
#[derive(Debug)]
pub struct StreamCarrier<S> {
    stream: S,
    size: ReadSize,
    /// How the stream ended behind what was read last.
    end: Option<CarrierEnd>,
    out: ChunkQueue,
    /// For a stream that cannot gather.
    stage: Stage,
    unflushed: bool,
    close: Close,
}

#[derive(Debug, PartialEq, Eq)]
enum Close {
    No,
    Wanted,
    Done,
}

impl<S> StreamCarrier<S> {
    /// A carrier over `stream`. For a TCP connection call [`prepare_socket`](crate::prepare_socket) on it first.
    pub fn new(stream: S) -> StreamCarrier<S> {
        StreamCarrier {
            stream,
            size: ReadSize::up_to(READ_BYTES),
            end: None,
            out: ChunkQueue::new(),
            stage: Stage::default(),
            unflushed: false,
            close: Close::No,
        }
    }
}

impl<S: AsyncWrite + Unpin> StreamCarrier<S> {
    fn unsent(&self) -> usize {
        self.out.len() + self.stage.len()
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.unflushed = true;
        if self.stream.is_write_vectored() {
            return poll_write_some(&mut self.stream, &mut self.out, cx);
        }
        if self.stage.len() == 0 {
            let out = &mut self.out;
            self.stage.fill(|room| {
                let n = room.len().min(out.len());
                out.copy_to_slice(&mut room[..n]);
                Ok(n)
            })?;
        }
        self.stage.poll_write(&mut self.stream, cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Carrier for StreamCarrier<S> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CarrierEnd>> {
        while self.unsent() >= UNSENT_BYTES {
            ready!(self.poll_write(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    fn start_send(&mut self, bytes: &mut ChunkQueue) -> Result<(), CarrierEnd> {
        self.out.append(bytes);
        Ok(())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CarrierEnd>> {
        while self.unsent() > 0 {
            ready!(self.poll_write(cx))?;
        }
        self.stage.rest();
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        if self.close == Close::Wanted {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.close = Close::Done;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, CarrierEnd>> {
        if let Some(end) = self.end.take() {
            return Poll::Ready(Err(end));
        }
        let asked = self.size.next();
        let mut block = Block::take(asked);
        let Poll::Ready(filled) = block.poll_fill(&mut self.stream, asked, cx) else {
            block.keep();
            return Poll::Pending;
        };
        let end = match filled {
            Filled::Open => None,
            Filled::End => Some(CarrierEnd::cut()),
            Filled::Failed(error) => Some(error.into()),
        };
        let bytes = block.into_bytes();
        self.size.learn(asked, bytes.len());
        match end {
            Some(end) if bytes.is_empty() => Poll::Ready(Err(end)),
            end => {
                self.end = end;
                Poll::Ready(Ok(bytes))
            }
        }
    }

    fn start_close(&mut self) -> Result<(), CarrierEnd> {
        if self.close == Close::No {
            self.close = Close::Wanted;
        }
        Ok(())
    }
}

/// Most that is read at once: a few frames of the usual size, so that one that is not read keeps no more than these.
const READ_BYTES: usize = 128 * 1024;
