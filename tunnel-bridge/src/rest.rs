//! A stream of which some bytes have been read already.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::buffer::{self, ReadSize};

/// Most that is read ahead at once: a few records of TLS, which have up to 16 KiB each (RFC 8446 §5.1).
#[cfg(feature = "tls")]
const AHEAD_BYTES: usize = 64 * 1024;

/// Gives out `rest` before what `stream` reads.
///
/// It holds memory only while something of it is left that nobody has taken.
#[derive(Debug)]
pub(crate) struct WithRest<S> {
    stream: S,
    rest: Bytes,
    /// How much is read ahead, if anything is.
    ahead: Option<ReadSize>,
}

impl<S> WithRest<S> {
    #[cfg(feature = "websocket")]
    pub(crate) fn new(stream: S, rest: Bytes) -> WithRest<S> {
        WithRest {
            stream,
            rest,
            ahead: None,
        }
    }

    /// A connection under TLS that is read some records at a time. rustls itself asks for 4 KiB, five times for a long record.
    #[cfg(feature = "tls")]
    pub(crate) fn read_ahead(stream: S) -> WithRest<S> {
        WithRest {
            stream,
            rest: Bytes::new(),
            ahead: Some(ReadSize::up_to(AHEAD_BYTES)),
        }
    }

    #[cfg(feature = "tls")]
    pub(crate) fn stream(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WithRest<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.rest.is_empty() {
            let Some(size) = &mut this.ahead else {
                return Pin::new(&mut this.stream).poll_read(cx, buf);
            };
            match ready!(buffer::poll_chunk(&mut this.stream, size, cx))? {
                Some(bytes) => this.rest = bytes,
                None => return Poll::Ready(Ok(())),
            }
        }
        let n = this.rest.len().min(buf.remaining());
        buf.put_slice(&this.rest[..n]);
        this.rest.advance(n);
        if this.rest.is_empty() {
            // Else it would keep the buffer that it was a part of.
            this.rest = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WithRest<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(all(test, feature = "tls"))]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    /// Gives out what is asked for until nothing is left, and counts how often it is asked.
    struct Counted {
        left: usize,
        reads: usize,
    }

    impl AsyncRead for Counted {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let n = self.left.min(buf.remaining());
            buf.put_slice(&vec![7; n]);
            self.left -= n;
            self.reads += 1;
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_is_taken_in_small_parts_is_read_in_large_ones() {
        const BYTES: usize = 1024 * 1024;
        let mut ahead = WithRest::read_ahead(Counted {
            left: BYTES,
            reads: 0,
        });
        let mut part = [0; 4096];
        for _ in 0..BYTES / part.len() {
            ahead.read_exact(&mut part).await.unwrap();
            assert_eq!(part, [7; 4096]);
        }
        assert!(ahead.rest.is_empty());
        assert_eq!(ahead.read(&mut part).await.unwrap(), 0);
        // Two are shorter until the size is known, and the last one finds the end.
        assert!(
            ahead.stream().reads <= BYTES / AHEAD_BYTES + 3,
            "{}",
            ahead.stream().reads
        );
    }
}
