//! Our reading of a WebSocket beside tungstenite's: the same bytes in, the same messages, answers and end out.

use std::io::{self, Cursor, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::protocol::{Role as TheirRole, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket, error::ProtocolError};
use tunnel_bridge::{Carrier, CarrierEnd, Role, WebSocketCarrier};

/// The longest message that we accept.
const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// What came of some bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The payloads of binary messages, one after the other.
    pub(crate) bytes: Vec<u8>,
    /// The payloads of the Pongs that were sent.
    pub(crate) pongs: Vec<Vec<u8>>,
    /// The payload of the Close that was sent.
    pub(crate) close: Option<Vec<u8>>,
    pub(crate) end: End,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// A Close came, with this reason.
    Closed(String),
    Broken(String),
    /// The bytes ended without a Close.
    Cut,
}

/// A connection whose other end says what it is told to, in pieces of the sizes `cuts` (all at once where there are none,
/// and after a pause where one is 0), and takes everything.
struct Script {
    input: Cursor<Vec<u8>>,
    cuts: Vec<usize>,
    turn: usize,
    written: Vec<u8>,
}

impl AsyncRead for Script {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let turn = self.turn;
        self.turn += 1;
        let cut = match self.cuts.len() {
            0 => usize::MAX,
            cuts => self.cuts[turn % cuts],
        };
        if cut == 0 && turn.is_multiple_of(2) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let n = cut.max(1).min(room.remaining());
        let n = self.input.read(room.initialize_unfilled_to(n))?;
        room.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.written.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Lends the connection to the carrier, so that what it wrote can be looked at.
struct Lent(std::sync::Arc<std::sync::Mutex<Script>>);

impl AsyncRead for Lent {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock().unwrap()).poll_read(cx, room)
    }
}

impl AsyncWrite for Lent {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.lock().unwrap()).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock().unwrap()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock().unwrap()).poll_shutdown(cx)
    }
}

/// What our carrier makes of `input`, of which the first `behind` bytes came with the handshake.
pub(crate) fn ours(role: Role, input: &[u8], behind: usize, cuts: &[usize]) -> Outcome {
    let (behind, rest) = input.split_at(behind.min(input.len()));
    let script = std::sync::Arc::new(std::sync::Mutex::new(Script {
        input: Cursor::new(rest.to_vec()),
        cuts: cuts.to_vec(),
        turn: 0,
        written: Vec::new(),
    }));
    let mut carrier = WebSocketCarrier::new(Lent(std::sync::Arc::clone(&script)), role, behind);
    let mut cx = Context::from_waker(Waker::noop());
    let mut bytes = Vec::new();
    let end = loop {
        match carrier.poll_receive(&mut cx) {
            Poll::Pending => {}
            Poll::Ready(Ok(part)) => bytes.extend_from_slice(&part),
            Poll::Ready(Err(end)) => break end,
        }
        assert!(matches!(carrier.poll_flush(&mut cx), Poll::Ready(Ok(()))));
    };
    let end = match end {
        CarrierEnd::Closed { message } => End::Closed(message),
        CarrierEnd::Broken { message } => End::Broken(message),
        CarrierEnd::Lost(error) => {
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            End::Cut
        }
        other => panic!("{other:?}"),
    };
    let written = std::mem::take(&mut script.lock().unwrap().written);
    outcome(bytes, &written, end)
}

/// What tungstenite makes of `input`, and whether it ended over a text that is none.
fn theirs(role: Role, input: Vec<u8>) -> (Outcome, bool) {
    let role = match role {
        Role::Client => TheirRole::Client,
        Role::Server => TheirRole::Server,
    };
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES));
    let wire = Wire {
        input: Cursor::new(input),
        written: Vec::new(),
    };
    let mut socket = WebSocket::from_raw_socket(wire, role, Some(config));
    let mut bytes = Vec::new();
    let mut bad_text = false;
    let end = loop {
        match socket.read() {
            Ok(Message::Binary(part)) => bytes.extend_from_slice(&part),
            Ok(Message::Close(frame)) => {
                // Lets the answer be written. It ends the connection.
                drop(socket.flush());
                break End::Closed(frame.map(|frame| frame.reason.to_string()).unwrap_or_default());
            }
            Ok(_) => {}
            Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => break End::Cut,
            Err(Error::Utf8(why)) => {
                bad_text = true;
                break End::Broken(why);
            }
            Err(error @ (Error::Protocol(_) | Error::Capacity(_))) => break End::Broken(error.to_string()),
            Err(error) => panic!("{error}"),
        }
    };
    let written = std::mem::take(&mut socket.get_mut().written);
    (outcome(bytes, &written, end), bad_text)
}

struct Wire {
    input: Cursor<Vec<u8>>,
    written: Vec<u8>,
}

impl Read for Wire {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.input.read(room)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sorts the frames that were written: Pongs and a Close, each whole and short.
fn outcome(bytes: Vec<u8>, mut written: &[u8], end: End) -> Outcome {
    let (mut pongs, mut close) = (Vec::new(), None);
    while let [first, second, rest @ ..] = written {
        let len = usize::from(second & 0x7F);
        assert!(len <= 125, "a control frame is short");
        let (mask, rest) = if second & 0x80 == 0 {
            ([0; 4], rest)
        } else {
            let (mask, rest) = rest.split_first_chunk::<4>().unwrap();
            (*mask, rest)
        };
        let (payload, rest) = rest.split_at(len);
        let payload = payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, key)| byte ^ key)
            .collect();
        assert_eq!(close, None, "nothing comes behind a Close");
        match first {
            0x8A => pongs.push(payload),
            0x88 => close = Some(payload),
            other => panic!("{other:#x} was sent"),
        }
        written = rest;
    }
    assert_eq!(written, b"");
    Outcome {
        bytes,
        pongs,
        close,
        end,
    }
}

/// [`compare`], of bytes of which the first ones say how: the side, how much comes with the handshake, and the cuts.
pub(crate) fn check(bytes: &[u8]) {
    let [side, behind, cuts, rest @ ..] = bytes else {
        return;
    };
    let role = if side.is_multiple_of(2) {
        Role::Client
    } else {
        Role::Server
    };
    let (cuts, rest) = rest.split_at(usize::from(cuts % 16).min(rest.len()));
    let cuts: Vec<_> = cuts.iter().map(|cut| usize::from(*cut)).collect();
    compare(role, rest, usize::from(*behind), &cuts);
}

/// Holds our reading of `input` against tungstenite's.
///
/// The two differ, and may, in that we
/// * give a message out as it comes, tungstenite once it is whole,
/// * reject a frame by its head, tungstenite once it is whole,
/// * do not look into texts,
/// * take only the shortest form of a length (RFC 6455 §5.2),
/// * take a code of a Close that none may have as a breach, tungstenite as an odd Close, to which both answer 1002.
pub(crate) fn compare(role: Role, input: &[u8], behind: usize, cuts: &[usize]) {
    let ours = ours(role, input, behind, cuts);
    let (theirs, bad_text) = theirs(role, input.to_vec());
    let head = |long: &[u8], short: &[u8]| long.starts_with(short);
    let shown = || format!("ours {ours:?}, theirs {theirs:?}");
    // The long form of a short control frame's length also makes it too long.
    if let End::Broken(why) = &ours.end
        && (why.contains("the length of") || why.contains("longer than 125"))
    {
        assert!(
            head(&ours.bytes, &theirs.bytes) || head(&theirs.bytes, &ours.bytes),
            "{}",
            shown()
        );
        assert!(
            ours.pongs.starts_with(&theirs.pongs) || theirs.pongs.starts_with(&ours.pongs),
            "{}",
            shown()
        );
        return;
    }
    assert!(head(&ours.bytes, &theirs.bytes), "{}", shown());
    if bad_text {
        assert!(ours.pongs.starts_with(&theirs.pongs), "{}", shown());
        return;
    }
    match (&ours.end, &theirs.end) {
        (End::Closed(our_reason), End::Closed(their_reason)) => {
            let codes = |close: &Option<Vec<u8>>| {
                close
                    .as_ref()
                    .map(|payload| payload.iter().take(2).copied().collect::<Vec<_>>())
            };
            // 1014 was registered after RFC 6455, and tungstenite does not know it.
            if codes(&ours.close) != Some(1014_u16.to_be_bytes().to_vec()) {
                assert_eq!(our_reason, their_reason);
                assert_eq!(codes(&ours.close), codes(&theirs.close), "{}", shown());
            }
        }
        (End::Broken(why), End::Closed(_)) => {
            assert!(why.contains("has the code"), "{}", shown());
            assert_eq!(ours.close.as_deref(), Some(&1002_u16.to_be_bytes()[..]));
            assert_eq!(
                theirs.close.as_deref().map(|close| &close[..2]),
                Some(&1002_u16.to_be_bytes()[..])
            );
        }
        (End::Broken(_), End::Broken(_)) | (End::Cut, End::Cut) => {}
        (End::Broken(_), End::Cut) => {
            let mut whole = input.to_vec();
            whole.resize(input.len() + MAX_MESSAGE_BYTES + 200, 0);
            let (theirs, bad_text) = self::theirs(role, whole);
            assert!(
                bad_text || matches!(theirs.end, End::Broken(_)),
                "theirs, with more behind it: {:?}; {}",
                theirs.end,
                shown()
            );
        }
        _ => panic!("{}", shown()),
    }
    if ours.end == theirs.end || matches!(ours.end, End::Closed(_)) {
        assert_eq!(ours.pongs, theirs.pongs, "{}", shown());
    } else {
        assert!(
            ours.pongs.starts_with(&theirs.pongs) || theirs.pongs.starts_with(&ours.pongs),
            "{}",
            shown()
        );
    }
    if !matches!(ours.end, End::Cut) {
        assert!(ours.close.is_some(), "{}", shown());
    }
}
