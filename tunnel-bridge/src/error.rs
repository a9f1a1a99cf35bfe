//! What can be wrong before a link exists: texts, files, settings.

use std::io;
use std::path::PathBuf;

/// An input that this crate cannot use. Connecting and accepting have errors of their own (in `ws`), and so do streams
/// ([`Refusal`](crate::Refusal)) and links ([`LinkEnd`](crate::LinkEnd)).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A target's text is not one.
    #[error("not a target: {why}")]
    BadTarget {
        /// What is wrong with it.
        why: &'static str,
    },
    /// A file cannot be read.
    #[error("cannot read the {what} file {}", .path.display())]
    File {
        /// What the file holds: "certificate", "key", "CA".
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A PEM file holds nothing of what it should.
    #[error("no usable {what} in {}: {why}", .path.display())]
    BadPem {
        /// What the file should hold: "certificate", "key", "CA".
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A proxy cannot be used. What it was set to is not repeated here, as it may have a password in it.
    #[error("the proxy{} cannot be used: {why}", .setting.map(|name| format!(" in {name}")).unwrap_or_default())]
    BadProxy {
        /// The environment variable that names it, if one does.
        setting: Option<&'static str>,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A text is not the pin of a key.
    #[error("`{text}` is not a pinned key: expected sha256/ and the Base64 of 32 bytes")]
    BadPin {
        /// The text, made fit for a terminal.
        text: String,
    },
    /// TLS cannot be set up with these settings.
    #[error("tls cannot be set up: {why}")]
    Tls {
        /// What is wrong.
        why: String,
    },
    /// A socket cannot be used for listening.
    #[error("cannot listen")]
    Listen {
        /// What the system said.
        source: io::Error,
    },
}
