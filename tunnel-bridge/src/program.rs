//! The local program at the other end of an accepted connection: has it given up?

use std::pin::pin;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::sys;

/// Resolves when the program has reset its connection or closed it. A half-close is neither: the program still waits.
pub(crate) async fn gave_up(stream: &TcpStream) {
    let mut failed = pin!(stream.ready(Interest::ERROR));
    tokio::select! {
        // Failing to watch a socket is its failure as well.
        _ = &mut failed => {}
        () = closed(stream) => {}
    }
}

/// Resolves when the program has closed its connection, which does not show as an error of ours.
pub(crate) async fn closed(stream: &TcpStream) {
    loop {
        // Its end shows as something to read, so no clock runs for a connection of which everything is read. Failing to watch a
        // socket shows elsewhere.
        drop(stream.ready(Interest::READABLE).await);
        if stream.ready(Interest::READABLE).now_or_never().is_none() {
            // It has been read by now.
            continue;
        }
        tokio::time::sleep(CHECK_EVERY).await;
        if has_finished(stream)
            && let (Ok(listener), Ok(program)) = (stream.local_addr(), stream.peer_addr())
            && sys::has_closed(listener, program)
        {
            return;
        }
    }
}

/// Whether the program's direction has ended, also behind bytes that nobody has read.
fn has_finished(stream: &TcpStream) -> bool {
    matches!(
        stream.ready(Interest::READABLE).now_or_never(),
        Some(Ok(ready)) if ready.is_read_closed()
    )
}

/// How soon a program that gives up is noticed, while its connection is not answered.
const CHECK_EVERY: Duration = Duration::from_millis(500);
