//! Messages over the channel between caller and helper: a Unix socket pair, or a pair of pipes where there is none.

use std::io;
use std::net::TcpListener;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{Decoder, encode};
use crate::error::Error;
use crate::sys;

/// Both directions of the channel.
#[derive(Debug)]
pub struct Channel {
    pub(crate) sender: Sender,
    pub(crate) receiver: Receiver,
}

impl Channel {
    /// The helper's end: what this process was given as its standard input (on Windows, standard input and output).
    ///
    /// # Errors
    /// `InvalidInput` when that is no stream socket, as when a person started the helper by hand.
    pub fn inherited() -> io::Result<Self> {
        sys::inherited().map(|(writer, reader)| Self::new(writer, reader))
    }

    /// The two directions on their own, for a thread each.
    #[must_use]
    pub fn split(self) -> (Sender, Receiver) {
        (self.sender, self.receiver)
    }

    pub(crate) fn new(writer: sys::Writer, reader: sys::Reader) -> Self {
        Self {
            sender: Sender { writer },
            receiver: Receiver {
                reader,
                decoder: Decoder::default(),
                listener: None,
            },
        }
    }
}

/// The way out.
#[derive(Debug)]
pub struct Sender {
    writer: sys::Writer,
}

impl Sender {
    /// Writes one message.
    ///
    /// # Errors
    /// [`Error::Frame`] when it is too long, [`Error::Channel`] when the other end is gone.
    pub fn send<T: Serialize>(&mut self, message: &T) -> Result<(), Error> {
        self.send_frame(&encode(message)?)?;
        Ok(())
    }

    pub(crate) fn send_frame(&mut self, frame: &[u8]) -> io::Result<()> {
        self.writer.write_all(frame, None)
    }

    /// Writes one message with a listener, which stays open here until it is dropped.
    ///
    /// # Errors
    /// As [`Sender::send`]; `Unsupported` where no descriptor can be passed.
    pub fn send_with_listener<T: Serialize>(
        &mut self,
        message: &T,
        listener: &TcpListener,
    ) -> Result<(), Error> {
        self.writer.write_all(&encode(message)?, Some(listener))?;
        Ok(())
    }

    /// Tells the other end that nothing more comes.
    pub(crate) fn finish(&mut self) {
        self.writer.finish();
    }
}

/// The way in.
#[derive(Debug)]
pub struct Receiver {
    reader: sys::Reader,
    decoder: Decoder,
    listener: Option<TcpListener>,
}

impl Receiver {
    /// The next message, `None` at the end of the stream (also within a frame: the rest of it will not come).
    ///
    /// # Errors
    /// [`Error::Frame`]: after `Malformed` the next message can be read, after `TooLong` none. [`Error::Channel`].
    pub fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Error> {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            if let Some(message) = self.decoder.poll_message()? {
                return Ok(Some(message));
            }
            let (count, listener) = self.reader.read(&mut chunk)?;
            if count == 0 {
                return Ok(None);
            }
            // At most one is held, so that the other end cannot fill our descriptor table.
            if let Some(listener) = listener {
                self.listener = Some(listener);
            }
            self.decoder.handle_bytes(&chunk[..count]);
        }
    }

    /// The listener that came with the last message, if one did.
    pub fn take_listener(&mut self) -> Option<TcpListener> {
        self.listener.take()
    }

    /// Ends both directions where the channel is one socket, whoever else holds a part of it in this process.
    #[cfg(feature = "tokio")]
    pub(crate) fn close(self) {
        self.reader.close();
    }

    /// How long one read may take; `None` for ever. Pipes know no such limit: on Windows nothing happens.
    pub(crate) fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.reader.set_timeout(timeout)
    }
}

const CHUNK_BYTES: usize = 64 << 10;
