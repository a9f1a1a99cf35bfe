use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::buffer::{self, ReadSize};

/// Most that is read at once: a few records, which have up to 16 KiB each (RFC 8446 §5.1).
const READ_BYTES: usize = 64 * 1024;

/// A connection under TLS that is read some records at a time. rustls itself asks for 4 KiB, five times for a long record.
///
/// It holds memory only while something of it is left that TLS has not taken.
#[derive(Debug)]
pub(crate) struct ReadAhead<S> {
    stream: S,
    size: ReadSize,
    left: Bytes,
}

impl<S> ReadAhead<S> {
    pub(crate) fn new(stream: S) -> ReadAhead<S> {
        ReadAhead {
            stream,
            size: ReadSize::up_to(READ_BYTES),
            left: Bytes::new(),
        }
    }

    pub(crate) fn stream(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.left.is_empty() {
            match ready!(buffer::poll_chunk(&mut this.stream, &mut this.size, cx))? {
                Some(bytes) => this.left = bytes,
                None => return Poll::Ready(Ok(())),
            }
        }
        let n = this.left.len().min(buf.remaining());
        buf.put_slice(&this.left[..n]);
        this.left.advance(n);
        if this.left.is_empty() {
            // Else it would keep the buffer that it was a part of.
            this.left = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadAhead<S> {
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

#[cfg(test)]
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
        let mut ahead = ReadAhead::new(Counted {
            left: BYTES,
            reads: 0,
        });
        let mut part = [0; 4096];
        for _ in 0..BYTES / part.len() {
            ahead.read_exact(&mut part).await.unwrap();
            assert_eq!(part, [7; 4096]);
        }
        assert!(ahead.left.is_empty());
        assert_eq!(ahead.read(&mut part).await.unwrap(), 0);
        // Two are shorter until the size is known, and the last one finds the end.
        assert!(
            ahead.stream().reads <= BYTES / READ_BYTES + 3,
            "{}",
            ahead.stream().reads
        );
    }
}
