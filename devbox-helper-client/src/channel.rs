//! Messages over the channel between caller and helper: a Unix socket pair, or a pair of pipes where there is none.

use std::io;
use std::net::TcpListener;
use std::ops::Range;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{Decoder, encode};
use crate::error::Error;
use crate::message::Response;
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
    /// `InvalidInput` when that is not a stream socket, as when a person started the helper by hand.
    pub fn inherited() -> io::Result<Self> {
        sys::inherited().map(|(writer, reader)| Self::new(writer, reader))
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
    passed: Vec<Passed>,
}

/// A descriptor and the bytes that one read returned together with it.
///
/// The kernel delivers a descriptor with the first byte that was sent along with it, and never two messages' descriptors in
/// one read. The read may return bytes of other messages before it (Linux) or behind it (BSD), so a read alone does not
/// tell whose the descriptor is, but a message that begins elsewhere cannot be its owner. (If the other end breaks the protocol
/// and announces a descriptor without sending it, the next one may be taken for it: whoever asked for a listener checks its
/// address.)
#[derive(Debug)]
struct Passed {
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
        loop {
            let start = self.decoder.position();
            if let Some(message) = self.decoder.poll_message()? {
                return Ok(Some((start, message)));
            }
            // All messages before `start` are read: what they did not announce is nobody's.
            self.passed.retain(|passed| passed.with.contains(&start));
            if let Some(deadline) = deadline {
                self.reader.set_timeout(Some(remaining(deadline)?))?;
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

#[cfg(all(test, unix))]
mod tests {
    #![expect(clippy::unwrap_used, reason = "also outside the functions marked as tests")]

    use std::net::SocketAddr;
    use std::os::unix::net::UnixStream;

    use proptest::prelude::*;

    use super::*;
    use crate::message::{ReleaseReport, Reply};

    fn pair() -> (Channel, Channel) {
        let (a, b) = UnixStream::pair().unwrap();
        let [a, b] = [a, b].map(|stream| sys::halves(stream).unwrap());
        (Channel::new(a.0, a.1), Channel::new(b.0, b.1))
    }

    fn listener() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").unwrap()
    }

    fn bound(id: u64) -> Response {
        Response {
            id: Some(id),
            listener: true,
            reply: Reply::Bound,
        }
    }

    fn plain(id: u64) -> Response {
        Response {
            id: Some(id),
            listener: false,
            reply: Reply::Released(ReleaseReport { removed_block: None }),
        }
    }

    /// What was sent before the first is received, so that as much as the system allows arrives in one read.
    fn received(receiver: &mut Receiver) -> Vec<(u64, Option<SocketAddr>)> {
        let responses = std::iter::from_fn(|| receiver.receive_response().unwrap());
        responses
            .map(|(response, listener)| {
                let address = listener.map(|listener| listener.local_addr().unwrap());
                (response.id.unwrap(), address)
            })
            .collect()
    }

    #[test]
    fn descriptor_goes_to_the_response_it_was_sent_with_in_either_order() {
        for order in [[false, true], [true, false]] {
            let (mut helper, mut caller) = pair();
            let listener = listener();
            let mut expected = Vec::new();
            for (id, carries) in (1..).zip(order) {
                if carries {
                    helper.sender.send_with_listener(&bound(id), &listener).unwrap();
                } else {
                    helper.sender.send(&plain(id)).unwrap();
                }
                expected.push((id, carries.then(|| listener.local_addr().unwrap())));
            }
            drop(helper);
            assert_eq!(received(&mut caller.receiver), expected);
        }
    }

    #[test]
    fn one_write_with_several_responses_gives_the_descriptor_to_the_one_that_announces_it() {
        let (mut helper, mut caller) = pair();
        let listener = listener();
        let frames: Vec<u8> = [plain(1), bound(2), plain(3)]
            .iter()
            .flat_map(|response| encode(response).unwrap())
            .collect();
        helper.sender.send_frame(&frames, Some(&listener), None).unwrap();
        drop(helper);
        let address = listener.local_addr().unwrap();
        assert_eq!(
            received(&mut caller.receiver),
            [(1, None), (2, Some(address)), (3, None)]
        );
    }

    #[test]
    fn descriptor_that_is_not_announced_is_closed_and_given_to_nobody() {
        let (mut helper, mut caller) = pair();
        let surplus = listener();
        let address = surplus.local_addr().unwrap();
        helper.sender.send_with_listener(&plain(1), &surplus).unwrap();
        drop(surplus);
        // Announced, but not sent.
        helper.sender.send(&bound(2)).unwrap();
        drop(helper);
        assert_eq!(received(&mut caller.receiver), [(1, None), (2, None)]);
        // Nobody holds it any more: other tests start no process here that could have inherited it.
        std::net::TcpStream::connect(address).unwrap_err();
    }

    #[test]
    fn descriptors_that_come_within_one_long_frame_are_not_collected() {
        let (helper, mut caller) = pair();
        let (mut sender, _) = helper.split();
        let surplus = listener();
        let mut response = plain(1);
        response.reply = Reply::Released(ReleaseReport {
            removed_block: Some("x".repeat(500)),
        });
        let frame = encode(&response).unwrap();
        let writing = std::thread::spawn(move || {
            for byte in frame {
                sender.send_frame(&[byte], Some(&surplus), None).unwrap();
            }
        });
        // The first comes with the frame's first byte, and the last with the last read.
        while caller.receiver.receive_response().unwrap().is_some() {
            assert!(caller.receiver.passed.len() <= 2);
        }
        writing.join().unwrap();
        assert!(caller.receiver.passed.is_empty());
    }

    #[test]
    fn request_with_a_descriptor_is_read_and_the_descriptor_closed() {
        let (mut caller, mut helper) = pair();
        let surplus = listener();
        caller.sender.send_with_listener(&plain(1), &surplus).unwrap();
        let request: Response = helper.receiver.receive().unwrap().unwrap();
        assert_eq!(request, plain(1));
        assert!(helper.receiver.passed.is_empty());
    }

    #[test]
    fn frame_whose_deadline_passed_half_way_is_completed_before_the_next() {
        let (mut helper, mut caller) = pair();
        let long = "x".repeat(3 << 20);
        let soon = || Some(Instant::now() + Duration::from_millis(20));
        let frame = encode(&long).unwrap();
        let error = helper.sender.send_frame(&frame, None, soon()).unwrap_err();
        assert!(matches!(
            error.kind(),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
        ));
        // Nothing is begun while the first is unfinished.
        let second = encode(&"second").unwrap();
        helper.sender.send_frame(&second, None, soon()).unwrap_err();
        let reading = std::thread::spawn(move || {
            let first: String = caller.receiver.receive().unwrap().unwrap();
            let second: String = caller.receiver.receive().unwrap().unwrap();
            (first, second, caller.receiver.receive::<String>().unwrap())
        });
        let third = encode(&"third").unwrap();
        let long_enough = Some(Instant::now() + Duration::from_secs(60));
        helper.sender.send_frame(&third, None, long_enough).unwrap();
        drop(helper);
        assert_eq!(reading.join().unwrap(), (long, "third".to_owned(), None));
    }

    proptest! {
        /// Any sequence of responses with and without a listener, cut into writes anywhere.
        #[test]
        fn every_response_has_the_listener_it_was_sent_with(
            carries in prop::collection::vec(any::<bool>(), 0..20),
            cut in 1usize..200,
        ) {
            let (mut helper, mut caller) = pair();
            let mut expected = Vec::new();
            for (id, carries) in (1..).zip(carries) {
                let listener = carries.then(listener);
                let frame = encode(&if carries { bound(id) } else { plain(id) }).unwrap();
                let (head, tail) = frame.split_at(cut.min(frame.len()));
                helper.sender.send_frame(head, listener.as_ref(), None).unwrap();
                helper.sender.send_frame(tail, None, None).unwrap();
                expected.push((id, listener.map(|listener| listener.local_addr().unwrap())));
            }
            drop(helper);
            prop_assert_eq!(received(&mut caller.receiver), expected);
        }
    }
}
