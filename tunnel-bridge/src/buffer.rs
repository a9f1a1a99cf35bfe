//! Buffers, lent for one read, and for writing until nothing is left to write: a few are kept per thread, and an idle
//! connection holds none.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

use crate::sys;

/// Reads start at this size, double while they come back full, and stop growing where larger ones gain nothing.
const SMALLEST: usize = 16 * 1024;
const LARGEST: usize = 256 * 1024;
const FIXED: usize = 64 * 1024;

/// Shorter reads, and those that fill less than a quarter of their block, are copied out: what waits to be sent or read
/// must not keep a block several times its size.
const COPY_BELOW: usize = 4 * 1024;

/// Blocks kept per thread that nobody has a part of: a new one costs a page fault for each 4 KiB.
const FREE: Room = Room {
    blocks: 32,
    bytes: 1280 * 1024,
};

/// Blocks known per thread, those that parts are out of included: as many as are on their way through a busy link, or wait
/// for the other end's acknowledgement on one that can be taken up again. Their memory is somebody else's, and comes back here.
const KNOWN: Room = Room {
    blocks: 128,
    bytes: 8 * 1024 * 1024,
};

/// What is written at once where it has to be copied for that. Somewhat more than the 64 KiB that are usually taken at
/// once, with their frame heads.
const STAGE_BYTES: usize = 128 * 1024;
const KEPT_STAGES: usize = 4;

thread_local! {
    static KEPT_BLOCKS: RefCell<Vec<Block>> = const { RefCell::new(Vec::new()) };
    /// Each of [`STAGE_BYTES`]: zeroed once, when it was made.
    static KEPT_STAGED: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// How many blocks, and of how many bytes together.
#[derive(Debug, Clone, Copy)]
struct Room {
    blocks: usize,
    bytes: usize,
}

impl Room {
    /// Takes the place of one block, if there is one.
    fn take(&mut self, bytes: usize) -> bool {
        let fits = self.blocks > 0 && self.bytes >= bytes;
        if fits {
            self.blocks -= 1;
            self.bytes -= bytes;
        }
        fits
    }
}

/// Lets go of the oldest blocks that there is no room for.
fn trim(kept: &mut Vec<Block>) {
    let bytes = kept.iter().map(|block| block.size).sum::<usize>();
    if kept.len() <= FREE.blocks && bytes <= FREE.bytes {
        return;
    }
    let (mut known, mut free) = (KNOWN, FREE);
    for place in (0..kept.len()).rev() {
        let block = &mut kept[place];
        let size = block.size;
        if !known.take(size) || (block.is_free() && !free.take(size)) {
            kept.remove(place);
        }
    }
}

/// How much to ask for at the next read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadSize {
    next: usize,
    largest: usize,
    /// The latest read was short. One by itself is the end of something longer, which a single read should take the next time.
    was_short: bool,
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
            was_short: false,
        }
    }

    /// Always the same, for a stream of which nothing is remembered between reads.
    pub(crate) const fn fixed() -> ReadSize {
        ReadSize {
            next: FIXED,
            largest: FIXED,
            was_short: false,
        }
    }

    pub(crate) const fn next(self) -> usize {
        self.next
    }

    pub(crate) fn learn(&mut self, asked: usize, got: usize) {
        let is_short = got < self.next / 4;
        if got == asked {
            self.next = (self.next * 2).min(self.largest);
        } else if is_short && self.was_short {
            self.next = (self.next / 2).max(SMALLEST);
        }
        self.was_short = is_short;
    }
}

/// How a stream stands after its bytes were read into a [`Block`].
#[derive(Debug)]
pub(crate) enum Filled {
    /// More may come.
    Open,
    /// It has ended behind them.
    End,
    /// It has failed behind them.
    Failed(io::Error),
}

/// Memory for one read, never zeroed. What is read into it is given out as a part of it, and it serves another read once
/// nobody holds such a part any more.
#[derive(Debug)]
pub(crate) struct Block {
    bytes: BytesMut,
    size: usize,
}

impl Block {
    /// A block of `size` bytes, or of up to twice as many.
    pub(crate) fn take(size: usize) -> Block {
        let kept = KEPT_BLOCKS.with_borrow_mut(|kept| {
            // The latest one first: most of it may still be in the processor's cache.
            let place = kept
                .iter_mut()
                .rposition(|block| (size..=2 * size).contains(&block.size) && block.is_free())?;
            Some(kept.remove(place))
        });
        kept.unwrap_or_else(|| Block {
            bytes: BytesMut::with_capacity(size),
            size,
        })
    }

    /// Gives it back, without what is in it.
    pub(crate) fn keep(mut self) {
        self.bytes.clear();
        KEPT_BLOCKS.with_borrow_mut(|kept| {
            kept.push(self);
            trim(kept);
        });
    }

    /// Whether nobody has a part of it. Then all of it is there to be filled.
    fn is_free(&mut self) -> bool {
        self.bytes.try_reclaim(self.size)
    }

    /// What was read into it.
    pub(crate) fn filled(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    /// The least that a part of it must have to be given out as it is.
    pub(crate) const fn copy_below(&self) -> usize {
        if self.size / 4 > COPY_BELOW {
            self.size / 4
        } else {
            COPY_BELOW
        }
    }

    /// Reads until `limit` bytes are in it, or nothing more is there. It is pending only while nothing is in it.
    pub(crate) fn poll_fill<S>(&mut self, stream: &mut S, limit: usize, cx: &mut Context<'_>) -> Poll<Filled>
    where
        S: AsyncRead + Unpin,
    {
        let limit = limit.min(self.size);
        while self.bytes.len() < limit {
            let missing = limit - self.bytes.len();
            let mut room = (&mut self.bytes).limit(missing);
            match poll_read_buf(Pin::new(&mut *stream), cx, &mut room) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Filled::End),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Filled::Failed(error)),
                Poll::Pending if self.bytes.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(Filled::Open)
    }

    /// All that was read into it.
    pub(crate) fn into_bytes(mut self) -> Bytes {
        let bytes = if self.bytes.len() >= self.copy_below() {
            self.bytes.split().freeze()
        } else {
            Bytes::copy_from_slice(&self.bytes)
        };
        self.keep();
        bytes
    }
}

/// Reads what is there, at most `limit` bytes; empty at the end.
pub(crate) fn read(stream: &TcpStream, size: &mut ReadSize, limit: usize) -> io::Result<Bytes> {
    let asked = size.next.min(limit);
    let mut block = Block::take(asked.max(SMALLEST));
    let mut read = Err(io::ErrorKind::WouldBlock.into());
    let drained = stream.try_io(Interest::READABLE, || {
        read = stream.try_read_buf(&mut block.filled().limit(asked));
        match read {
            Ok(n) if sys::SHORT_READ_DRAINS && n > 0 && n < asked => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(()),
        }
    });
    // That is how the socket is marked as drained, so that it is not asked once more.
    drop(drained);
    match read {
        Ok(n) => {
            size.learn(asked, n);
            Ok(block.into_bytes())
        }
        Err(error) => {
            block.keep();
            Err(error)
        }
    }
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
    let mut block = Block::take(asked);
    let polled = poll_read_buf(Pin::new(stream), cx, &mut (&mut block.bytes).limit(asked));
    match polled {
        Poll::Ready(Ok(n)) => {
            size.learn(asked, n);
            let bytes = block.into_bytes();
            Poll::Ready(Ok((n > 0).then_some(bytes)))
        }
        Poll::Ready(Err(error)) => {
            block.keep();
            Poll::Ready(Err(error))
        }
        Poll::Pending => {
            block.keep();
            Poll::Pending
        }
    }
}

/// Where bytes are copied to before they are written. It holds memory only while there are any.
#[derive(Debug, Default)]
pub(crate) struct Stage {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Stage {
    pub(crate) const fn len(&self) -> usize {
        self.end - self.start
    }

    /// Lets `put` copy bytes into an empty stage, and say how many.
    ///
    /// # Errors
    /// Those of `put`.
    pub(crate) fn fill(&mut self, put: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<()> {
        if self.bytes.is_empty() {
            let kept = KEPT_STAGED.with_borrow_mut(Vec::pop);
            self.bytes = kept.unwrap_or_else(|| vec![0; STAGE_BYTES]);
        }
        self.end = put(&mut self.bytes)?;
        self.start = 0;
        Ok(())
    }

    /// Writes some of what is there, or all.
    pub(crate) fn poll_write<S>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>>
    where
        S: AsyncWrite + Unpin,
    {
        if self.len() > 0 {
            let bytes = &self.bytes[self.start..self.end];
            let n = ready!(Pin::new(stream).poll_write(cx, bytes))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.start += n;
        }
        Poll::Ready(Ok(()))
    }

    /// Lets go of the memory of an empty stage.
    pub(crate) fn rest(&mut self) {
        if self.len() == 0 && !self.bytes.is_empty() {
            let bytes = std::mem::take(&mut self.bytes);
            KEPT_STAGED.with_borrow_mut(|kept| {
                if kept.len() < KEPT_STAGES {
                    kept.push(bytes);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many reads a message takes, of a stream that gives out what is asked for until nothing is left.
    fn reads(size: &mut ReadSize, message: usize) -> usize {
        let (mut left, mut reads) = (message, 0);
        while left > 0 {
            let asked = size.next();
            let got = asked.min(left);
            size.learn(asked, got);
            left -= got;
            reads += 1;
        }
        reads
    }

    #[test]
    fn messages_a_little_longer_than_a_read_take_one_each_before_long() {
        let mut size = ReadSize::default();
        let message = SMALLEST + 20;
        assert_eq!(reads(&mut size, message), 2);
        for _ in 0..10 {
            assert_eq!(reads(&mut size, message), 1);
        }
    }

    #[test]
    fn reads_grow_with_what_comes_and_shrink_again() {
        let mut size = ReadSize::default();
        reads(&mut size, 8 * LARGEST);
        assert_eq!(size.next(), LARGEST);
        for _ in 0..10 {
            reads(&mut size, 100);
        }
        assert_eq!(size.next(), SMALLEST);
    }
}
