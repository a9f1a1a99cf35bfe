use std::io;
use std::path::PathBuf;

/// What can be wrong with a token. Connecting has an error of its own:
/// [`ConnectError`](devbox_provider::ConnectError).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A text is not a token. The text is not repeated here.
    #[error("not a token{}: {why}", .path.as_ref().map(|path| format!(" in {}", path.display())).unwrap_or_default())]
    BadToken {
        /// The file that it was read from, if it was.
        path: Option<PathBuf>,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The token file cannot be read.
    #[error("cannot read the token file {}", .path.display())]
    ReadToken {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
