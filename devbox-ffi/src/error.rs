//! Failures for other languages: one enum, whose variants are the stable codes and whose fields are the facts.

mod addresses;
mod cluster;
mod connect;
mod far_side;
mod helper;
mod hosts;
mod scope;
mod stop;

use std::error::Error as StdError;
use std::io;
use std::path::Path;
use std::time::Duration;

use devbox_engine as engine;
use devbox_provider::with_causes;
use nameserver::ServerError;

pub use addresses::LineFault;
pub use cluster::ClusterFailure;
pub use connect::ConnectFailure;
use far_side::{catalog, token};
pub use helper::HelperFailure;
pub use hosts::HostsFailure;
pub use stop::{PublishFailure, StopReason};

/// What can go wrong. The variant is the code that a program decides on; it keeps its meaning from one version to the next. A
/// `reason` is for people alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, uniffi::Error)]
#[non_exhaustive]
pub enum DevboxError {
    /// A value of the configuration, or an argument, means nothing.
    #[error("`{key}` cannot be `{value}`: {reason}")]
    Config {
        /// The key or the argument.
        key: String,
        /// What was given; empty where it is a secret.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The YAML text of a configuration cannot be read.
    #[error("the configuration cannot be read: {reason}")]
    ConfigText {
        /// The line, counted from 1.
        line: Option<u64>,
        /// The column, counted from 1.
        column: Option<u64>,
        /// What is wrong there.
        reason: String,
    },
    /// The configuration has no provider.
    #[error("no provider is configured")]
    NoProvider,
    /// Two providers have the same name.
    #[error("two providers are called `{name}`")]
    DuplicateProvider {
        /// The name.
        name: String,
    },
    /// No provider has this name.
    #[error("there is no provider `{name}`")]
    UnknownProvider {
        /// The name.
        name: String,
    },
    /// The URL of a gateway is not one of a gateway.
    #[error("`{url}` is not the address of a gateway")]
    GatewayUrl {
        /// What was given.
        url: String,
    },
    /// The token would be readable on its way to another machine.
    #[error("the token is not sent over {url}: anyone on the way could read it")]
    InsecureGateway {
        /// The gateway.
        url: String,
        /// The proxy on another machine that it would go through, without credentials.
        proxy: Option<String>,
    },
    /// A setting means nothing to QUIC.
    #[error("`{setting}` is set, and means nothing to {url}")]
    NotOverQuic {
        /// The gateway.
        url: String,
        /// The setting: `proxy` or `carrier`.
        setting: String,
    },
    /// A gateway's token is missing or unusable.
    #[error("{reason}")]
    Token {
        /// The file that it was to be read from, if it was.
        file: Option<String>,
        /// The line of that file, counted from 1, where it is a list of tokens.
        line: Option<u64>,
        /// The system's code of a failure to read the file.
        os_code: Option<i32>,
        /// What is wrong with it.
        reason: String,
    },
    /// A catalog file is missing or unusable.
    #[error("{reason}")]
    Catalog {
        /// The file.
        file: Option<String>,
        /// The line, counted from 1.
        line: Option<u64>,
        /// The column, counted from 1.
        column: Option<u64>,
        /// The system's code of a failure to read the file.
        os_code: Option<i32>,
        /// What is wrong with it.
        reason: String,
    },
    /// A Kubernetes cluster cannot be used.
    #[error("{reason}")]
    Cluster {
        /// What went wrong.
        failure: ClusterFailure,
        /// The same for people.
        reason: String,
    },
    /// This library was built without support for a kind of provider.
    #[error("this library was built without support for providers of the kind `{kind}`")]
    NotBuiltIn {
        /// The kind.
        kind: String,
    },
    /// This operating system, or this version of something, lacks what was asked for.
    #[error("not supported: {what}")]
    Unsupported {
        /// What is missing.
        what: String,
    },
    /// The hosts file is to be written, and there is no helper to do it.
    #[error("{file} cannot be written without a helper")]
    HelperNeeded {
        /// The hosts file.
        file: String,
    },
    /// The helper could not be started, or a request to it failed.
    #[error("{reason}")]
    Helper {
        /// What went wrong.
        failure: HelperFailure,
        /// The same for people.
        reason: String,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// The address.
        address: String,
        /// The system's code.
        os_code: Option<i32>,
        /// What the system says.
        reason: String,
    },
    /// Other machines can reach an address, and tokens would be sent there in the clear.
    #[error("{address} can be reached from other machines, and tokens would be sent there in the clear")]
    InsecureListen {
        /// The address.
        address: String,
    },
    /// The files for TLS cannot be used.
    #[error("{reason}")]
    Tls {
        /// Which file, and what is wrong with it.
        reason: String,
    },
    /// A command could not be run.
    #[error("{reason}")]
    Command {
        /// The exit code that a shell gives such a failure: 127 if there is no such command, 126 if it cannot be run, 125 for
        /// every failure that is not the command's.
        exit_code: u8,
        /// The program or the file that it is about.
        program: Option<String>,
        /// The setting of the system that forbids it, where that is known: `user.max_user_namespaces`.
        setting: Option<String>,
        /// What is wrong.
        reason: String,
    },
    /// The session ended before what was waited for.
    #[error("the session has stopped: {reason}")]
    Stopped {
        /// Why it ended.
        reason: StopReason,
    },
    /// The session is on its way to its end.
    #[error("the session is ending")]
    Ending,
    /// A session that was asked to leave has not ended in time.
    #[error("session {session} (pid {pid}) is still ending")]
    StillEnding {
        /// The session's id.
        session: String,
        /// Its process.
        pid: u32,
        /// How long was waited.
        after: Duration,
    },
    /// The session, or what else was waited for, ended without a reason: one of its tasks panicked.
    #[error("the task ended unexpectedly")]
    Crashed,
    /// The call was cancelled by its `Cancellation`.
    #[error("the call was cancelled")]
    Cancelled,
    /// The threads of the library could not be started.
    #[error("the library's threads could not be started: {reason}")]
    Runtime {
        /// The system's code.
        os_code: Option<i32>,
        /// What the system says.
        reason: String,
    },
    /// Another library of this process has the log.
    #[error("another library of this process has the log")]
    LogTaken,
    /// Prefixes cannot be a pool of addresses.
    #[error("{reason}")]
    Pool {
        /// The prefix, or all of them.
        pool: String,
        /// The prefix that it does not go with.
        other: Option<String>,
        /// What is wrong with it.
        reason: String,
    },
    /// A pool has no address left.
    #[error(
        "the pool {pool} is exhausted: {leased} addresses are leased and {resting} are resting after use"
    )]
    PoolExhausted {
        /// The pool.
        pool: String,
        /// How many are leased.
        leased: u64,
        /// How many rest after use.
        resting: u64,
    },
    /// An address is another key's, or a key's is another one.
    #[error("{reason}")]
    AddressTaken {
        /// The address.
        address: String,
        /// The key that has it.
        key: String,
        /// Until when it rests after use, in seconds since the Unix epoch.
        resting_until: Option<u64>,
        /// The same for people.
        reason: String,
    },
    /// A key has no address.
    #[error("{reason}")]
    NoAddress {
        /// The key.
        key: String,
        /// The same for people.
        reason: String,
    },
    /// The team's lock file has faults.
    #[error("{reason}")]
    LockFile {
        /// The file.
        file: Option<String>,
        /// All of them, in the order of the lines.
        faults: Vec<LineFault>,
        /// The same for people.
        reason: String,
    },
    /// A file cannot be used: it is damaged, of a newer version, of something else, held by another program, or it cannot be read
    /// or written.
    #[error("{reason}")]
    File {
        /// The file.
        file: String,
        /// The system's code, where it is the system that refused.
        os_code: Option<i32>,
        /// What is wrong.
        reason: String,
    },
    /// A block of a hosts file is damaged.
    #[error("block {tag} is damaged: {damage}")]
    DamagedBlock {
        /// The block's tag.
        tag: String,
        /// What is wrong.
        damage: String,
        /// Where, counted from 1.
        lines: Vec<u64>,
    },
    /// A hosts file has no such block.
    #[error("there is no block {tag}")]
    NoSuchBlock {
        /// The tag.
        tag: String,
    },
    /// This process may not do that to a file.
    #[error("no permission to {doing} {file}")]
    PermissionDenied {
        /// The file.
        file: String,
        /// What was to be done: `read`, `write`.
        doing: String,
    },
    /// Another program holds the lock of a file.
    #[error("{file} is held by another program")]
    Locked {
        /// The file.
        file: String,
        /// For how long was waited.
        waited: Duration,
    },
    /// A hosts file could not be read, edited or written for another reason.
    #[error("{reason}")]
    Hosts {
        /// Which one.
        failure: HostsFailure,
        /// The file, where it is about one.
        file: Option<String>,
        /// The line, counted from 1, where it is about one.
        line: Option<u64>,
        /// The same for people.
        reason: String,
    },
    /// The system gives no random numbers.
    #[error("{reason}")]
    Random {
        /// What the system says.
        reason: String,
    },
    /// Something that these bindings have no case for.
    #[error("{reason}")]
    Other {
        /// What.
        reason: String,
    },
}

#[uniffi::export]
impl DevboxError {
    /// The same for people.
    #[must_use]
    pub fn text(&self) -> String {
        self.to_string()
    }
}

impl DevboxError {
    /// The threads of the library could not be started.
    pub(crate) fn runtime(error: &io::Error) -> Self {
        Self::Runtime {
            os_code: error.raw_os_error(),
            reason: error.to_string(),
        }
    }
}

impl From<engine::Error> for DevboxError {
    fn from(error: engine::Error) -> Self {
        let reason = with_causes(&error);
        match error {
            engine::Error::NoProvider => Self::NoProvider,
            engine::Error::DuplicateProvider { name } => Self::DuplicateProvider { name },
            engine::Error::UnknownProvider { name } => Self::UnknownProvider { name },
            engine::Error::GatewayUrl { url } => Self::GatewayUrl { url: url.into() },
            engine::Error::InsecureGateway { url, proxy } => Self::InsecureGateway {
                url: url.into(),
                proxy,
            },
            engine::Error::NotOverQuic { url, setting } => Self::NotOverQuic {
                url: url.into(),
                setting: setting.to_owned(),
            },
            engine::Error::Token(cause) => token(cause.downcast_ref(), reason),
            engine::Error::Catalog(cause) => catalog(cause.downcast_ref(), reason),
            engine::Error::Kubernetes(cause) => Self::Cluster {
                failure: (*cause).into(),
                reason,
            },
            engine::Error::NotBuiltIn { kind } => Self::NotBuiltIn {
                kind: kind.to_owned(),
            },
            engine::Error::Addresses(error) => error.into(),
            engine::Error::HelperNeeded { file } => Self::HelperNeeded { file: shown(&file) },
            engine::Error::Dns(ServerError::Bind { address, source }) => Self::Listen {
                address: address.to_string(),
                os_code: source.raw_os_error(),
                reason,
            },
            engine::Error::Dns(ServerError::Start(error)) => Self::runtime(&error),
            engine::Error::Helper(error) => Self::Helper {
                failure: error.into(),
                reason,
            },
            engine::Error::ReadHosts { file, source } => Self::File {
                file: shown(&file),
                os_code: source.raw_os_error(),
                reason,
            },
            engine::Error::Hosts(error) => error.into(),
            engine::Error::Ask { socket, source } => Self::File {
                file: shown(&socket),
                os_code: os_code(&source),
                reason,
            },
            engine::Error::StillEnding { session, pid, after } => Self::StillEnding { session, pid, after },
            engine::Error::Random { .. } => Self::Random { reason },
            engine::Error::Stopped(reason) => Self::Stopped {
                reason: reason.into(),
            },
            engine::Error::Ending => Self::Ending,
            engine::Error::Crashed => Self::Crashed,
            _ => Self::Other { reason },
        }
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// The system's code among the causes of an error, if the system is one.
fn os_code(error: &(dyn StdError + 'static)) -> Option<i32> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let code = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error);
        if code.is_some() {
            return code;
        }
        cause = error.source();
    }
    None
}
