//! What ends a helper other than its caller's end.

use std::io;
use std::path::PathBuf;

use devbox_helper_client::HelperError;
use ipnet::IpNet;

/// Why a helper could not serve, or left something behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument of the helper's command line is unknown or has no value.
    #[error("the helper's argument {argument}: {message}")]
    Argument {
        /// The argument.
        argument: String,
        /// What is wrong with it.
        message: String,
    },
    /// The policy names a pool that no policy may name.
    #[error("the pool {pool} is not allowed: {why}")]
    Pool {
        /// The pool.
        pool: IpNet,
        /// The rule.
        why: &'static str,
    },
    /// The policy's hosts file is no plain absolute path.
    #[error("the hosts file {} must be an absolute path without ..", .file.display())]
    Path {
        /// The path.
        file: PathBuf,
    },
    /// Standard input is no channel: the helper is started by a program, not by hand.
    #[error("the helper is started by devbox itself, over a socket")]
    NoChannel(#[source] io::Error),
    /// The process could not leave its caller's session.
    #[error("cannot start a session of its own")]
    Detach(#[source] io::Error),
    /// The process cannot name itself in the hosts file.
    #[error("cannot read what identifies this process")]
    Owner(#[source] io::Error),
    /// What the caller asked for could not be undone, also after several tries. The next sweep does it.
    #[error("the block stays in {}", .file.display())]
    Undo {
        /// The hosts file.
        file: PathBuf,
        /// Why.
        #[source]
        source: HelperError,
    },
}

/// An error in one line, its causes behind it.
pub(crate) fn with_sources(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
