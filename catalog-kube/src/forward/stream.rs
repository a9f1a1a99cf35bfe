//! A connection over a port-forward.

use std::collections::VecDeque;
use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use tunnel_bridge::ws::{MessageStream, Piece};
use tunnel_bridge::{ByteStream, CarrierEnd, Refusal, RefusalKind};

use super::channels::{Channels, DATA};
use super::refusal::Place;

/// How long nothing may arrive after our direction has ended. Neither this end nor one that is silent can tell whether the
/// target waits for an end that the protocol does not carry.
pub(super) const QUIET_TIME: Duration = Duration::from_secs(10);

/// What may be taken from the connection while a write fails, to learn why.
const MAX_ARRIVED: usize = 64;

#[derive(Debug)]
pub(super) struct ForwardStream {
    messages: MessageStream,
    channels: Channels,
    /// Data that was not given out.
    arrived: VecDeque<Bytes>,
    /// How it ended, behind what has arrived.
    end: Option<End>,
    /// Our direction has ended; when this is over without a byte, so does the other one.
    quiet: Option<Pin<Box<Sleep>>>,
    place: Place,
}

#[derive(Debug)]
enum End {
    /// The target has closed its connection, both directions of it.
    Finished,
    Refused(Refusal),
    Reset(String),
}

impl End {
    /// What a reader or a writer is told; `None` for an end in good order.
    fn error(&self) -> Option<io::Error> {
        match self {
            End::Finished => None,
            End::Refused(refusal) => Some(io::Error::new(io::ErrorKind::ConnectionRefused, refusal.clone())),
            End::Reset(why) => Some(io::Error::new(io::ErrorKind::ConnectionReset, why.clone())),
        }
    }
}

impl ForwardStream {
    pub(super) fn new(messages: MessageStream, place: Place) -> ForwardStream {
        ForwardStream {
            messages: messages.leading_with(DATA),
            channels: Channels::new(place.port),
            arrived: VecDeque::new(),
            end: None,
            quiet: None,
            place,
        }
    }

    /// Takes what is there next; the data in it, if there is any. Not to be called behind the end.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        Poll::Ready(match ready!(self.messages.poll_next(cx)) {
            Ok(Piece::Bytes(bytes)) => match self.channels.handle_bytes(bytes) {
                Ok(data) => data,
                Err(error) => {
                    self.end = Some(End::Reset(error.to_string()));
                    None
                }
            },
            Ok(Piece::End) => {
                if let Some(text) = self.channels.handle_end() {
                    self.end = Some(self.failed(&text));
                }
                None
            }
            Err(end) => {
                self.end = Some(self.ended(end));
                None
            }
        })
    }

    /// The container runtime says that the connection failed.
    fn failed(&self, text: &str) -> End {
        tracing::debug!(place = ?self.place, text, "port-forward failed");
        if self.channels.carried() {
            End::Reset(text.to_owned())
        } else {
            End::Refused(self.place.not_connected(text))
        }
    }

    fn ended(&self, end: CarrierEnd) -> End {
        match end {
            CarrierEnd::Closed { .. } if self.channels.is_begun() => End::Finished,
            CarrierEnd::Closed { message } => {
                let why = format!("closed before it was connected {message}");
                End::Refused(self.place.refuse(RefusalKind::Unreachable, why.trim_end()))
            }
            end => End::Reset(devbox_provider::with_causes(&end)),
        }
    }

    /// What to say where nothing can be written. The reason may be among what has arrived before.
    fn unwritable(&mut self, error: &CarrierEnd, cx: &mut Context<'_>) -> io::Error {
        while self.end.is_none() && self.arrived.len() < MAX_ARRIVED {
            match self.poll_piece(cx) {
                Poll::Ready(data) => self.arrived.extend(data),
                Poll::Pending => break,
            }
        }
        match &self.end {
            Some(end) => end.error().unwrap_or_else(closed),
            None => {
                let end = self.end.insert(End::Reset(devbox_provider::with_causes(error)));
                end.error().unwrap_or_else(closed)
            }
        }
    }

    /// Whether nothing has come for too long since our direction has ended.
    fn poll_quiet(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.quiet {
            Some(quiet) => quiet.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

/// The target has closed its connection: what is written to it then is answered with a reset, as TCP does.
fn closed() -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionReset,
        "the target has closed its connection",
    )
}

impl ByteStream for ForwardStream {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        loop {
            if let Some(data) = self.arrived.pop_front() {
                if let Some(quiet) = &mut self.quiet {
                    quiet.as_mut().reset(Instant::now() + QUIET_TIME);
                }
                return Poll::Ready(Ok(Some(data)));
            }
            if let Some(end) = &self.end {
                return Poll::Ready(end.error().map_or(Ok(None), Err));
            }
            match self.poll_piece(cx) {
                Poll::Ready(data) => self.arrived.extend(data),
                Poll::Pending => {
                    ready!(self.poll_quiet(cx));
                    self.messages.start_close();
                    if let Poll::Ready(Err(error)) = self.messages.poll_flush(cx) {
                        tracing::trace!(%error, "the far side did not wait for our Close");
                    }
                    let why =
                        "a port-forward does not carry the end of one direction, and nothing has come since";
                    self.end = Some(End::Reset(why.to_owned()));
                }
            }
        }
    }

    fn poll_write_chunk(&mut self, cx: &mut Context<'_>, bytes: &mut Bytes) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if let Some(end) = &self.end {
            return Poll::Ready(Err(end.error().unwrap_or_else(closed)));
        }
        match ready!(self.messages.poll_room(cx)) {
            Ok(room) => {
                let taken = bytes.split_to(bytes.len().min(room));
                let n = taken.len();
                self.messages.send(taken);
                Poll::Ready(Ok(n))
            }
            Err(error) => Poll::Ready(Err(self.unwritable(&error, cx))),
        }
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let Some(end) = &self.end {
            // After an end in good order only a write fails, so that a program that writes nothing more sees that end.
            return Poll::Ready(end.error().map_or(Ok(usize::MAX), Err));
        }
        match ready!(self.messages.poll_room(cx)) {
            Ok(room) => Poll::Ready(Ok(room)),
            Err(error) => Poll::Ready(Err(self.unwritable(&error, cx))),
        }
    }

    fn poll_broken(&mut self, _cx: &mut Context<'_>) -> Poll<io::Error> {
        self.end
            .as_ref()
            .and_then(End::error)
            .map_or(Poll::Pending, Poll::Ready)
    }

    fn is_connected(&self) -> bool {
        self.channels.carried()
    }

    fn carries_half_close(&self) -> bool {
        false
    }
}

impl AsyncRead for ForwardStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() > 0
            && let Some(mut data) = ready!(self.poll_chunk(cx))?
        {
            let n = data.len().min(buf.remaining());
            buf.put_slice(&data[..n]);
            data.advance(n);
            if !data.is_empty() {
                self.arrived.push_front(data);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ForwardStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let room = ready!(self.poll_room(cx))?;
        let mut bytes = Bytes::copy_from_slice(&buf[..buf.len().min(room)]);
        self.poll_write_chunk(cx, &mut bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(end) = &self.end {
            return Poll::Ready(end.error().map_or(Ok(()), Err));
        }
        match ready!(self.messages.poll_flush(cx)) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(self.unwritable(&error, cx))),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        if self.quiet.is_none() {
            self.quiet = Some(Box::pin(tokio::time::sleep(QUIET_TIME)));
        }
        Poll::Ready(Ok(()))
    }
}
