//! Streams that do not carry the end of one direction.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tunnel_bridge::{ByteStream, End, SpliceReport, splice};

use crate::support::soon;

/// Shutting it down tells the far end nothing.
struct NoHalfClose(DuplexStream);

impl ByteStream for NoHalfClose {
    fn carries_half_close(&self) -> bool {
        false
    }
}

impl AsyncRead for NoHalfClose {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for NoHalfClose {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

/// A program's connection that is carried to the far end which is returned.
async fn carried() -> (TcpStream, DuplexStream, JoinHandle<SpliceReport>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connecting = TcpStream::connect(listener.local_addr().unwrap());
    let (program, accepted) = tokio::join!(connecting, listener.accept());
    let (near, far) = tokio::io::duplex(1024);
    let carrying = tokio::spawn(splice(accepted.unwrap().0, Box::new(NoHalfClose(near))));
    (program.unwrap(), far, carrying)
}

#[tokio::test]
async fn a_program_that_closes_ends_the_stream_behind_what_it_sent() {
    if !cfg!(target_os = "linux") {
        eprintln!(
            "SKIP a_program_that_closes_ends_the_stream_behind_what_it_sent: closing is not told from a half-close here"
        );
        return;
    }
    let (mut program, mut far, carrying) = carried().await;
    program.write_all(b"QUIT").await.unwrap();
    drop(program);
    let mut got = Vec::new();
    soon("the end", far.read_to_end(&mut got)).await.unwrap();
    assert_eq!(got, b"QUIT");
    assert_eq!(soon("the report", carrying).await.unwrap().end, End::Finished);
}

#[tokio::test]
async fn a_program_that_half_closes_still_gets_its_answer() {
    let (mut program, mut far, carrying) = carried().await;
    program.write_all(b"request").await.unwrap();
    program.shutdown().await.unwrap();
    let mut request = [0; 7];
    far.read_exact(&mut request).await.unwrap();
    // Longer than it takes to notice that a program has closed.
    let early = tokio::time::timeout(std::time::Duration::from_millis(1200), far.read_u8()).await;
    assert!(early.is_err(), "{early:?}");
    far.write_all(b"answer").await.unwrap();
    drop(far);
    let mut answer = String::new();
    soon("the answer", program.read_to_string(&mut answer))
        .await
        .unwrap();
    assert_eq!(answer, "answer");
    assert_eq!(soon("the report", carrying).await.unwrap().end, End::Finished);
}
