//! Starting a helper and asking it, one request at a time.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::channel::Channel;
use crate::codec::encode;
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::message::{
    Call, Handshake, HelperError, HostsBlock, HostsReport, NetworkReport, NewInterface, NewResolver,
    ReleaseReport, Reply, Request, StatusReport, SweepReport, Token, UserEdit, VERSION, common_version,
};
use crate::sys::{self, Descriptor};

/// How a helper is started.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StartOptions {
    /// The program. `devbox` names itself, with a hidden first argument.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Whether the helper writes to this process's standard error. If `false`, what it wrote is only reported when it ends
    /// before its welcome. Its standard output is discarded.
    pub verbose: bool,
    /// How long a request may take until its reply: 30 s, well above the time the helper waits for a locked file. On Windows
    /// only the async client enforces it.
    pub reply_timeout: Duration,
}

impl StartOptions {
    /// A quiet helper with the default time limit.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            verbose: false,
            reply_timeout: REPLY_TIMEOUT,
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
/// What the helper did lasts as long as this value: when it is dropped, or when this process ends in any way, the helper
/// sees its stream end, undoes everything and exits. Dropping waits for that, at most 3 s.
#[derive(Debug)]
pub struct Client {
    // In this order: the channel is closed before the process is waited for.
    channel: Channel,
    process: HelperProcess,
    pid: u32,
    reply_timeout: Duration,
    last_id: u64,
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
    /// [`Error::Version`] when it speaks another version, [`Error::TimedOut`] when there is no welcome in time.
    pub fn start_with(options: &StartOptions) -> Result<Self, Error> {
        let (client, stderr) = Self::spawn(options, true)?;
        client.welcomed(stderr)
    }

    /// Connects to a helper that serves several callers, and waits for its welcome. What is asked of it lasts as long as the
    /// connection, or as [`Client::hold`] says.
    ///
    /// # Errors
    /// [`Error::Connect`] when none listens there, [`Error::Version`] when there is no version that both speak, [`Error::Helper`]
    /// when it refuses this user, [`Error::TimedOut`].
    pub fn connect(socket: impl AsRef<Path>) -> Result<Self, Error> {
        let socket = socket.as_ref();
        let channel = Channel::connect(socket).map_err(|source| Error::Connect {
            socket: socket.to_owned(),
            source,
        })?;
        Self::kept(channel, REPLY_TIMEOUT)
    }

    /// Runs the program, which has not said anything yet. Its standard error, if it has one of its own, is to be held until the
    /// welcome. What it writes later is lost, which the helper ignores.
    pub(crate) fn spawn(
        options: &StartOptions,
        wait_on_drop: bool,
    ) -> Result<(Self, Option<ChildStderr>), Error> {
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
        let stderr = child.stderr.take();
        let pid = child.id();
        let process = HelperProcess {
            child: Some(child),
            wait_on_drop,
        };
        let client = Self::of(Channel::new(writer, reader), process, pid, options.reply_timeout);
        Ok((client, stderr))
    }

    /// A client of a helper that is the child of another process.
    pub(crate) fn kept(channel: Channel, reply_timeout: Duration) -> Result<Self, Error> {
        let process = HelperProcess {
            child: None,
            wait_on_drop: false,
        };
        Self::of(channel, process, 0, reply_timeout).welcomed(None)
    }

    fn of(channel: Channel, process: HelperProcess, pid: u32, reply_timeout: Duration) -> Self {
        Self {
            channel,
            process,
            pid,
            reply_timeout,
            last_id: 0,
            usable: true,
        }
    }

    fn welcomed(mut self, stderr: Option<ChildStderr>) -> Result<Self, Error> {
        match self.shake_hands() {
            Ok(Handshake::Welcome { version, pid }) if common_version(version, version).is_some() => {
                self.pid = pid;
                Ok(self)
            }
            Ok(
                Handshake::Welcome { version: helper, .. }
                | Handshake::Error(HelperError::VersionMismatch { server: helper, .. }),
            ) => Err(Error::Version {
                ours: VERSION,
                helper,
            }),
            Ok(Handshake::Error(error)) => Err(error.into()),
            Ok(message @ Handshake::Hello { .. }) => Err(unexpected(&message)),
            Err(error) => Err(no_welcome(error, stderr)),
        }
    }

    /// The helper's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// This client with another time limit for its requests.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.reply_timeout = timeout;
        self
    }

    pub(crate) fn reply_timeout(&self) -> Duration {
        self.reply_timeout
    }

    /// Sends one request and waits for its reply.
    ///
    /// # Errors
    /// [`Error::Helper`] when the helper refuses or fails, [`Error::TimedOut`], and `TooLong` in [`Error::Frame`]: the
    /// client remains usable. [`Error::Ended`] when the helper is gone; any other error ends the client's use.
    pub fn request(&mut self, request: &Request) -> Result<Reply, Error> {
        self.ask(request).map(|(reply, _)| reply)
    }

    /// Makes this the caller's block, in place of the one before it.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn set_hosts(&mut self, block: HostsBlock) -> Result<HostsReport, Error> {
        hosts(self.request(&Request::SetHosts { block })?)
    }

    /// As [`Client::set_hosts`], and takes names from other sessions where they are asked for the first time.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn take_hosts(&mut self, block: HostsBlock) -> Result<HostsReport, Error> {
        hosts(self.request(&Request::TakeHosts { block })?)
    }

    /// Removes the caller's block.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn clear_hosts(&mut self) -> Result<HostsReport, Error> {
        hosts(self.request(&Request::ClearHosts)?)
    }

    /// Makes changes that a user asked for by hand. They are permanent.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn edit_hosts(&mut self, edits: Vec<UserEdit>) -> Result<HostsReport, Error> {
        hosts(self.request(&Request::EditHosts { edits })?)
    }

    /// Makes these bytes the whole file, as a user asked for by hand. They are permanent.
    ///
    /// # Errors
    /// As [`Client::request`]; [`Error::Frame`] for more than fits into a message, which is about 1 MB.
    pub fn restore_hosts(&mut self, content: Vec<u8>) -> Result<HostsReport, Error> {
        hosts(self.request(&Request::RestoreHosts { content })?)
    }

    /// Has the helper bind a listener, as for a port below 1024, and takes it over. It is in blocking mode.
    ///
    /// # Errors
    /// [`Error::Helper`] with [`HelperError::Bind`], which says why it could not be bound, or
    /// [`HelperError::Unsupported`] on Windows. Otherwise as [`Client::request`].
    pub fn bind(&mut self, endpoint: Endpoint) -> Result<TcpListener, Error> {
        bound(endpoint, self.ask(&Request::Bind { endpoint })?)
    }

    /// As [`Client::bind`], for a UDP port of this address.
    ///
    /// # Errors
    /// As [`Client::bind`].
    pub fn bind_udp(&mut self, address: SocketAddr) -> Result<UdpSocket, Error> {
        let endpoint = Endpoint::udp(address);
        bound_udp(endpoint, self.ask(&Request::Bind { endpoint })?)
    }

    /// Removes the blocks whose owners are dead.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn sweep(&mut self) -> Result<SweepReport, Error> {
        swept(self.request(&Request::Sweep)?)
    }

    /// Removes what sessions left that were killed together with their helper.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn clean_up(&mut self) -> Result<SweepReport, Error> {
        swept(self.request(&Request::CleanUp)?)
    }

    /// Undoes everything that was asked for.
    ///
    /// # Errors
    /// As [`Client::request`]. The helper tries again at the end of the stream.
    pub fn release(&mut self) -> Result<ReleaseReport, Error> {
        released(self.request(&Request::Release)?)
    }

    /// Makes all addresses of a prefix, as `10.107.0.0/16`, this machine's own.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn open_pool(&mut self, pool: impl Into<String>) -> Result<NetworkReport, Error> {
        let pool = pool.into();
        network(self.request(&Request::OpenPool { pool })?)
    }

    /// Claims addresses for this user, and adds those that no pool has made this machine's own: on an interface of the caller's, or
    /// on loopback.
    ///
    /// # Errors
    /// [`HelperError::Held`] where another user has one; then none is added. Otherwise as [`Client::request`].
    pub fn add_addresses(
        &mut self,
        addresses: Vec<String>,
        interface: Option<String>,
    ) -> Result<NetworkReport, Error> {
        network(self.request(&Request::AddAddresses { addresses, interface })?)
    }

    /// Takes addresses away that were added by this client.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn remove_addresses(
        &mut self,
        addresses: Vec<String>,
        interface: Option<String>,
    ) -> Result<NetworkReport, Error> {
        network(self.request(&Request::RemoveAddresses { addresses, interface })?)
    }

    /// Makes an interface.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn create_interface(&mut self, interface: NewInterface) -> Result<NetworkReport, Error> {
        network(self.request(&Request::CreateInterface { interface })?)
    }

    /// Removes an interface of this client's, and all that is on it.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn remove_interface(&mut self, name: impl Into<String>) -> Result<NetworkReport, Error> {
        let name = name.into();
        network(self.request(&Request::RemoveInterface { name })?)
    }

    /// The descriptor of a TUN interface of this client's.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn open_tun(&mut self, name: impl Into<String>) -> Result<Descriptor, Error> {
        let name = name.into();
        descriptor(self.ask(&Request::OpenTun { name })?)
    }

    /// Has names with some suffixes looked up at servers of this client's.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn set_resolver(&mut self, rule: NewResolver) -> Result<NetworkReport, Error> {
        network(self.request(&Request::SetResolver { rule })?)
    }

    /// Removes such a rule.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn clear_resolver(&mut self, rule: NewResolver) -> Result<NetworkReport, Error> {
        network(self.request(&Request::ClearResolver { rule })?)
    }

    /// Has the system forget what it has cached about names.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn flush(&mut self) -> Result<(), Error> {
        done(self.request(&Request::Flush)?)
    }

    /// What the helper holds.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn status(&mut self) -> Result<StatusReport, Error> {
        match self.request(&Request::Status)? {
            Reply::Status(report) => Ok(report),
            other => Err(unexpected(&other)),
        }
    }

    /// Lets what is held stay for a while after this client's connection is gone, however that ends, and returns what takes it over:
    /// [`Client::resume`]. The grace is at most [`MAX_GRACE`](crate::MAX_GRACE), and ends with a [`Client::release`].
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn hold(&mut self, grace: Duration) -> Result<Token, Error> {
        let grace_ms = u32::try_from(grace.as_millis()).unwrap_or(u32::MAX);
        match self.request(&Request::Hold { grace_ms })? {
            Reply::Held(token) => Ok(token),
            other => Err(unexpected(&other)),
        }
    }

    /// Takes over what a client of the same user held whose connection is gone. This one must not have asked for anything yet.
    ///
    /// # Errors
    /// [`HelperError::NoSuchClaim`] when the grace is over, among others. Otherwise as [`Client::request`].
    pub fn resume(&mut self, token: Token) -> Result<(), Error> {
        done(self.request(&Request::Resume { token })?)
    }

    /// Ends the stream and waits, however long it takes, until the helper has undone its work and exited. Its exit status
    /// is a failure when something could not be undone.
    ///
    /// # Errors
    /// [`Error::Channel`] when its end cannot be waited for, [`Error::Ended`] when that is for its [`Keeper`](crate::Keeper) to do.
    pub fn close(mut self) -> Result<ExitStatus, Error> {
        self.usable = false;
        self.channel.sender.finish();
        match &mut self.process.child {
            Some(child) => Ok(child.wait()?),
            None => Err(self.ended()),
        }
    }

    /// The parts, for another way of asking. From here on nothing that is dropped waits for the helper.
    #[cfg(feature = "tokio")]
    pub(crate) fn into_parts(mut self) -> Result<Parts, Error> {
        self.process.wait_on_drop = false;
        self.channel.wait_for_ever()?;
        Ok(Parts {
            channel: self.channel,
            process: self.process,
            reply_timeout: self.reply_timeout,
            last_id: self.last_id,
        })
    }

    fn shake_hands(&mut self) -> Result<Handshake, Error> {
        let hello = encode(&Handshake::hello())?;
        let deadline = self.deadline();
        match self.send(&hello, deadline) {
            // A helper that admits nobody says so before it closes its end, without waiting for a hello.
            Ok(()) | Err(Error::Ended { .. }) => {}
            Err(error) => return Err(error),
        }
        let received = self.channel.receiver.receive_before(deadline);
        self.received(received)
    }

    pub(crate) fn ask(&mut self, request: &Request) -> Result<Answer, Error> {
        if !self.usable {
            return Err(self.ended());
        }
        self.last_id += 1;
        let call = Call {
            id: self.last_id,
            request,
        };
        let frame = encode(&call)?;
        let deadline = self.deadline();
        let result = self
            .send(&frame, deadline)
            .and_then(|()| self.answer(call.id, deadline));
        match result {
            Ok((Reply::Error(error), _)) => Err(error.into()),
            Ok(answer) => Ok(answer),
            Err(error) => {
                self.usable = matches!(error, Error::TimedOut { .. });
                if !self.usable {
                    // The helper undoes its work and exits.
                    self.channel.sender.finish();
                }
                Err(error)
            }
        }
    }

    fn send(&mut self, frame: &[u8], deadline: Option<Instant>) -> Result<(), Error> {
        match self.channel.sender.send_frame(frame, None, deadline) {
            Ok(()) => Ok(()),
            // A write to a helper that is gone fails before the reader sees the end; both mean the same.
            Err(error) if is_gone(&error) => Err(self.ended()),
            Err(error) => Err(self.timed(error.into())),
        }
    }

    fn answer(&mut self, id: u64, deadline: Option<Instant>) -> Result<Answer, Error> {
        loop {
            let received = self.channel.receiver.receive_response_before(deadline);
            let (response, listener) = self.received(received)?;
            match response.id {
                Some(told) if told == id => return Ok((response.reply, listener)),
                // To a request that was given up.
                Some(told) if told < id => {}
                _ => return Err(unexpected(&response)),
            }
        }
    }

    fn received<T>(&mut self, received: Result<Option<T>, Error>) -> Result<T, Error> {
        match received {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(self.ended()),
            Err(error) => Err(self.timed(error)),
        }
    }

    fn timed(&self, error: Error) -> Error {
        match error {
            Error::Channel(error) if is_timeout(&error) => Error::TimedOut {
                after: self.reply_timeout,
            },
            error => error,
        }
    }

    /// `None` for a time limit beyond what a clock can tell.
    fn deadline(&self) -> Option<Instant> {
        Instant::now().checked_add(self.reply_timeout)
    }

    fn ended(&mut self) -> Error {
        Error::Ended {
            status: self.process.wait_briefly(),
        }
    }
}

/// A reply, and the listener that it announced.
pub(crate) type Answer = (Reply, Option<TcpListener>);

/// What a client consists of.
#[cfg(feature = "tokio")]
pub(crate) struct Parts {
    pub(crate) channel: Channel,
    pub(crate) process: HelperProcess,
    pub(crate) reply_timeout: Duration,
    pub(crate) last_id: u64,
}

/// The helper's process.
#[derive(Debug)]
pub(crate) struct HelperProcess {
    /// `None` where it is the child of another process.
    child: Option<Child>,
    /// Whether dropping it waits for its end, as is fine in blocking code only.
    wait_on_drop: bool,
}

impl HelperProcess {
    /// Reaps it after its stream has ended: its exit status, or `None` if it does not exit within [`END_WAIT`].
    pub(crate) fn wait_briefly(&mut self) -> Option<ExitStatus> {
        let child = self.child.as_mut()?;
        let deadline = Instant::now() + END_WAIT;
        loop {
            match child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < deadline => thread::sleep(END_POLL),
                Ok(None) | Err(_) => return None,
            }
        }
    }
}

impl Drop for HelperProcess {
    fn drop(&mut self) {
        // A courtesy: a helper that needs longer finishes without us.
        if self.wait_on_drop {
            self.wait_briefly();
        }
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

pub(crate) fn network(reply: Reply) -> Result<NetworkReport, Error> {
    match reply {
        Reply::Network(report) => Ok(report),
        other => Err(unexpected(&other)),
    }
}

pub(crate) fn done(reply: Reply) -> Result<(), Error> {
    match reply {
        Reply::Done => Ok(()),
        other => Err(unexpected(&other)),
    }
}

fn descriptor(answer: Answer) -> Result<Descriptor, Error> {
    match answer {
        (Reply::Bound, Some(passed)) => Ok(sys::descriptor(passed)?),
        (Reply::Bound, None) => Err(Error::Unexpected {
            reply: "bound, without the descriptor".into(),
        }),
        (other, _) => Err(unexpected(&other)),
    }
}

/// The listener, if it is what was asked for: a descriptor could be anything.
pub(crate) fn bound(endpoint: Endpoint, answer: Answer) -> Result<TcpListener, Error> {
    let (reply, listener) = answer;
    let what = match (reply, listener) {
        (Reply::Bound, Some(listener)) => match listener.local_addr() {
            Ok(address) if is_asked_for(endpoint, address) => return Ok(listener),
            Ok(address) => format!("a listener on {address} in place of {endpoint}"),
            Err(error) => format!("a descriptor that is no listener ({error})"),
        },
        (Reply::Bound, None) => "bound, without the listener".into(),
        (other, _) => return Err(unexpected(&other)),
    };
    Err(Error::Unexpected { reply: what })
}

pub(crate) fn bound_udp(endpoint: Endpoint, answer: Answer) -> Result<UdpSocket, Error> {
    let socket = sys::datagrams(bound(endpoint, answer)?);
    socket.map_err(|error| Error::Unexpected {
        reply: format!("a descriptor that is no UDP socket ({error})"),
    })
}

/// Port 0 lets the system choose.
fn is_asked_for(endpoint: Endpoint, address: SocketAddr) -> bool {
    address.ip() == endpoint.address && (endpoint.port == 0 || address.port() == endpoint.port)
}

/// An end before the welcome, with the reason that the process gave.
pub(crate) fn no_welcome(error: Error, stderr: Option<ChildStderr>) -> Error {
    match error {
        Error::Ended { status } => Error::NoWelcome {
            status,
            message: last_words(stderr, status),
        },
        error => error,
    }
}

/// What a process that has ended wrote to its standard error, as one line. Nothing is read from a process that may be alive:
/// that could block.
fn last_words(stderr: Option<ChildStderr>, status: Option<ExitStatus>) -> String {
    let mut words = Vec::new();
    if let (Some(stderr), Some(_)) = (stderr, status) {
        // What cannot be read stays unknown; the status is reported anyway.
        stderr.take(LAST_WORDS_BYTES).read_to_end(&mut words).ok();
    }
    let words = String::from_utf8_lossy(&words);
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

pub(crate) fn unexpected(message: &impl fmt::Debug) -> Error {
    Error::Unexpected {
        reply: format!("{message:?}"),
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
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
const END_WAIT: Duration = Duration::from_secs(3);
const END_POLL: Duration = Duration::from_millis(2);
