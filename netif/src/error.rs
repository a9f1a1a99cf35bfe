use std::io;

use thiserror::Error;

/// What went wrong.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// This operating system has no such thing, or this crate does not know how to ask it.
    #[error("{what} cannot be had on this system")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
    },
    /// A text is no such name.
    #[error("{text:?} cannot name an {what}: expected {expected}")]
    InvalidName {
        /// What it should name.
        what: &'static str,
        /// The text.
        text: String,
        /// What such a name is.
        expected: &'static str,
    },
    /// A call of the operating system failed.
    #[error("cannot {what}")]
    System {
        /// What was tried, as it follows "cannot".
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}
