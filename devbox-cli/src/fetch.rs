//! The demo's client: a program of its own, started with a hidden first argument, that knows nothing but a URL. What it
//! resolves and where it connects is left to the system, as with every other program.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use url::Url;

/// The hidden first argument.
pub(crate) const ARGUMENT: &str = "__fetch";
/// For how long each step may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fetched {
    /// What the name resolved to.
    pub(crate) address: SocketAddr,
    /// Bytes of the answer's body.
    pub(crate) bytes: u64,
    /// From before the name was looked up until the last byte.
    pub(crate) micros: u64,
    /// The answer's first line.
    pub(crate) first_line: String,
}

/// `__fetch REPORT-TO URL [ADDRESS]`: fetches and tells the outcome, as JSON, to whoever listens at the first argument:
/// the standard streams belong to the user. With an address the name is not looked up.
pub(crate) fn enter(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<_> = arguments
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let [report_to, url, rest @ ..] = arguments.as_slice() else {
        return ExitCode::from(1);
    };
    let outcome = fetch(url, rest.first().map(String::as_str)).map_err(|error| format!("{error:#}"));
    let told = TcpStream::connect(report_to).and_then(|stream| Ok(serde_json::to_writer(stream, &outcome)?));
    if told.is_ok() && outcome.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    }
}

fn fetch(url: &str, address: Option<&str>) -> anyhow::Result<Fetched> {
    let url: Url = url.parse()?;
    let name = url.host_str().context("a URL without a host")?;
    let port = url.port_or_known_default().context("a URL without a port")?;
    let start = Instant::now();
    let address = match address {
        Some(address) => address.parse().context("not an address")?,
        None => (name, port)
            .to_socket_addrs()
            .with_context(|| format!("{name} does not resolve"))?
            .next()
            .with_context(|| format!("{name} has no address"))?,
    };
    let stream =
        TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("connecting to {address}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (first_line, bytes) = match url.scheme() {
        "http" => http(&stream, &url)?,
        _ => echo(&stream)?,
    };
    let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    Ok(Fetched {
        address,
        bytes,
        micros,
        first_line,
    })
}

/// One GET; the answer ends with the connection.
fn http(mut stream: &TcpStream, url: &Url) -> anyhow::Result<(String, u64)> {
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
    write!(
        stream,
        "GET {} HTTP/1.1\r\nHost: {host}{port}\r\nConnection: close\r\n\r\n",
        url.path()
    )?;
    let mut answer = BufReader::new(stream);
    let mut status = String::new();
    answer.read_line(&mut status)?;
    if status.split_ascii_whitespace().nth(1) != Some("200") {
        bail!("the service answered `{}`", status.trim());
    }
    let mut line = String::new();
    while answer.read_line(&mut line)? > 0 && !line.trim().is_empty() {
        line.clear();
    }
    let mut body = Vec::new();
    answer.read_to_end(&mut body)?;
    let first = String::from_utf8_lossy(&body)
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned();
    Ok((first, body.len() as u64))
}

/// One line there and back.
fn echo(mut stream: &TcpStream) -> anyhow::Result<(String, u64)> {
    const LINE: &str = "is anybody there?\n";
    stream.write_all(LINE.as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    if answer != LINE {
        bail!("the echo answered `{}`", answer.trim());
    }
    Ok((answer.trim().to_owned(), answer.len() as u64))
}
