//! How one terminal talks to a session in another: lines of JSON each way.
//!
//! The side that asks begins with the versions that it speaks, and the session answers with the one that it chose:
//!
//! ```text
//! {"hello":{"min":1,"max":1,"program":"devbox 0.1.0"}}
//! {"hello":{"version":1,"program":"devbox 0.2.0"}}        or {"refused":{"min":2,"max":3,"program":"devbox 1.0.0"}}
//! ```
//!
//! Then, one after the other:
//!
//! | request | answer |
//! |---|---|
//! | `{"request":"status"}` | `{"report":{…}}` |
//! | `{"request":"watch"}` | a report now and after each change, until either side closes |
//! | `{"request":"stop","by":"…"}` | `{"stopping":true}`; the end of the stream says that all is undone |
//! | `{"request":"displace","by":"…"}` | the same |
//!
//! Programs of before version 1 send a request at once, without a hello. `stop` and `displace` of theirs are carried out,
//! so that any two versions can make room for each other; the rest is refused.
//!
//! Whoever serves this must see to it that only the session's own user can connect.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::time::timeout;

use crate::handle::Handle;
use crate::report::StatusReport;
use crate::settings::StopReason;

/// The oldest and the newest version that this program speaks.
pub const VERSIONS: (u32, u32) = (1, 1);

/// How long the other side may take to say what it wants, and to take what it asked for: one that hangs is hung up on.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request is short; a longer line is none.
const MAX_REQUEST_BYTES: u64 = 4 * 1024;
/// A report of 10,000 services fits.
const MAX_REPORT_BYTES: u64 = 64 * 1024 * 1024;

/// What can be asked of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "request")]
enum Request {
    Status,
    Watch,
    Stop { by: String },
    Displace { by: String },
}

/// A line of the side that asks.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Asked {
    Hello { hello: Speaks },
    Request(Request),
}

/// A line of the session.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Hello(Chosen),
    Refused(Speaks),
    Report(Box<StatusReport>),
    Stopping(bool),
}

/// The versions that a program speaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Speaks {
    /// The oldest.
    pub min: u32,
    /// The newest.
    pub max: u32,
    /// What the program calls itself.
    pub program: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Chosen {
    version: u32,
    program: String,
}

#[derive(Debug, Serialize)]
struct Hello {
    hello: Speaks,
}

impl Speaks {
    fn ours() -> Self {
        Self {
            min: VERSIONS.0,
            max: VERSIONS.1,
            program: program(),
        }
    }
}

fn program() -> String {
    concat!("devbox ", env!("CARGO_PKG_VERSION")).to_owned()
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
    let first = timeout(PATIENCE, read::<Asked, _>(&mut stream, MAX_REQUEST_BYTES)).await??;
    let Some(first) = first else {
        return Ok(());
    };
    let speaks = match first {
        Asked::Hello { hello } => hello,
        Asked::Request(Request::Stop { by }) => return stop(stream, session, requested(by)).await,
        Asked::Request(Request::Displace { by }) => return stop(stream, session, displaced(by)).await,
        Asked::Request(Request::Status | Request::Watch) => {
            return send(&mut stream, &Answer::Refused(Speaks::ours())).await;
        }
    };
    let version = speaks.max.min(VERSIONS.1);
    if version < speaks.min.max(VERSIONS.0) {
        return send(&mut stream, &Answer::Refused(Speaks::ours())).await;
    }
    let chosen = Chosen {
        version,
        program: program(),
    };
    send(&mut stream, &Answer::Hello(chosen)).await?;
    while let Some(request) = read(&mut stream, MAX_REQUEST_BYTES).await? {
        match request {
            Request::Status => {
                let Some(report) = session.status().await else {
                    return Ok(());
                };
                send(&mut stream, &Answer::Report(Box::new(report))).await?;
            }
            Request::Watch => return watch(stream, session).await,
            Request::Stop { by } => return stop(stream, session, requested(by)).await,
            Request::Displace { by } => return stop(stream, session, displaced(by)).await,
        }
    }
    Ok(())
}

fn requested(by: String) -> StopReason {
    StopReason::Requested { by }
}

fn displaced(by: String) -> StopReason {
    StopReason::Displaced { by }
}

async fn watch<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: BufReader<S>,
    session: &Handle,
) -> io::Result<()> {
    let mut changes = session.changes();
    let mut nothing = [0];
    loop {
        tokio::select! {
            report = changes.next() => match report {
                Some(report) => send(&mut stream, &Answer::Report(Box::new(report))).await?,
                None => return Ok(()),
            },
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
    session.stop(reason).await;
    send(&mut stream, &Answer::Stopping(true)).await?;
    session.ended().await;
    Ok(())
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    timeout(PATIENCE, async {
        stream.write_all(&line).await?;
        stream.flush().await
    })
    .await?
}

/// The next line; `None` at the end of the stream.
async fn read<T, S>(stream: &mut BufReader<S>, limit: u64) -> io::Result<Option<T>>
where
    T: for<'de> Deserialize<'de>,
    S: AsyncRead + Unpin,
{
    let mut line = String::new();
    if (&mut *stream).take(limit).read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_str(&line)?))
}

/// Why a session cannot be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// The stream failed.
    #[error("the control connection failed")]
    Io(#[from] io::Error),
    /// The session's program and this one have no version in common.
    #[error("{} runs this session, and it speaks versions {} to {} of the control protocol", .theirs.program, .theirs.min, .theirs.max)]
    Version {
        /// What it speaks.
        theirs: Speaks,
    },
    /// A devbox from before the control protocol had versions runs the session. It can be asked to end, over a new
    /// connection with [`Asking::connect_old`], and nothing else.
    #[error("an older devbox runs this session; it can be ended, but not shown")]
    Older,
    /// The session hung up: it is ending.
    #[error("the session is ending")]
    Ended,
}

/// The asking side of a control connection.
///
/// A session that is being asked to stop keeps the stream open until everything is undone: see [`Asking::ended`].
#[derive(Debug)]
pub struct Asking<S> {
    stream: BufReader<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Asking<S> {
    /// Says hello over a stream that is connected to a session.
    ///
    /// # Errors
    ///
    /// [`AskError`].
    ///
    /// # Cancel safety
    ///
    /// Not safe: half a line may have been written.
    pub async fn connect(stream: S) -> Result<Self, AskError> {
        let mut asking = Self::connect_old(stream);
        let hello = Hello {
            hello: Speaks::ours(),
        };
        send(&mut asking.stream, &hello).await?;
        match asking.answer().await {
            Ok(Answer::Hello(_)) => Ok(asking),
            Ok(Answer::Refused(theirs)) => Err(AskError::Version { theirs }),
            // Whoever does not know a hello hangs up.
            Ok(_) | Err(AskError::Ended) => Err(AskError::Older),
            Err(error) => Err(error),
        }
    }

    /// A connection to a session from before version 1, which knows no hello. Only [`stop`](Asking::stop) and
    /// [`displace`](Asking::displace) mean something to it.
    pub fn connect_old(stream: S) -> Self {
        Self {
            stream: BufReader::new(stream),
        }
    }

    /// The session's state.
    ///
    /// # Errors
    ///
    /// [`AskError`]; [`AskError::Ended`] where the session has ended.
    ///
    /// # Cancel safety
    ///
    /// Not safe: half a line may have been written or read.
    pub async fn status(&mut self) -> Result<StatusReport, AskError> {
        send(&mut self.stream, &Request::Status).await?;
        self.next_report().await
    }

    /// Follows the session: [`Asking::next_report`] gives its state now and after each change.
    ///
    /// # Errors
    ///
    /// Those of the stream.
    ///
    /// # Cancel safety
    ///
    /// Not safe: half a line may have been written.
    pub async fn watch(&mut self) -> Result<(), AskError> {
        Ok(send(&mut self.stream, &Request::Watch).await?)
    }

    /// The next report of a session that is followed.
    ///
    /// # Errors
    ///
    /// [`AskError`]; [`AskError::Ended`] where the session has ended.
    ///
    /// # Cancel safety
    ///
    /// Not safe: half a line may have been read.
    pub async fn next_report(&mut self) -> Result<StatusReport, AskError> {
        match self.answer().await? {
            Answer::Report(report) => Ok(*report),
            Answer::Refused(theirs) => Err(AskError::Version { theirs }),
            Answer::Hello(_) | Answer::Stopping(_) => Err(AskError::Ended),
        }
    }

    /// Asks the session to end. `by` is for its own words.
    ///
    /// # Errors
    ///
    /// Those of the stream.
    ///
    /// # Cancel safety
    ///
    /// Not safe: half a line may have been written.
    pub async fn stop(&mut self, by: &str) -> Result<(), AskError> {
        let request = Request::Stop { by: by.to_owned() };
        Ok(send(&mut self.stream, &request).await?)
    }

    /// Asks the session to make room for a newer one. `by` names that one.
    ///
    /// # Errors
    ///
    /// Those of the stream.
    ///
    /// # Cancel safety
    ///
    /// Not safe: half a line may have been written.
    pub async fn displace(&mut self, by: &str) -> Result<(), AskError> {
        let request = Request::Displace { by: by.to_owned() };
        Ok(send(&mut self.stream, &request).await?)
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

    async fn answer(&mut self) -> Result<Answer, AskError> {
        match read(&mut self.stream, MAX_REPORT_BYTES).await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(AskError::Ended),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Err(AskError::Ended),
            Err(error) => Err(error.into()),
        }
    }
}
