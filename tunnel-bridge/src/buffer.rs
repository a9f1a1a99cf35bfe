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
const FIXED: usize = 64 * 1024;

/// Shorter reads, and those that fill less than a quarter of their buffer, are copied out: what waits to be sent or read
/// must not keep a buffer several times its size.
const COPY_BELOW: usize = 4 * 1024;

/// Buffers kept per thread.
const KEPT: usize = 8;

thread_local! {
    static KEPT_BUFFERS: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// How much to ask for at the next read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadSize {
    next: usize,
    largest: usize,
}

impl Default for ReadSize {
    fn default() -> ReadSize {
        ReadSize::up_to(LARGEST)
    }
}

impl ReadSize {
    pub(crate) const fn up_to(largest: usize) -> ReadSize {
        ReadSize {
            next: SMALLEST,
            largest,
        }
    }

    /// Always the same, for a stream of which nothing is remembered between reads.
    pub(crate) const fn fixed() -> ReadSize {
        ReadSize {
            next: FIXED,
            largest: FIXED,
        }
    }

    fn learn(&mut self, asked: usize, got: usize) {
        if got == asked {
            self.next = (self.next * 2).min(self.largest);
        } else if got < self.next / 4 {
            self.next = (self.next / 2).max(SMALLEST);
        }
    }
}

/// Reads what is there, at most `limit` bytes; empty at the end.
pub(crate) fn read(stream: &TcpStream, size: &mut ReadSize, limit: usize) -> io::Result<Bytes> {
    let asked = size.next.min(limit);
    let mut buffer = take(asked);
    let read = stream.try_read_buf(&mut (&mut buffer).limit(asked));
    if let Ok(n) = read {
        size.learn(asked, n);
    }
    finish(buffer, read)
}

/// The next bytes of a stream; `None` at the end.
pub(crate) fn poll_chunk<S>(
    stream: &mut S,
    size: &mut ReadSize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Option<Bytes>>>
where
    S: AsyncRead + Unpin + ?Sized,
{
    let asked = size.next;
    let mut buffer = take(asked);
    let polled = poll_read_buf(Pin::new(stream), cx, &mut (&mut buffer).limit(asked));
    let read = match polled {
        Poll::Ready(read) => read,
        Poll::Pending => {
            keep(buffer);
            return Poll::Pending;
        }
    };
    if let Ok(n) = read {
        size.learn(asked, n);
    }
    let bytes = finish(buffer, read)?;
    Poll::Ready(Ok(if bytes.is_empty() { None } else { Some(bytes) }))
}

fn finish(mut buffer: BytesMut, read: io::Result<usize>) -> io::Result<Bytes> {
    let bytes = match read {
        Ok(n) if n >= COPY_BELOW && n >= buffer.capacity() / 4 => Ok(buffer.split().freeze()),
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
