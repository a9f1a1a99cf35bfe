//! A client by the raw protocol (docs/protocol.md): it asks for what no session of devbox would.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Context, bail};
use devbox_tests::kube::Node;
use devbox_tests::{Result, wait};
use serde_json::Value;

/// A client's HELLO that offers nothing (section 3).
const HELLO: [u8; 28] = [
    1, 0, 0, 20, 0, 0, 0, 0, // kind, length, stream
    0, 1, 0, 0, // version, features
    0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 16, 0, 0, 0, 1, 0, // window, frame, streams, unanswered
];

// Kinds of frames (section 2).
const OPEN: u8 = 0x10;
const ACCEPT: u8 = 0x11;
const REFUSE: u8 = 0x12;
const DATA: u8 = 0x13;
const RESET: u8 = 0x15;

/// What REFUSE says (section 4).
pub(crate) const NOT_ALLOWED: u16 = 4;
pub(crate) const NOT_FOUND: u16 = 5;

/// Asks the gateway at an address for the tunnel of this session: the status of its answer, and the connection where that is 101.
pub(crate) fn ask(
    node: &Node,
    gateway: &str,
    session: &str,
    token: &str,
    headers: &[(&str, &str)],
) -> Result<(u16, Option<TcpStream>)> {
    let mut stream = node.inside(|| Ok(TcpStream::connect((gateway, 7070))?))?;
    stream.set_read_timeout(Some(4 * wait::SOON))?;
    let headers: String = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    write!(
        stream,
        "GET /kube/devbox/tunnel/client/{session} HTTP/1.1\r\nHost: {gateway}\r\nConnection: Upgrade\r\n\
         Upgrade: devbox-tunnel/1\r\nAuthorization: Bearer {token}\r\nDevbox-Environment: test\r\n{headers}\r\n"
    )?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let head = String::from_utf8(head)?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    if status != 101 {
        return Ok((status, None));
    }
    stream.write_all(&HELLO)?;
    Ok((status, Some(stream)))
}

/// A client that was let in.
pub(crate) struct Client {
    stream: TcpStream,
    opened: u32,
}

/// What came of OPEN: accepted, or the code of the refusal.
pub(crate) type Answer = std::result::Result<(), u16>;

impl Client {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, opened: 0 }
    }

    pub(crate) fn open(&mut self, target: &str) -> Result<Answer> {
        Ok(self.open_stream(target)?.map(drop))
    }

    /// Gives the gateway a catalog with one service, whose only port stands for this address (section 8).
    pub(crate) fn push(&mut self, service: &str, port: u16, address: &str) -> Result {
        let stream = match self.open_stream("catalog/push")? {
            Ok(stream) => stream,
            Err(code) => bail!("it takes no catalogs: {code}"),
        };
        let ports = serde_json::json!([{"port": port, "protocol": "tcp", "target": address}]);
        let services = serde_json::json!([{"id": service, "ports": ports}]);
        let body = serde_json::json!({"snapshot": {"environment": "test", "services": services}}).to_string();
        let mut message = vec![1];
        message.extend(&u32::try_from(body.len())?.to_be_bytes()[1..]);
        message.extend(body.as_bytes());
        self.send(DATA, stream, &message)?;
        let answer = self.receive(stream)?;
        let answer: Value = serde_json::from_slice(answer.1.get(4..).context("no answer")?)?;
        if answer["health"] != "live" {
            bail!("{answer}");
        }
        Ok(())
    }

    fn open_stream(&mut self, target: &str) -> Result<std::result::Result<u32, u16>> {
        let stream = 2 * self.opened + 1;
        self.opened += 1;
        self.send(OPEN, stream, target.as_bytes())?;
        let (kind, payload) = self.receive(stream)?;
        match (kind, &payload[..]) {
            (ACCEPT, _) => Ok(Ok(stream)),
            (REFUSE, [high, low, ..]) => Ok(Err(u16::from_be_bytes([*high, *low]))),
            _ => bail!("{kind:#x} in answer to {target}"),
        }
    }

    fn send(&mut self, kind: u8, stream: u32, payload: &[u8]) -> Result {
        let mut frame = vec![kind];
        frame.extend(&u32::try_from(payload.len())?.to_be_bytes()[1..]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        Ok(self.stream.write_all(&frame)?)
    }

    /// The next frame of a stream, other than one of credit.
    fn receive(&mut self, stream: u32) -> Result<(u8, Vec<u8>)> {
        loop {
            let mut head = [0; 8];
            self.stream.read_exact(&mut head)?;
            let [kind, a, b, c, of @ ..] = head;
            let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, a, b, c]))?];
            self.stream.read_exact(&mut payload)?;
            if u32::from_be_bytes(of) == stream && [ACCEPT, REFUSE, DATA, RESET].contains(&kind) {
                return Ok((kind, payload));
            }
        }
    }
}
