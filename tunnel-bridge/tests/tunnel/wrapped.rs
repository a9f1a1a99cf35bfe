//! Byte streams inside other types: nothing is lost on the way through a wrapper.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tunnel_bridge::{ByteStream, End, MuxStream, ResetReason, Side, reset_of, splice};

use crate::support::{Over, over_each_carrier, pair, pattern, read_all, soon, target};

over_each_carrier! {
    a_wrapped_stream_is_spliced_without_copies_and_half_closes,
    dropping_a_wrapper_resets_the_far_side,
    a_reset_of_a_wrapped_stream_reaches_a_program_that_only_waits,
    a_reset_reaches_a_program_that_reads_nothing,
}

#[derive(Default)]
struct Counts {
    chunks_read: AtomicUsize,
    chunks_written: AtomicUsize,
    copied: AtomicUsize,
}

/// Counts bytes by the way they go.
struct Counted {
    inner: MuxStream,
    counts: Arc<Counts>,
}

impl ByteStream for Counted {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        let polled = self.inner.poll_chunk(cx);
        if let Poll::Ready(Ok(Some(chunk))) = &polled {
            self.counts.chunks_read.fetch_add(chunk.len(), Ordering::Relaxed);
        }
        polled
    }

    fn poll_write_chunk(&mut self, cx: &mut Context<'_>, bytes: &mut Bytes) -> Poll<io::Result<usize>> {
        let at = bytes.as_ptr();
        let polled = self.inner.poll_write_chunk(cx, bytes);
        if let Poll::Ready(Ok(n)) = &polled {
            assert_eq!(bytes.as_ptr(), at.wrapping_add(*n));
            self.counts.chunks_written.fetch_add(*n, Ordering::Relaxed);
        }
        polled
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.inner.poll_room(cx)
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.inner.poll_broken(cx)
    }

    fn is_connected(&self) -> bool {
        self.inner.is_connected()
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.counts.copied.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.counts.copied.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// A program's connection, and the other end of it.
async fn local() -> (TcpStream, TcpStream) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let program = TcpStream::connect(socket.local_addr().unwrap()).await.unwrap();
    (program, socket.accept().await.unwrap().0)
}

async fn a_wrapped_stream_is_spliced_without_copies_and_half_closes(over: Over) {
    let (near, far) = pair(over).await;
    let counts = Arc::new(Counts::default());
    let inner = near.open(&target("x")).await.unwrap();
    // Twice wrapped: the box is a byte stream as well.
    let wrapped: Box<dyn ByteStream> = Box::new(Box::new(Counted {
        inner,
        counts: Arc::clone(&counts),
    }) as Box<dyn ByteStream>);
    let (mut program, accepted) = local().await;
    let spliced = tokio::spawn(splice(accepted, wrapped));

    let mut theirs = soon("the request", far.accept()).await.unwrap().accept();
    let (question, answer) = (pattern(300_000, 1), pattern(700_000, 2));
    let (asked, ()) = tokio::join!(soon("the question", read_all(&mut theirs)), async {
        program.write_all(&question).await.unwrap();
        program.shutdown().await.unwrap();
    });
    assert!(asked.unwrap() == question);
    // The half-close has passed, and the other direction still carries all it has.
    let (answered, ()) = tokio::join!(soon("the answer", read_all(&mut program)), async {
        theirs.write_all(&answer).await.unwrap();
        theirs.shutdown().await.unwrap();
    });
    assert!(answered.unwrap() == answer);
    let report = soon("the end", spliced).await.unwrap();
    assert_eq!(
        (report.sent, report.received, report.end),
        (300_000, 700_000, End::Finished)
    );
    assert_eq!(counts.chunks_written.load(Ordering::Relaxed), 300_000);
    assert_eq!(counts.chunks_read.load(Ordering::Relaxed), 700_000);
    assert_eq!(
        counts.copied.load(Ordering::Relaxed),
        0,
        "bytes went the way that copies"
    );
}

async fn dropping_a_wrapper_resets_the_far_side(over: Over) {
    let (near, far) = pair(over).await;
    let wrapped = Counted {
        inner: near.open(&target("x")).await.unwrap(),
        counts: Arc::default(),
    };
    let mut theirs = soon("the request", far.accept()).await.unwrap().accept();
    drop(wrapped);
    let error = soon("the reset", theirs.read_u8()).await.unwrap_err();
    assert_eq!(reset_of(&error), Some(ResetReason::Cancelled));
}

async fn a_reset_of_a_wrapped_stream_reaches_a_program_that_only_waits(over: Over) {
    let (near, far) = pair(over).await;
    let wrapped = Counted {
        inner: near.open(&target("x")).await.unwrap(),
        counts: Arc::default(),
    };
    let (mut program, accepted) = local().await;
    let spliced = tokio::spawn(splice(accepted, Box::new(wrapped)));
    let mut theirs = soon("the request", far.accept()).await.unwrap().accept();
    // The far side's direction is finished, so only the stream's own word tells of the reset.
    theirs.shutdown().await.unwrap();
    assert!(
        soon("their end", read_all(&mut program))
            .await
            .unwrap()
            .is_empty()
    );
    theirs.reset(ResetReason::TimedOut);
    let report = soon("the end", spliced).await.unwrap();
    assert_eq!(report.end, End::Reset { by: Side::Remote });
}

async fn a_reset_reaches_a_program_that_reads_nothing(over: Over) {
    let (near, far) = pair(over).await;
    let (program, accepted) = local().await;
    SockRef::from(&accepted).set_send_buffer_size(16 * 1024).unwrap();
    SockRef::from(&program).set_recv_buffer_size(16 * 1024).unwrap();
    let stream = near.open(&target("x")).await.unwrap();
    let spliced = tokio::spawn(splice(accepted, Box::new(stream)));
    let mut theirs = soon("the request", far.accept()).await.unwrap().accept();
    // In more parts than are gathered for one write to the program, until none of them moves.
    let part = [7; 5 * 1024];
    while tokio::time::timeout(Duration::from_millis(500), theirs.write_all(&part))
        .await
        .is_ok()
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    theirs.reset(ResetReason::TimedOut);
    let report = soon("the end", spliced).await.unwrap();
    assert_eq!(report.end, End::Reset { by: Side::Remote });
    drop(program);
}
