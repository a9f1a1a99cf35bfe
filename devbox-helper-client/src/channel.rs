//! Messages over the channel between caller and helper: a Unix socket pair, or a pair of pipes where there is none.

use std::io;
use std::net::TcpListener;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{Decoder, encode};
use crate::error::Error;
use crate::message::Response;
use crate::sys::{self, Descriptor};

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
    /// `InvalidInput` when that is not a stream socket, as when a person started the helper by hand.
    pub fn inherited() -> io::Result<Self> {
        sys::inherited().map(|(writer, reader)| Self::new(writer, reader))
    }

    /// A channel over a stream socket that somebody else has connected, as one that was accepted.
    ///
    /// # Errors
    /// `Unsupported` where descriptors are not sockets of this kind.
    pub fn of(stream: Descriptor) -> io::Result<Self> {
        sys::of_descriptor(stream).map(|(writer, reader)| Self::new(writer, reader))
    }

    /// A channel to the helper that listens at this path.
    pub(crate) fn connect(socket: &Path) -> io::Result<Self> {
        sys::connect(socket).map(|(writer, reader)| Self::new(writer, reader))
    }

    /// Gives up on an other end that takes longer than this to read what is sent, or to complete a message that it has begun. It may
    /// say nothing for as long as it likes.
    ///
    /// # Errors
    /// What the system says to a time limit.
    pub fn limit(&mut self, patience: Duration) -> io::Result<()> {
        self.receiver.patience = Some(patience);
        self.sender.writer.set_timeout(Some(patience))
    }

    /// The two directions separately, for one thread each.
    #[must_use]
    pub fn split(self) -> (Sender, Receiver) {
        (self.sender, self.receiver)
    }

    pub(crate) fn new(writer: sys::Writer, reader: sys::Reader) -> Self {
        Self {
            sender: Sender {
                writer,
                unsent: Vec::new(),
            },
            receiver: Receiver {
                reader,
                decoder: Decoder::default(),
                passed: Vec::new(),
                patience: None,
            },
        }
    }

    /// Lifts the time limits that deadlines left on the channel.
    #[cfg(feature = "tokio")]
    pub(crate) fn wait_for_ever(&self) -> io::Result<()> {
        self.sender.writer.set_timeout(None)?;
        self.receiver.reader.set_timeout(None)
    }
}

/// The sending direction.
#[derive(Debug)]
pub struct Sender {
    writer: sys::Writer,
    /// The rest of a frame whose deadline passed when part of it was sent: at most one. It goes before anything else.
    unsent: Vec<u8>,
}

impl Sender {
    /// Sends one message.
    ///
    /// # Errors
    /// [`Error::Frame`] when it is too long, [`Error::Channel`] when the other end is gone.
    pub fn send<T: Serialize>(&mut self, message: &T) -> Result<(), Error> {
        self.send_frame(&encode(message)?, None, None)?;
        Ok(())
    }

    /// Sends one message along with a listener, which stays open here until it is dropped. The other end closes it unless
    /// the message is a [`Response`] that announces it.
    ///
    /// # Errors
    /// As [`Sender::send`]; `Unsupported` where descriptors cannot be passed.
    pub fn send_with_listener<T: Serialize>(
        &mut self,
        message: &T,
        listener: &TcpListener,
    ) -> Result<(), Error> {
        self.send_frame(&encode(message)?, Some(listener), None)?;
        Ok(())
    }

    /// Past the deadline it fails with `TimedOut` or `WouldBlock`; what was begun is completed by the next call.
    pub(crate) fn send_frame(
        &mut self,
        frame: &[u8],
        mut listener: Option<&TcpListener>,
        deadline: Option<Instant>,
    ) -> io::Result<()> {
        while !self.unsent.is_empty() {
            let unsent = std::mem::take(&mut self.unsent);
            let sent = self.send_part(&unsent, None, deadline);
            self.unsent = unsent;
            self.unsent.drain(..sent?);
        }
        let mut sent = 0;
        while sent < frame.len() {
            match self.send_part(&frame[sent..], listener.take(), deadline) {
                Ok(count) => sent += count,
                Err(error) => {
                    if sent > 0 {
                        self.unsent = frame[sent..].to_vec();
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn send_part(
        &mut self,
        bytes: &[u8],
        listener: Option<&TcpListener>,
        deadline: Option<Instant>,
    ) -> io::Result<usize> {
        if let Some(deadline) = deadline {
            self.writer.set_timeout(Some(remaining(deadline)?))?;
        }
        match self.writer.write(bytes, listener)? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            count => Ok(count),
        }
    }

    /// Tells the other end that nothing more comes.
    pub(crate) fn finish(&mut self) {
        self.writer.finish();
    }
}

/// The receiving direction.
#[derive(Debug)]
pub struct Receiver {
    reader: sys::Reader,
    decoder: Decoder,
    /// Descriptors whose message is not read yet: at most one for each of the last two reads, so that the other end
    /// cannot fill this process's descriptor table.
    pub(crate) passed: Vec<Passed>,
    /// How long a message may take from its first byte to its last.
    patience: Option<Duration>,
}

/// A descriptor and the bytes that one read returned together with it.
///
/// The kernel delivers a descriptor with the first byte that was sent along with it, and never two messages' descriptors in
/// one read. The read may return bytes of other messages before it (Linux) or behind it (BSD), so a read alone does not
/// tell whose the descriptor is, but a message that begins elsewhere cannot be its owner. (If the other end breaks the protocol
/// and announces a descriptor without sending it, the next one may be taken for it: whoever asked for a listener checks its
/// address.)
#[derive(Debug)]
pub(crate) struct Passed {
    with: Range<u64>,
    listener: TcpListener,
}

impl Receiver {
    /// The next message, `None` at the end of the stream, even within a frame: the rest of it will never come. Descriptors
    /// that come with it are closed.
    ///
    /// # Errors
    /// [`Error::Frame`]: after `Malformed` the next message can be read, after `TooLong` none. [`Error::Channel`].
    pub fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Error> {
        self.receive_before(None)
    }

    /// The next message, which must have come within this time.
    ///
    /// # Errors
    /// As [`Receiver::receive`]; `TimedOut` or `WouldBlock` in [`Error::Channel`].
    pub fn receive_within<T: DeserializeOwned>(&mut self, limit: Duration) -> Result<Option<T>, Error> {
        self.receive_before(Instant::now().checked_add(limit))
    }

    pub(crate) fn receive_before<T: DeserializeOwned>(
        &mut self,
        deadline: Option<Instant>,
    ) -> Result<Option<T>, Error> {
        let received = self.next(deadline);
        self.passed.clear();
        Ok(received?.map(|(_, message)| message))
    }

    /// The next response and the listener that it announces. Without a listener the response either announces none, or the
    /// other end did not send what it announced.
    ///
    /// # Errors
    /// As [`Receiver::receive`].
    pub fn receive_response(&mut self) -> Result<Option<(Response, Option<TcpListener>)>, Error> {
        self.receive_response_before(None)
    }

    /// Past the deadline it fails with `TimedOut` or `WouldBlock`, and can be called again.
    pub(crate) fn receive_response_before(
        &mut self,
        deadline: Option<Instant>,
    ) -> Result<Option<(Response, Option<TcpListener>)>, Error> {
        let Some((start, response)) = self.next::<Response>(deadline)? else {
            return Ok(None);
        };
        let listener = if response.listener {
            let found = self.passed.iter().position(|passed| passed.with.contains(&start));
            found.map(|index| self.passed.remove(index).listener)
        } else {
            None
        };
        if !self.decoder.is_mid_frame() {
            self.passed.clear();
        }
        Ok(Some((response, listener)))
    }

    /// The next message and where its frame begins.
    fn next<T: DeserializeOwned>(&mut self, deadline: Option<Instant>) -> Result<Option<(u64, T)>, Error> {
        let mut chunk = Vec::new();
        let mut begun = None;
        loop {
            let start = self.decoder.position();
            if let Some(message) = self.decoder.poll_message()? {
                return Ok(Some((start, message)));
            }
            // All messages before `start` are read: what they did not announce is nobody's.
            self.passed.retain(|passed| passed.with.contains(&start));
            let deadline = deadline.or_else(|| self.must_end_by(&mut begun));
            if let Some(deadline) = deadline {
                self.reader.set_timeout(Some(remaining(deadline)?))?;
            } else if self.patience.is_some() {
                self.reader.set_timeout(None)?;
            }
            chunk.resize(CHUNK_BYTES, 0);
            let (count, listener) = self.reader.read(&mut chunk)?;
            if count == 0 {
                return Ok(None);
            }
            let from = self.decoder.received();
            self.decoder.handle_bytes(&chunk[..count]);
            self.passed.extend(listener.map(|listener| Passed {
                with: from..self.decoder.received(),
                listener,
            }));
        }
    }

    /// When a message that has begun must be complete. `begun` is when that was noticed.
    fn must_end_by(&self, begun: &mut Option<Instant>) -> Option<Instant> {
        let patience = self.patience.filter(|_| self.decoder.is_mid_frame())?;
        begun.get_or_insert_with(Instant::now).checked_add(patience)
    }

    /// Ends both directions where the channel is one socket, even while another part of this process holds it.
    #[cfg(feature = "tokio")]
    pub(crate) fn close(self) {
        self.reader.close();
    }
}

/// How long until then; never zero, which would mean no limit to a socket.
fn remaining(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(left.max(Duration::from_millis(1)))
}

const CHUNK_BYTES: usize = 64 << 10;
