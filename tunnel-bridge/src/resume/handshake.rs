//! The first words on a new connection.

use std::future::poll_fn;
use std::task::{Poll, ready};

use bytes::{Bytes, BytesMut};
use tunnel_proto::{ChunkQueue, FirstFrame, ResumeAnswer, ResumeToken, Violation};

use super::RedialError;
use crate::driver::Fresh;
use crate::{Carrier, CarrierEnd, LinkEnd};

/// The client asks for its link, of which it has `received` bytes.
pub(crate) async fn ask(
    mut carrier: Box<dyn Carrier>,
    token: ResumeToken,
    received: u64,
) -> Result<Fresh, RedialError> {
    let resume = FirstFrame::Resume { token, received };
    send(&mut carrier, resume.to_bytes())
        .await
        .map_err(RedialError::later)?;
    let (answer, rest) = match read(&mut carrier, ResumeAnswer::parse).await {
        Ok(read) => read,
        Err(Unread::Ended(end)) => return Err(RedialError::later(end)),
        // Whoever answers there does not know what a link is that goes on.
        Err(Unread::Broken(violation)) => {
            let message = violation.to_string();
            return Err(RedialError::Final {
                end: LinkEnd::NotResumed { message },
            });
        }
    };
    match answer {
        ResumeAnswer::Resumed { received } => Ok(Fresh {
            carrier,
            peer_received: received,
            rest,
            adopted: None,
        }),
        ResumeAnswer::NotResumed { message, .. } => Err(RedialError::Final {
            end: LinkEnd::NotResumed { message },
        }),
    }
}

/// Sends `bytes`, all of them.
pub(crate) async fn send(carrier: &mut Box<dyn Carrier>, bytes: Bytes) -> Result<(), CarrierEnd> {
    let mut out = ChunkQueue::new();
    out.push(bytes);
    poll_fn(|cx| {
        if !out.is_empty() {
            ready!(carrier.poll_ready(cx))?;
            carrier.start_send(&mut out)?;
        }
        carrier.poll_flush(cx)
    })
    .await
}

/// Why there is no first frame.
pub(crate) enum Unread {
    /// The connection ended.
    Ended(CarrierEnd),
    /// It is another frame than expected.
    Broken(Violation),
}

/// What a parser of first frames says of the bytes so far: a frame, and how many bytes are not the link's own.
type Parsed<T> = Result<Option<(T, usize)>, Violation>;

/// Reads what comes first, and the bytes of the link that came with it. Sends what the connection has of its own meanwhile.
pub(crate) async fn read<T>(
    carrier: &mut Box<dyn Carrier>,
    parse: impl Fn(&[u8]) -> Parsed<T>,
) -> Result<(T, Bytes), Unread> {
    let mut gathered = BytesMut::new();
    loop {
        let mut bytes = poll_fn(|cx| {
            let received = carrier.poll_receive(cx);
            if received.is_pending()
                && let Poll::Ready(Err(end)) = carrier.poll_flush(cx)
            {
                return Poll::Ready(Err(end));
            }
            received
        })
        .await
        .map_err(Unread::Ended)?;
        // Whole, as nearly always, it need not be copied. A parser wants no more than a few frames of some KiB.
        if !gathered.is_empty() {
            gathered.extend_from_slice(&bytes);
            bytes = gathered.split().freeze();
        }
        match parse(&bytes).map_err(Unread::Broken)? {
            Some((first, taken)) => return Ok((first, bytes.split_off(taken))),
            None => gathered.extend_from_slice(&bytes),
        }
    }
}
