//! What a client asks for and what it is answered, made and checked by the library and carried by us: so no byte that
//! comes behind the answer is lost inside the library.

use std::io::{self, Read, Write};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::ClientHandshake;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};
use tokio_tungstenite::tungstenite::handshake::HandshakeError;
use tokio_tungstenite::tungstenite::http::Request;

/// The longest head of an answer.
const MAX_HEAD_BYTES: usize = 64 * 1024;
const MAX_HEADERS: usize = 124;

/// Asks for a WebSocket; what has come behind the answer that grants it.
///
/// # Errors
/// The library's; among them [`Error::Http`], an answer that grants nothing, with as much of its body as has come.
///
/// # Cancel safety
/// When it is dropped, the connection is of no more use.
pub(super) async fn ask<S>(stream: &mut S, request: Request<()>) -> Result<Vec<u8>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let asking = ClientHandshake::start(Wire::default(), request, None)?;
    let mut asked = match asking.handshake() {
        Err(HandshakeError::Interrupted(asked)) => asked,
        Err(HandshakeError::Failure(error)) => return Err(error),
        // It has not been answered.
        Ok(_) => return Err(ProtocolError::HandshakeIncomplete.into()),
    };
    stream.write_all(&asked.get_ref().get_ref().written).await?;
    stream.flush().await?;
    let (answer, behind) = read_answer(stream).await?;
    asked.get_mut().get_mut().readable = answer;
    match asked.handshake() {
        Ok(_) => Ok(behind),
        Err(HandshakeError::Failure(error)) => Err(error),
        Err(HandshakeError::Interrupted(_)) => Err(ProtocolError::HandshakeIncomplete.into()),
    }
}

/// An answer and what has come behind it. Where that may be a body, it is left with the answer.
async fn read_answer<S: AsyncRead + Unpin>(stream: &mut S) -> Result<(Vec<u8>, Vec<u8>), Error> {
    const SWITCHING_PROTOCOLS: u16 = 101;
    let mut bytes = Vec::with_capacity(2048);
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(ProtocolError::HandshakeIncomplete.into());
        }
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut answer = httparse::Response::new(&mut headers);
        if let httparse::Status::Complete(length) = answer.parse(&bytes)? {
            let behind = if answer.code == Some(SWITCHING_PROTOCOLS) {
                bytes.split_off(length)
            } else {
                Vec::new()
            };
            return Ok((bytes, behind));
        }
        if bytes.len() > MAX_HEAD_BYTES {
            return Err(CapacityError::TooManyHeaders.into());
        }
    }
}

/// The library's side of the connection.
#[derive(Debug, Default)]
struct Wire {
    written: Vec<u8>,
    readable: Vec<u8>,
}

impl Read for Wire {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        if self.readable.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let n = room.len().min(self.readable.len());
        room[..n].copy_from_slice(&self.readable[..n]);
        self.readable.drain(..n);
        Ok(n)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
