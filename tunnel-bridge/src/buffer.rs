//! Read buffers, lent for one read: a few are kept per thread, and an idle connection holds none.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::AsyncRead;
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

/// Reads start at this size, double while they come back full, and stop growing where larger ones gain nothing.
const SMALLEST: usize = 16 * 1024;
const LARGEST: usize = 256 * 1024;

/// Shorter reads are copied out, so that a small request does not pin a large buffer.
const COPY_BELOW: usize = 4 * 1024;

/// Buffers kept per thread.
const KEPT: usize = 8;

thread_local! {
    static KEPT_BUFFERS: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// How much to ask for at the next read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadSize(usize);

impl Default for ReadSize {
    fn default() -> ReadSize {
        ReadSize(SMALLEST)
    }
}

impl ReadSize {
    fn learn(&mut self, asked: usize, got: usize) {
        if got == asked {
            self.0 = (self.0 * 2).min(LARGEST);
        } else if got < self.0 / 4 {
            self.0 = (self.0 / 2).max(SMALLEST);
        }
    }
}

/// Reads what is there, at most `limit` bytes; empty at the end.
pub(crate) fn read(stream: &TcpStream, size: &mut ReadSize, limit: usize) -> io::Result<Bytes> {
    let asked = size.0.min(limit);
    let mut buffer = take(asked);
    let read = stream.try_read_buf(&mut (&mut buffer).limit(asked));
    if let Ok(n) = read {
        size.learn(asked, n);
    }
    finish(buffer, read)
}

/// The next bytes of a stream; `None` at the end.
pub(crate) fn poll_chunk<S>(stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>>
where
    S: AsyncRead + Unpin + ?Sized,
{
    let mut buffer = take(SMALLEST * 4);
    let read = match poll_read_buf(Pin::new(stream), cx, &mut buffer) {
        Poll::Ready(read) => read,
        Poll::Pending => {
            keep(buffer);
            return Poll::Pending;
        }
    };
    let bytes = finish(buffer, read)?;
    Poll::Ready(Ok(if bytes.is_empty() { None } else { Some(bytes) }))
}

fn finish(mut buffer: BytesMut, read: io::Result<usize>) -> io::Result<Bytes> {
    let bytes = match read {
        Ok(n) if n >= COPY_BELOW => Ok(buffer.split().freeze()),
        Ok(_) => Ok(Bytes::copy_from_slice(&buffer)),
        Err(error) => Err(error),
    };
    keep(buffer);
    bytes
}

fn take(size: usize) -> BytesMut {
    let mut buffer = KEPT_BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_default();
    // Reclaims the whole allocation once nothing refers to it, and makes another one otherwise.
    buffer.reserve(size);
    buffer
}

fn keep(mut buffer: BytesMut) {
    buffer.clear();
    KEPT_BUFFERS.with_borrow_mut(|kept| {
        if kept.len() < KEPT {
            kept.push(buffer);
        }
    });
}
