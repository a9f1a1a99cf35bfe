//! The head of an HTTP/1.1 response, from a server or a proxy that may be anything.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The longest head of a response, interim ones before it included.
const MAX_HEAD_BYTES: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;

/// How long a body is waited for that is to be shown.
const BODY_TIME: Duration = Duration::from_secs(1);

/// A response up to its body.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    /// The words behind the status.
    pub(crate) reason: String,
    pub(crate) headers: Vec<(String, String)>,
    /// What came behind the head.
    pub(crate) rest: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum HeadError {
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The connection ended within the head, or before it.
    #[error("the connection ended before there was an answer")]
    Ended,
    #[error("{0}")]
    NotHttp(&'static str),
}

/// Reads the head of the final response: interim ones (100, 103) are skipped, 101 is final.
pub(crate) async fn read_head<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Head, HeadError> {
    let mut bytes = Vec::with_capacity(1024);
    let mut begin = 0;
    loop {
        while let Some((head, length)) = parse(&bytes[begin..])? {
            if head.status == 101 || head.status >= 200 {
                let rest = bytes.split_off(begin + length);
                return Ok(Head { rest, ..head });
            }
            begin += length;
        }
        if bytes.len() >= MAX_HEAD_BYTES {
            return Err(HeadError::NotHttp("the head of its answer is longer than 16 KiB"));
        }
        let room = (MAX_HEAD_BYTES - bytes.len()) as u64;
        if (&mut *stream).take(room).read_buf(&mut bytes).await? == 0 {
            return Err(HeadError::Ended);
        }
    }
}

fn parse(bytes: &[u8]) -> Result<Option<(Head, usize)>, HeadError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut headers);
    match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => {
            let head = Head {
                status: parsed.code.unwrap_or_default(),
                reason: parsed.reason.unwrap_or_default().to_owned(),
                headers: parsed
                    .headers
                    .iter()
                    .map(|header| {
                        let value = String::from_utf8_lossy(header.value).trim().to_owned();
                        (header.name.to_owned(), value)
                    })
                    .collect(),
                rest: Vec::new(),
            };
            Ok(Some((head, length)))
        }
        Ok(httparse::Status::Partial) => Ok(None),
        Err(httparse::Error::TooManyHeaders) => {
            Err(HeadError::NotHttp("its answer has more than 64 headers"))
        }
        Err(_) => Err(HeadError::NotHttp("its answer is not HTTP/1.1")),
    }
}

impl Head {
    /// The value of the first header of this name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers
            .iter()
            .filter(move |(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Whether a header that is a list has this item (RFC 9110 §5.3).
    pub(crate) fn lists(&self, name: &str, item: &str) -> bool {
        self.all(name)
            .flat_map(|value| value.split(','))
            .any(|part| part.trim().eq_ignore_ascii_case(item))
    }

    /// Waits a moment for the body, if it is still to come and what is here has no line of it.
    pub(crate) async fn read_some_body<S: AsyncRead + Unpin>(&mut self, stream: &mut S) {
        let promised = self.header("content-length").and_then(|text| text.parse().ok());
        let more: u64 = promised.unwrap_or(0_u64).min(1024);
        let missing = more.saturating_sub(self.rest.len() as u64);
        if missing > 0 && !self.rest.contains(&b'\n') {
            let mut limited = stream.take(missing);
            let read = limited.read_to_end(&mut self.rest);
            if let Ok(Err(error)) = tokio::time::timeout(BODY_TIME, read).await {
                tracing::debug!(%error, "the body of an answer is not whole");
            }
        }
    }
}

/// Makes a peer's text fit for a header and a terminal: its first line, visible ASCII, at most 300 characters.
pub(crate) fn line(text: &str) -> String {
    let visible = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    let first = text.trim().lines().next().unwrap_or_default();
    first.chars().take(300).map(visible).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(mut bytes: &[u8]) -> Result<Head, HeadError> {
        read_head(&mut bytes).await
    }

    #[tokio::test]
    async fn the_final_head_is_read_and_what_follows_is_kept() {
        let bytes = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n\
            HTTP/1.1 200 Connection established\r\nVia: a, b\r\nvia: c\r\n\r\nrest";
        let head = read(bytes).await.unwrap();
        assert_eq!(
            (head.status, head.reason.as_str()),
            (200, "Connection established")
        );
        assert_eq!(
            (head.header("VIA"), head.rest.as_slice()),
            (Some("a, b"), &b"rest"[..])
        );
        assert!(head.lists("via", "B") && head.lists("via", "c") && !head.lists("via", "d"));
    }

    #[tokio::test]
    async fn what_is_no_head_or_never_ends_is_an_error() {
        let endless = [b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &[b'x'; 20_000]].concat();
        assert!(matches!(read(&endless).await, Err(HeadError::NotHttp(_))));
        let interim = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(1000);
        assert!(matches!(read(&interim).await, Err(HeadError::NotHttp(_))));
        let headers = [b"HTTP/1.1 200 OK\r\n".as_slice(), &b"X: y\r\n".repeat(70)].concat();
        assert!(matches!(read(&headers).await, Err(HeadError::NotHttp(_))));
        assert!(matches!(
            read(b"SSH-2.0-OpenSSH\r\n").await,
            Err(HeadError::NotHttp(_))
        ));
        assert!(matches!(read(b"HTTP/1.1 200 O").await, Err(HeadError::Ended)));
    }
}
