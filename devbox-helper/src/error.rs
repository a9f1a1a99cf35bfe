//! What makes a helper exit, other than the end of its caller.

use std::io;
use std::path::PathBuf;

use devbox_helper_client::HelperError;
use ipnet::IpNet;

/// Why a helper could not serve, or what it left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument of the helper's command line is unknown or has no value.
    #[error("invalid helper argument {argument}: {message}")]
    Argument {
        /// The argument.
        argument: String,
        /// What is wrong with it.
        message: String,
    },
    /// The policy names a pool outside loopback and private space, or a malformed one.
    #[error("the pool {pool} is not allowed: {why}")]
    Pool {
        /// The pool.
        pool: IpNet,
        /// The rule.
        why: &'static str,
    },
    /// The policy's hosts file is not an absolute path without `..`.
    #[error("the hosts file {} must be an absolute path without ..", .file.display())]
    Path {
        /// The path.
        file: PathBuf,
    },
    /// Standard input is not a channel: the helper is meant to be started by a program, not by hand.
    #[error("the helper cannot be run by hand: devbox starts it over a socket")]
    NoChannel(#[source] io::Error),
    /// The process could not leave its caller's session.
    #[error("cannot start a session of its own")]
    Detach(#[source] io::Error),
    /// A keeper could not start a helper, or not wait for its end.
    #[error("cannot start another helper")]
    Keep(#[source] io::Error),
    /// The process could not determine the id that its block carries.
    #[error("cannot determine the start time of this process")]
    Owner(#[source] io::Error),
    /// The policy file cannot be read, is not one, or others can have written it.
    #[error("the policy {} is refused: {why}", .file.display())]
    PolicyFile {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// There is no socket to serve callers at.
    #[error("cannot listen for callers")]
    Listen(#[source] io::Error),
    /// What a helper left that was killed could not be undone.
    #[error("cannot read the journals in {}", .dir.display())]
    Replay {
        /// The state directory.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Changes of the network could not be undone. They are in the journal, and the next helper tries again.
    #[error("cannot undo changes of the network: {}", .left.join("; "))]
    Network {
        /// What stays, and why.
        left: Vec<String>,
    },
    /// What helpers left that were killed could not be removed from the hosts file.
    #[error("cannot remove what was left in {}", .file.display())]
    Sweep {
        /// The hosts file.
        file: PathBuf,
        /// Why.
        #[source]
        source: HelperError,
    },
    /// What the caller asked for could not be undone, even after several attempts. The next sweep does it.
    #[error("cannot remove the block from {}", .file.display())]
    Undo {
        /// The hosts file.
        file: PathBuf,
        /// Why.
        #[source]
        source: HelperError,
    },
}

/// An error and its causes on one line.
pub(crate) fn with_sources(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
