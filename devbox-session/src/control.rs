//! How one terminal talks to a session in another: a line of JSON asks, lines of JSON answer.
//!
//! | request | answer |
//! |---|---|
//! | `{"request":"status"}` | one report |
//! | `{"request":"watch"}` | a report now and after each change, until either side closes |
//! | `{"request":"stop","by":"…"}` | `{"stopping":true}`; the end of the stream says that all is undone |
//! | `{"request":"displace","by":"…"}` | the same |
//!
//! Whoever serves this sees to it that only the session's own user can connect.

use std::io;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

use crate::driver::Handle;
use crate::report::StatusReport;
use crate::step::StopReason;

/// A request is short; a longer line is none.
const MAX_REQUEST_BYTES: u64 = 4 * 1024;
/// A report of 10,000 services fits.
const MAX_REPORT_BYTES: u64 = 64 * 1024 * 1024;

/// What can be asked of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "request")]
pub enum Request {
    /// The session as it stands.
    Status,
    /// The same, and again after each change.
    Watch,
    /// End.
    Stop {
        /// Who asks, for the session's own words.
        by: String,
    },
    /// Make room for a newer session.
    Displace {
        /// The newer session.
        by: String,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct Stopping {
    stopping: bool,
}

/// Answers one connection of the control socket.
///
/// # Errors
///
/// Those of the stream, and [`io::ErrorKind::InvalidData`] for a line that is no request.
///
/// # Cancel safety
///
/// May be dropped; the other side sees the stream end.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(stream: S, session: &Handle) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    (&mut stream).take(MAX_REQUEST_BYTES).read_line(&mut line).await?;
    match serde_json::from_str(&line)? {
        Request::Status => {
            if let Some(report) = session.status().await {
                send(&mut stream, &report).await?;
            }
        }
        Request::Watch => watch(stream, session).await?,
        Request::Stop { by } => stop(stream, session, StopReason::Requested { by }).await?,
        Request::Displace { by } => stop(stream, session, StopReason::Displaced { by }).await?,
    }
    Ok(())
}

async fn watch<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: BufReader<S>,
    session: &Handle,
) -> io::Result<()> {
    let mut reports = session.reports();
    let mut nothing = [0];
    loop {
        let report = reports.borrow_and_update().clone();
        if let Some(report) = report {
            send(&mut stream, &report).await?;
        }
        tokio::select! {
            changed = reports.changed() => if changed.is_err() { return Ok(()) },
            // The other side says nothing more: what can be read is its end.
            _ = stream.read(&mut nothing) => return Ok(()),
        }
    }
}

/// Stops the session and keeps the stream until it has ended: its end is the answer.
async fn stop<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: BufReader<S>,
    session: &Handle,
    reason: StopReason,
) -> io::Result<()> {
    send(&mut stream, &Stopping { stopping: true }).await?;
    session.stop(reason).await;
    let mut reports = session.reports();
    while reports.changed().await.is_ok() {}
    Ok(())
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    stream.flush().await
}

/// The asking side of a control connection.
#[derive(Debug)]
pub struct Asking<S> {
    stream: BufReader<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Asking<S> {
    /// Asks over a stream that is connected to a session.
    ///
    /// # Errors
    ///
    /// Those of the stream.
    ///
    /// # Cancel safety
    ///
    /// Not safe: half a request may have been written.
    pub async fn ask(mut stream: S, request: &Request) -> io::Result<Self> {
        send(&mut stream, request).await?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// The next report; `None` at the end.
    ///
    /// # Errors
    ///
    /// Those of the stream, and [`io::ErrorKind::InvalidData`] for an answer of another version.
    ///
    /// # Cancel safety
    ///
    /// Not safe: half a line may have been read.
    pub async fn report(&mut self) -> io::Result<Option<StatusReport>> {
        let mut line = String::new();
        (&mut self.stream)
            .take(MAX_REPORT_BYTES)
            .read_line(&mut line)
            .await?;
        if line.is_empty() {
            return Ok(None);
        }
        Ok(Some(serde_json::from_str(&line)?))
    }

    /// Waits until the session has ended.
    ///
    /// # Errors
    ///
    /// Those of the stream.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn ended(&mut self) -> io::Result<()> {
        let mut sink = [0; 256];
        while self.stream.read(&mut sink).await? > 0 {}
        Ok(())
    }
}
