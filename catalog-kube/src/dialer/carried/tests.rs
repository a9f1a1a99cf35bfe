use std::sync::Mutex;

use service_catalog::Protocol;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tunnel_bridge::RefusalKind;

use super::*;
use crate::endpoints::Endpoints;
use crate::objects::{Answers, Place};
use crate::road::Host;

/// Takes what is written, and says at the first read, or from a write on, that the endpoint has refused.
struct Refuses {
    kind: RefusalKind,
    taken: usize,
    /// How much is taken before a write is told of it.
    until: usize,
}

impl Refuses {
    fn error(&self) -> io::Error {
        io::Error::new(io::ErrorKind::ConnectionRefused, Refusal::new(self.kind, "no"))
    }
}

impl AsyncRead for Refuses {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(self.error()))
    }
}

impl AsyncWrite for Refuses {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.taken >= self.until {
            return Poll::Ready(Err(self.error()));
        }
        let n = buf.len().min(self.until - self.taken);
        self.taken += n;
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl ByteStream for Refuses {
    fn carries_half_close(&self) -> bool {
        false
    }
}

/// Gives out these streams, the last one first.
#[derive(Clone)]
struct Streams {
    left: Arc<Mutex<Vec<Box<dyn ByteStream>>>>,
    endpoints: Endpoints,
}

impl Streams {
    fn new(mut streams: Vec<Box<dyn ByteStream>>) -> Streams {
        streams.reverse();
        let endpoints = Endpoints::new(None);
        let place = Place {
            endpoint: Arc::new(Endpoint {
                host: Host::Address([10, 0, 0, 1].into()),
                port: 80.try_into().unwrap(),
                protocol: Protocol::Tcp,
                pod: None,
            }),
            zone: None,
            for_zones: Vec::new(),
        };
        let answers = Answers {
            places: vec![place],
            because: String::new(),
            affinity: None,
        };
        endpoints.set([("tcp/shop/web/80".parse().unwrap(), Some(Arc::new(answers)))]);
        Streams {
            left: Arc::new(Mutex::new(streams)),
            endpoints,
        }
    }

    fn next(&self) -> Option<Reached> {
        let target = "tcp/shop/web/80".parse().unwrap();
        let open = self.endpoints.choose(&target, &[], std::time::Instant::now());
        Some((self.left.lock().unwrap().pop()?, open.unwrap()))
    }

    fn carried(self) -> CarriedStream {
        CarriedStream::new(self.next().unwrap(), Box::new(self))
    }
}

impl Elsewhere for Streams {
    fn reach(self: Box<Self>, _: Arc<Endpoint>, refusal: Refusal) -> Reaching {
        Box::pin(async move {
            // Not at once.
            tokio::task::yield_now().await;
            match self.next() {
                Some(reached) => Ok((reached, self as Box<dyn Elsewhere>)),
                None => Err(refusal),
            }
        })
    }
}

fn refuses(kind: RefusalKind, until: usize) -> Box<dyn ByteStream> {
    Box::new(Refuses {
        kind,
        taken: 0,
        until,
    })
}

/// A stream whose first two endpoints refuse, and the third.
fn third(until: usize) -> (CarriedStream, DuplexStream) {
    let (near, far) = duplex(100_000);
    let streams = vec![
        refuses(RefusalKind::Refused, until),
        refuses(RefusalKind::NotFound, 1),
        Box::new(near) as Box<dyn ByteStream>,
    ];
    (Streams::new(streams).carried(), far)
}

#[tokio::test]
async fn the_next_endpoint_gets_everything_from_the_beginning() {
    for until in [5, usize::MAX] {
        let (mut stream, mut far) = third(until);
        stream.write_all(b"what is ").await.unwrap();
        stream.write_all(b"asked").await.unwrap();
        stream.shutdown().await.unwrap();
        let answer = async {
            let mut asked = String::new();
            far.read_to_string(&mut asked).await.unwrap();
            far.write_all(b"answered").await.unwrap();
            far.shutdown().await.unwrap();
            asked
        };
        let mut answered = String::new();
        let (read, asked) = tokio::join!(stream.read_to_string(&mut answered), answer);
        read.unwrap();
        assert_eq!((asked.as_str(), answered.as_str()), ("what is asked", "answered"));
    }
}

#[tokio::test]
async fn who_reads_and_who_writes_may_be_two() {
    let (stream, mut far) = third(3);
    let (mut reader, mut writer) = tokio::io::split(stream);
    let reading = tokio::spawn(async move { reader.read_u8().await });
    writer.write_all(b"asked").await.unwrap();
    let mut asked = [0; 5];
    far.read_exact(&mut asked).await.unwrap();
    assert_eq!(&asked, b"asked");
    far.write_u8(7).await.unwrap();
    assert_eq!(reading.await.unwrap().unwrap(), 7);
}

#[tokio::test]
async fn what_cannot_be_sent_again_or_would_not_help_is_the_programs_to_know() {
    let long = vec![0; MAX_HELD_BYTES + 1];
    for (kind, sent) in [
        (RefusalKind::Refused, &long[..]),
        (RefusalKind::NotAllowed, b"short"),
    ] {
        let (near, _far) = duplex(1);
        let streams = vec![refuses(kind, usize::MAX), Box::new(near)];
        let mut stream = Streams::new(streams).carried();
        stream.write_all(sent).await.unwrap();
        let error = stream.read_u8().await.unwrap_err();
        assert_eq!(refusal_of(&error).unwrap().kind, kind);
    }
    // Behind a byte that has arrived, nothing of it is sent to anybody else.
    let (near, mut far) = duplex(100);
    let streams = Streams::new(vec![Box::new(near), refuses(RefusalKind::Refused, 0)]);
    let left = Arc::clone(&streams.left);
    let mut stream = streams.carried();
    far.write_u8(1).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), 1);
    drop(far);
    stream.write_u8(1).await.unwrap_err();
    assert_eq!(left.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn the_last_refusal_is_told_and_no_half_close_is_promised() {
    let streams = vec![
        refuses(RefusalKind::NotFound, 0),
        refuses(RefusalKind::Refused, 0),
    ];
    let mut stream = Streams::new(streams).carried();
    assert!(!stream.carries_half_close());
    let error = stream.read_u8().await.unwrap_err();
    assert_eq!(refusal_of(&error).unwrap().kind, RefusalKind::Refused);
}
