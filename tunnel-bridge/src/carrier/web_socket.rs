//! A WebSocket as a carrier (RFC 6455).

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{Error, Message};
use tunnel_proto::ChunkQueue;

use super::{Carrier, CarrierEnd, UNSENT_BYTES};

/// A [`Carrier`] over a WebSocket whose handshake is over. Its binary messages carry the link's bytes; Ping is
/// answered, and other messages are ignored.
pub struct WebSocketCarrier<S> {
    socket: WebSocketStream<S>,
    /// What was taken and is in no message yet.
    out: ChunkQueue,
    /// The message that the socket's buffer had no room for.
    held: Option<Message>,
    /// Where a message of several pieces is put together.
    gathered: BytesMut,
}

impl<S> WebSocketCarrier<S> {
    /// A carrier over `socket`.
    pub fn new(socket: WebSocketStream<S>) -> WebSocketCarrier<S> {
        WebSocketCarrier {
            socket,
            out: ChunkQueue::new(),
            held: None,
            gathered: BytesMut::new(),
        }
    }
}

impl<S> fmt::Debug for WebSocketCarrier<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocketCarrier").finish_non_exhaustive()
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> WebSocketCarrier<S> {
    /// Hands what was taken to the socket, as far as its buffer has room.
    fn poll_put(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CarrierEnd>> {
        while let Some(message) = self.held.take().or_else(|| self.next_message()) {
            match Pin::new(&mut self.socket).poll_ready(cx) {
                Poll::Ready(ready) => ready.map_err(end_of)?,
                Poll::Pending => {
                    self.held = Some(message);
                    return Poll::Pending;
                }
            }
            match Pin::new(&mut self.socket).start_send(message) {
                Ok(()) => {}
                // Answers to Ping fill it. There is room for any message once it is empty.
                Err(Error::WriteBufferFull(message)) => {
                    self.held = Some(*message);
                    ready!(Pin::new(&mut self.socket).poll_flush(cx)).map_err(end_of)?;
                }
                Err(error) => return Poll::Ready(Err(end_of(error))),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn next_message(&mut self) -> Option<Message> {
        let len = self.out.len().min(MESSAGE_BYTES);
        let first = self.out.pop_up_to(len)?;
        if first.len() == len {
            return Some(Message::Binary(first));
        }
        self.gathered.reserve(len);
        self.gathered.extend_from_slice(&first);
        while let Some(chunk) = self.out.pop_up_to(len - self.gathered.len()) {
            self.gathered.extend_from_slice(&chunk);
        }
        Some(Message::Binary(self.gathered.split().freeze()))
    }
}

/// The settings that fit a WebSocket under a link.
pub(crate) fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .write_buffer_size(UNSENT_BYTES)
        // The library puts the answer to each Ping into its buffer. Once that is full, only the answer to the latest one
        // waits (RFC 6455 §5.5.3).
        .max_write_buffer_size(2 * UNSENT_BYTES)
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES))
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Carrier for WebSocketCarrier<S> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CarrierEnd>> {
        ready!(self.poll_put(cx))?;
        Pin::new(&mut self.socket).poll_ready(cx).map_err(end_of)
    }

    fn start_send(&mut self, bytes: &mut ChunkQueue) -> Result<(), CarrierEnd> {
        self.out.append(bytes);
        Ok(())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CarrierEnd>> {
        ready!(self.poll_put(cx))?;
        Pin::new(&mut self.socket).poll_flush(cx).map_err(end_of)
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, CarrierEnd>> {
        let message = match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
            Some(message) => message.map_err(end_of)?,
            None => return Poll::Ready(Err(CarrierEnd::cut())),
        };
        Poll::Ready(match message {
            // The library cuts messages out of a read buffer of 128 KiB, which a short one must not keep.
            Message::Binary(bytes) if bytes.len() < COPY_BELOW => Ok(Bytes::copy_from_slice(&bytes)),
            Message::Binary(bytes) => Ok(bytes),
            // The answer waits inside the WebSocket and goes with the next flush (RFC 6455 §5.5.2).
            Message::Ping(_) => Ok(Bytes::new()),
            // Proxies on the path may send these; they are not for the link and no reason to fail.
            Message::Pong(_) | Message::Text(_) | Message::Frame(_) => Ok(Bytes::new()),
            Message::Close(frame) => {
                // Answers it if the socket takes the answer at once; nothing waits for that.
                if let Poll::Ready(Err(error)) = Pin::new(&mut self.socket).poll_flush(cx) {
                    tracing::trace!(%error, "the other end did not wait for the answer to its close");
                }
                let message = frame.map(|frame| frame.reason.to_string()).unwrap_or_default();
                Err(CarrierEnd::Closed { message })
            }
        })
    }

    fn start_close(&mut self) -> Result<(), CarrierEnd> {
        let frame = CloseFrame {
            code: CloseCode::Away,
            reason: "".into(),
        };
        Pin::new(&mut self.socket)
            .start_send(Message::Close(Some(frame)))
            .map_err(end_of)
    }
}

fn end_of(error: Error) -> CarrierEnd {
    match error {
        Error::Io(error) => CarrierEnd::Lost(error),
        Error::ConnectionClosed | Error::AlreadyClosed => CarrierEnd::Closed {
            message: String::new(),
        },
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => CarrierEnd::cut(),
        other => CarrierEnd::Broken {
            message: other.to_string(),
        },
    }
}

/// Largest message that is accepted: the other end may gather more than we do.
const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// Messages below this size are copied out of the read buffer.
const COPY_BELOW: usize = 64 * 1024;

/// Largest message that is sent. Well below what the socket's buffer holds.
const MESSAGE_BYTES: usize = 128 * 1024;
