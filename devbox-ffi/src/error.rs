//! Failures for other languages: one enum, whose variants are the stable codes and whose fields are the facts.

use std::time::Duration;

use devbox_engine as engine;
use devbox_provider::{ConnectError, with_causes};

/// What can go wrong. The variant is the code that a program decides on; it keeps its meaning from one version to the next.
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
    },
    /// A gateway's token is missing or unusable.
    #[error("{reason}")]
    Token {
        /// What is wrong with it.
        reason: String,
    },
    /// A catalog file is missing or unusable.
    #[error("{reason}")]
    Catalog {
        /// What is wrong with it, and where.
        reason: String,
    },
    /// This library was built without support for a kind of provider.
    #[error("this library was built without support for providers of the kind `{kind}`")]
    NotBuiltIn {
        /// The kind.
        kind: String,
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
        /// Why.
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
    /// The session ended without a reason: one of its tasks panicked.
    #[error("the session's task ended unexpectedly")]
    Crashed,
    /// The call was cancelled by its `Cancellation`.
    #[error("the call was cancelled")]
    Cancelled,
    /// The threads of the library could not be started.
    #[error("the library's threads could not be started: {reason}")]
    Runtime {
        /// What the system says.
        reason: String,
    },
    /// No address could be leased, or what is asked about addresses contradicts itself.
    #[error("{reason}")]
    Addresses {
        /// Why.
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
    /// This process may not do that to a file.
    #[error("no permission to {doing} {file}")]
    PermissionDenied {
        /// The file.
        file: String,
        /// What was to be done: `read`, `write`.
        doing: String,
    },
    /// Another program holds the lock of a hosts file.
    #[error("{file} is held by another program")]
    Locked {
        /// The file.
        file: String,
        /// For how long was waited.
        waited: Duration,
    },
    /// Anything else about a hosts file.
    #[error("{reason}")]
    Hosts {
        /// What.
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

impl From<engine::Error> for DevboxError {
    fn from(error: engine::Error) -> Self {
        let reason = with_causes(&error);
        match error {
            engine::Error::NoProvider => Self::NoProvider,
            engine::Error::DuplicateProvider { name } => Self::DuplicateProvider { name },
            engine::Error::UnknownProvider { name } => Self::UnknownProvider { name },
            engine::Error::GatewayUrl { url } => Self::GatewayUrl { url: url.into() },
            engine::Error::InsecureGateway { url, .. } => Self::InsecureGateway { url: url.into() },
            engine::Error::Token(_) => Self::Token { reason },
            engine::Error::Catalog(_) => Self::Catalog { reason },
            engine::Error::NotBuiltIn { kind } => Self::NotBuiltIn {
                kind: kind.to_owned(),
            },
            engine::Error::Addresses(error) => error.into(),
            engine::Error::HelperNeeded { file } => Self::HelperNeeded {
                file: file.display().to_string(),
            },
            engine::Error::Helper(_) => Self::Helper { reason },
            engine::Error::Hosts(error) => error.into(),
            engine::Error::Stopped(reason) => Self::Stopped {
                reason: reason.into(),
            },
            engine::Error::Ending => Self::Ending,
            engine::Error::Crashed => Self::Crashed,
            _ => Self::Other { reason },
        }
    }
}

impl From<ipalloc::Error> for DevboxError {
    fn from(error: ipalloc::Error) -> Self {
        match error {
            ipalloc::Error::PoolExhausted {
                pool,
                leased,
                resting,
            } => Self::PoolExhausted {
                pool,
                leased: leased as u64,
                resting: resting as u64,
            },
            error => Self::Addresses {
                reason: with_causes(&error),
            },
        }
    }
}

impl From<hostsfile::Error> for DevboxError {
    fn from(error: hostsfile::Error) -> Self {
        match error {
            hostsfile::Error::DamagedBlock { tag, damage, lines } => Self::DamagedBlock {
                tag: tag.to_string(),
                damage: damage.to_string(),
                lines: lines.into_iter().map(|line| line as u64).collect(),
            },
            hostsfile::Error::PermissionDenied { path, doing, .. } => Self::PermissionDenied {
                file: path.display().to_string(),
                doing: doing.to_owned(),
            },
            hostsfile::Error::Locked { path, waited } => Self::Locked {
                file: path.display().to_string(),
                waited,
            },
            error => Self::Hosts {
                reason: with_causes(&error),
            },
        }
    }
}

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, uniffi::Enum)]
pub enum StopReason {
    /// It was asked to.
    #[error("{by}")]
    Requested {
        /// By whom.
        by: String,
    },
    /// A newer session of the same user took over.
    #[error("displaced by {by}")]
    Displaced {
        /// By whom.
        by: String,
    },
    /// Another connection of this very session is in charge at the far side.
    #[error("another connection of this session took over at {provider}")]
    Superseded {
        /// The provider.
        provider: String,
    },
    /// No provider can be used, and another try does not mend that.
    #[error("{text}")]
    Refused {
        /// What went wrong.
        failure: ConnectFailure,
        /// The same for people.
        text: String,
    },
    /// No provider was reached.
    #[error("{text}")]
    Unreachable {
        /// What went wrong last.
        failure: ConnectFailure,
        /// The same for people.
        text: String,
        /// How often it was tried.
        tries: u32,
        /// For how long.
        waited: Duration,
    },
    /// The names could not be published at the start.
    #[error("{reason}")]
    Names {
        /// Where they were to go.
        sink: String,
        /// Why.
        reason: String,
    },
    /// The helper, which alone can undo, is gone.
    #[error("the helper process is gone")]
    HelperLost {
        /// The file in which its block still stands, if one does.
        hosts_file: Option<String>,
    },
    /// Asked for, but something could not be undone.
    #[error("{reason}")]
    NotUndone {
        /// What is left, and why.
        reason: String,
    },
    /// Something that these bindings have no case for.
    #[error("{text}")]
    Other {
        /// It, for people.
        text: String,
    },
}

impl From<engine::StopReason> for StopReason {
    fn from(reason: engine::StopReason) -> Self {
        let text = reason.to_string();
        match reason {
            engine::StopReason::Requested { by } => Self::Requested { by },
            engine::StopReason::Displaced { by } => Self::Displaced { by },
            engine::StopReason::Superseded { provider, .. } => Self::Superseded { provider },
            engine::StopReason::Refused(failure) => Self::Refused {
                failure: failure.into(),
                text,
            },
            engine::StopReason::Unreachable { last, tries, waited } => Self::Unreachable {
                failure: last.into(),
                text,
                tries,
                waited,
            },
            engine::StopReason::Names { sink, .. } => Self::Names { sink, reason: text },
            engine::StopReason::HelperLost { hosts_file } => Self::HelperLost {
                hosts_file: hosts_file.map(|file| file.display().to_string()),
            },
            engine::StopReason::NotUndone { .. } => Self::NotUndone { reason: text },
            _ => Self::Other { text },
        }
    }
}

/// Why a far side could not be connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum ConnectFailure {
    /// Nobody answered there.
    Unreachable,
    /// Nobody answered in time.
    TimedOut,
    /// It answered that it cannot serve at the moment.
    Unavailable,
    /// The credential is not accepted.
    CredentialRefused,
    /// Its certificate is not accepted.
    Certificate,
    /// The environment is not served there.
    UnknownEnvironment,
    /// What answers there is something else, or speaks another version.
    NotAGateway,
    /// A newer connection of the same session is up.
    Superseded,
    /// Something on this side keeps it from connecting.
    Setup,
    /// Something that these bindings have no case for.
    Other,
}

impl From<ConnectError> for ConnectFailure {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Unreachable { .. } => Self::Unreachable,
            ConnectError::TimedOut { .. } => Self::TimedOut,
            ConnectError::Unavailable { .. } => Self::Unavailable,
            ConnectError::CredentialRefused { .. } => Self::CredentialRefused,
            ConnectError::Certificate { .. } => Self::Certificate,
            ConnectError::UnknownEnvironment { .. } => Self::UnknownEnvironment,
            ConnectError::NotAGateway { .. } => Self::NotAGateway,
            ConnectError::Superseded { .. } => Self::Superseded,
            ConnectError::Setup { .. } => Self::Setup,
            _ => Self::Other,
        }
    }
}
