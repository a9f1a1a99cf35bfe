//! Starting a helper and asking it, one request at a time.

use std::ffi::OsString;
use std::io::{self, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::channel::Channel;
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::message::{
    HelperError, HostsBlock, HostsReport, ReleaseReport, Reply, Request, SweepReport, UserEdit, VERSION,
};
use crate::sys;

/// How a helper is started.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StartOptions {
    /// The program; with the `devbox` command, the same program that runs already.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Whether its standard error is ours; `false`: it is read only when there is no welcome. Its standard output never is.
    pub verbose: bool,
    /// How long one answer may take: 30 s, well above what the helper waits for a locked file. Not kept on Windows.
    pub reply_timeout: Duration,
}

impl StartOptions {
    /// A quiet helper with the default time limits.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        let reply_timeout = Duration::from_secs(30);
        Self {
            program: program.into(),
            args: Vec::new(),
            verbose: false,
            reply_timeout,
        }
    }

    /// Appends arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item: Into<OsString>>>(mut self, args: I) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets [`StartOptions::verbose`].
    #[must_use]
    pub fn verbose(mut self, verbose: bool) -> Self {
        self.verbose = verbose;
        self
    }
}

/// A running helper and the channel to it.
///
/// What it did lasts as long as this value: when it is dropped, or this process ends in any way, the helper sees its
/// stream end, undoes everything and exits. Dropping waits for that, at most 3 s.
#[derive(Debug)]
pub struct Client {
    // In this order: the channel is closed before the process is waited for.
    channel: Channel,
    process: HelperProcess,
    pid: u32,
    reply_timeout: Duration,
    usable: bool,
}

impl Client {
    /// Starts a helper quietly and waits for its welcome.
    ///
    /// # Errors
    /// As [`Client::start_with`].
    pub fn start<I: IntoIterator<Item: Into<OsString>>>(
        program: impl AsRef<Path>,
        args: I,
    ) -> Result<Self, Error> {
        Self::start_with(&StartOptions::new(program.as_ref()).args(args))
    }

    /// Starts a helper and waits for its welcome.
    ///
    /// # Errors
    /// [`Error::Start`] when the program cannot be run, [`Error::NoWelcome`] when it ends without a welcome,
    /// [`Error::Version`] when it speaks another version, [`Error::TimedOut`] when it says nothing.
    pub fn start_with(options: &StartOptions) -> Result<Self, Error> {
        let mut command = Command::new(&options.program);
        command.args(&options.args);
        command.stderr(if options.verbose {
            Stdio::inherit()
        } else {
            Stdio::piped()
        });
        let (mut child, writer, reader) = sys::spawn(&mut command).map_err(|source| Error::Start {
            program: options.program.clone(),
            source,
        })?;
        // Held until the welcome; what the helper says later goes nowhere, and that is no error to it.
        let stderr = child.stderr.take();
        let mut client = Self {
            channel: Channel::new(writer, reader),
            pid: child.id(),
            process: HelperProcess(child),
            reply_timeout: options.reply_timeout,
            usable: true,
        };
        client.channel.receiver.set_timeout(Some(options.reply_timeout))?;
        match client.request(&Request::Hello { version: VERSION }) {
            Ok(Reply::Welcome {
                version: VERSION,
                pid,
            }) => {
                client.pid = pid;
                Ok(client)
            }
            Ok(Reply::Welcome { version: helper, .. })
            | Err(Error::Helper(HelperError::VersionMismatch { server: helper, .. })) => {
                Err(Error::Version {
                    ours: VERSION,
                    helper,
                })
            }
            Ok(reply) => Err(unexpected(&reply)),
            Err(Error::Ended { status }) => Err(Error::NoWelcome {
                status,
                message: last_words(stderr, status),
            }),
            Err(error) => Err(error),
        }
    }

    /// The helper's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends one request and waits for its answer; an answer that says no is an error.
    ///
    /// # Errors
    /// [`Error::Helper`] when the helper says no: it can be asked further. [`Error::Ended`] when it is gone,
    /// [`Error::TimedOut`], [`Error::Frame`].
    pub fn request(&mut self, request: &Request) -> Result<Reply, Error> {
        if !self.usable {
            return Err(self.ended());
        }
        match self.ask(request) {
            Ok(Reply::Error(error)) => Err(error.into()),
            Ok(reply) => Ok(reply),
            // Nothing was sent, so nothing is out of step.
            Err(error @ Error::Frame(crate::FrameError::TooLong { .. })) => Err(error),
            Err(error) => {
                self.usable = false;
                Err(error)
            }
        }
    }

    /// Makes this the caller's block.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn set_hosts(&mut self, block: HostsBlock) -> Result<HostsReport, Error> {
        hosts(self.request(&Request::SetHosts { block })?)
    }

    /// Removes the caller's block.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn clear_hosts(&mut self) -> Result<HostsReport, Error> {
        hosts(self.request(&Request::ClearHosts)?)
    }

    /// Changes that a user asked for by hand; they stay.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn edit_hosts(&mut self, edits: Vec<UserEdit>) -> Result<HostsReport, Error> {
        hosts(self.request(&Request::EditHosts { edits })?)
    }

    /// Makes these bytes the whole file, as a user asked for by hand; they stay.
    ///
    /// # Errors
    /// As [`Client::request`]; [`Error::Frame`] for more than fits into a message, which is about 1 MB.
    pub fn restore_hosts(&mut self, content: Vec<u8>) -> Result<HostsReport, Error> {
        hosts(self.request(&Request::RestoreHosts { content })?)
    }

    /// Has the helper bind a listener, as for a port below 1024, and takes it over.
    ///
    /// # Errors
    /// [`HelperError::Bind`] in [`Error::Helper`] says why it could not be bound; `Unsupported` on Windows. Else as
    /// [`Client::request`].
    pub fn bind(&mut self, endpoint: Endpoint) -> Result<TcpListener, Error> {
        let reply = self.request(&Request::Bind { endpoint })?;
        bound(&reply, self.channel.receiver.take_listener())
    }

    /// Removes the blocks of owners that live no longer.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn sweep(&mut self) -> Result<SweepReport, Error> {
        swept(self.request(&Request::Sweep)?)
    }

    /// Undoes everything that was asked for.
    ///
    /// # Errors
    /// As [`Client::request`]. The helper tries again when the stream ends.
    pub fn release(&mut self) -> Result<ReleaseReport, Error> {
        released(self.request(&Request::Release)?)
    }

    /// Ends the stream and waits until the helper has undone its work and gone. Its exit status is a failure when
    /// something could not be undone.
    ///
    /// # Errors
    /// [`Error::Channel`] when its end cannot be waited for.
    pub fn close(mut self) -> Result<ExitStatus, Error> {
        self.usable = false;
        self.channel.sender.finish();
        Ok(self.process.0.wait()?)
    }

    /// The parts, for another way of asking.
    #[cfg(feature = "tokio")]
    pub(crate) fn into_parts(self) -> Result<(Channel, HelperProcess), Error> {
        self.channel.receiver.set_timeout(None)?;
        Ok((self.channel, self.process))
    }

    fn ask(&mut self, request: &Request) -> Result<Reply, Error> {
        // A write to a helper that is gone fails before the reader sees the end; both mean the same.
        let sent = match self.channel.sender.send(request) {
            Err(Error::Channel(error)) if is_gone(&error) => return Err(self.ended()),
            other => other,
        };
        sent?;
        match self.channel.receiver.receive() {
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => Err(self.ended()),
            Err(Error::Channel(error)) if is_timeout(&error) => Err(Error::TimedOut {
                after: self.reply_timeout,
            }),
            Err(error) => Err(error),
        }
    }

    fn ended(&mut self) -> Error {
        Error::Ended {
            status: self.process.wait_briefly(),
        }
    }
}

/// The helper's process, which is reaped when this is dropped.
#[derive(Debug)]
pub(crate) struct HelperProcess(Child);

impl HelperProcess {
    /// Its end, for which the stream's end was the sign: within [`END_WAIT`], or `None`.
    pub(crate) fn wait_briefly(&mut self) -> Option<ExitStatus> {
        let deadline = Instant::now() + END_WAIT;
        loop {
            match self.0.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < deadline => thread::sleep(END_POLL),
                Ok(None) | Err(_) => return None,
            }
        }
    }
}

impl Drop for HelperProcess {
    fn drop(&mut self) {
        // A courtesy: a helper that takes longer goes on without us.
        self.wait_briefly();
    }
}

pub(crate) fn hosts(reply: Reply) -> Result<HostsReport, Error> {
    match reply {
        Reply::Hosts(report) => Ok(report),
        other => Err(unexpected(&other)),
    }
}

pub(crate) fn swept(reply: Reply) -> Result<SweepReport, Error> {
    match reply {
        Reply::Swept(report) => Ok(report),
        other => Err(unexpected(&other)),
    }
}

pub(crate) fn released(reply: Reply) -> Result<ReleaseReport, Error> {
    match reply {
        Reply::Released(report) => Ok(report),
        other => Err(unexpected(&other)),
    }
}

pub(crate) fn bound(reply: &Reply, listener: Option<TcpListener>) -> Result<TcpListener, Error> {
    match (reply, listener) {
        (Reply::Bound, Some(listener)) => Ok(listener),
        (Reply::Bound, None) => Err(Error::Unexpected {
            reply: "bound, without the listener".into(),
        }),
        (other, _) => Err(unexpected(other)),
    }
}

/// What a process that has ended wrote to its standard error, in one line. Nothing is read from one that may live.
fn last_words(stderr: Option<ChildStderr>, status: Option<ExitStatus>) -> String {
    let mut words = Vec::new();
    if let (Some(stderr), Some(_)) = (stderr, status) {
        // What could not be read is not known; the status says the rest.
        stderr.take(LAST_WORDS_BYTES).read_to_end(&mut words).ok();
    }
    let words = String::from_utf8_lossy(&words);
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn unexpected(reply: &Reply) -> Error {
    Error::Unexpected {
        reply: format!("{reply:?}"),
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

const LAST_WORDS_BYTES: u64 = 4096;
const END_WAIT: Duration = Duration::from_secs(3);
const END_POLL: Duration = Duration::from_millis(2);
