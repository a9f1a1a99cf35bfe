//! Two small real services on loopback, for `devbox demo` and for tests: an HTTP server and a line echo.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use catalog_file::{Error, StaticCatalog};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// The page that the HTTP service answers.
pub const PAGE: &str =
    "Hello from devbox.\nThis page came through the tunnel, from a service that has a name of its own.\n";

/// The HTTP service's usual port.
pub const WEB_PORT: NonZeroU16 = NonZeroU16::new(8080).unwrap();

/// The line echo's usual port: above 1023, so that everybody may bind it.
pub const ECHO_PORT: NonZeroU16 = NonZeroU16::new(7007).unwrap();

const MAX_CONNECTIONS: usize = 256;
const MAX_HEAD_BYTES: usize = 16 * 1024;
const MAX_LINE_BYTES: u64 = 64 * 1024;
const IDLE: Duration = Duration::from_secs(30);

/// The services, which run until this is dropped.
#[derive(Debug)]
pub struct DemoServices {
    web: SocketAddr,
    echo: SocketAddr,
    _tasks: JoinSet<()>,
}

/// Starts both on ports of the system's choice on 127.0.0.1.
///
/// # Errors
/// What the system says to the two sockets.
///
/// # Cancel safety
/// Safe: dropped, nothing is left.
pub async fn start() -> io::Result<DemoServices> {
    let web = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let echo = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let (web_address, echo_address) = (web.local_addr()?, echo.local_addr()?);
    let mut tasks = JoinSet::new();
    tasks.spawn(serve(web, answer_http));
    tasks.spawn(serve(echo, echo_lines));
    Ok(DemoServices {
        web: web_address,
        echo: echo_address,
        _tasks: tasks,
    })
}

impl DemoServices {
    /// Where the HTTP server listens: it answers `GET /` with [`PAGE`].
    #[must_use]
    pub fn web(&self) -> SocketAddr {
        self.web
    }

    /// Where the line echo listens.
    #[must_use]
    pub fn echo(&self) -> SocketAddr {
        self.echo
    }

    /// The environment `demo` with the services `web.demo` and `echo.demo` at these ports, usually [`WEB_PORT`] and
    /// [`ECHO_PORT`].
    ///
    /// # Errors
    /// None is known: the names are fixed.
    pub fn catalog(&self, web: NonZeroU16, echo: NonZeroU16) -> Result<StaticCatalog, Error> {
        let mut catalog = StaticCatalog::new("demo".parse()?);
        for (service, name, port, address) in [
            ("web.demo", "http", web, self.web),
            ("echo.demo", "echo", echo, self.echo),
        ] {
            catalog.add(service.parse()?, Some(name.parse()?), port, address.try_into()?)?;
        }
        Ok(catalog)
    }
}

async fn serve<F>(listener: TcpListener, answer: fn(TcpStream) -> F)
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "demo service cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        connections.spawn(async move {
            let _permit = permit;
            if let Err(error) = answer(stream).await {
                tracing::debug!(%error, "demo connection");
            }
        });
    }
}

/// Answers one request of HTTP/1.0 or 1.1 and closes (RFC 9112 §9.6).
async fn answer_http(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut head = Vec::new();
    let read = timeout(IDLE, async {
        let mut reader = BufReader::new((&mut stream).take(MAX_HEAD_BYTES as u64));
        // The head ends with an empty line; lines may end in a bare LF (RFC 9112 §2.2).
        loop {
            let before = head.len();
            reader.read_until(b'\n', &mut head).await?;
            if before == head.len() || (before > 0 && matches!(&head[before..], b"\r\n" | b"\n")) {
                return io::Result::Ok(());
            }
        }
    });
    read.await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    if head.is_empty() {
        return Ok(());
    }
    stream.write_all(&response(&head)).await?;
    stream.shutdown().await?;
    // What the client still sends is read for a moment, so that our close is a FIN and no reset that would take the
    // answer with it (RFC 9112 §9.6).
    let mut rest = [0; 4096];
    let drained = timeout(Duration::from_secs(1), async {
        while stream.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    });
    drained.await.unwrap_or(Ok(()))
}

fn response(head: &[u8]) -> Vec<u8> {
    let whole = head.ends_with(b"\n\r\n") || head.ends_with(b"\n\n");
    let text = String::from_utf8_lossy(head);
    let mut lines = text.lines();
    let mut parts = lines.next().unwrap_or_default().split(' ');
    let (method, target, version) = (parts.next(), parts.next(), parts.next());
    // A request of HTTP/1.1 without Host is a bad one (RFC 9112 §3.2).
    let is_host = |line: &str| {
        line.split(':')
            .next()
            .is_some_and(|name| name.eq_ignore_ascii_case("host"))
    };
    let fits = match version {
        Some("HTTP/1.1") => lines.any(is_host),
        Some("HTTP/1.0") => true,
        _ => false,
    };
    let (status, allow, body) = match (method, target) {
        (Some(method), Some(target)) if whole && fits && parts.next().is_none() => {
            match (method, path_of(target)) {
                ("GET" | "HEAD", "/") => ("200 OK", "", PAGE),
                ("GET" | "HEAD", _) => ("404 Not Found", "", "There is only / here.\n"),
                _ => (
                    "405 Method Not Allowed",
                    "Allow: GET, HEAD\r\n",
                    "Only GET and HEAD are answered here.\n",
                ),
            }
        }
        _ => ("400 Bad Request", "", "This is not a request of HTTP/1.1.\n"),
    };
    let mut response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n{allow}Connection: close\r\n\r\n",
        body.len()
    );
    if method != Some("HEAD") {
        response.push_str(body);
    }
    response.into_bytes()
}

/// The path in a request's target, which may be a whole address (RFC 9112 §3.2.2).
fn path_of(target: &str) -> &str {
    let path = match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => target,
    };
    path.split('?').next().unwrap_or_default()
}

/// Sends each line back as soon as it is whole, and the rest at the end; its own end follows the client's.
async fn echo_lines(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        // A longer line comes back in pieces.
        if (&mut reader)
            .take(MAX_LINE_BYTES)
            .read_until(b'\n', &mut line)
            .await?
            == 0
        {
            return writer.shutdown().await;
        }
        writer.write_all(&line).await?;
    }
}
