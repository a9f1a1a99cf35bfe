//! Asks the system to flush what it has cached about names.

use std::path::Path;
use std::process::{Command, Stdio};

/// Why a resolver's cache was not flushed. The hosts file is not affected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FlushError {
    /// The command could not be started.
    #[error("cannot run {command}")]
    NotStarted {
        /// The command line.
        command: String,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The command failed.
    #[error("{command} failed: {message}")]
    Failed {
        /// The command line.
        command: String,
        /// The last line of its output, or its exit status.
        message: String,
    },
}

/// What was flushed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Flushed {
    /// The command lines that were run; none if nothing that caches names is running.
    pub commands: Vec<String>,
}

/// Flushes the caches of the system's resolver.
///
/// An edit of the hosts file rarely needs this: glibc and musl read the file at each lookup, systemd-resolved notices a change
/// within two seconds, and macOS and Windows watch the file. It helps against answers that came from DNS before. On Linux the
/// daemons that are running are asked (`resolvectl`, `nscd`); if none is, nothing is done, and that is not an error.
///
/// # Errors
/// [`FlushError`], from the first command that fails.
pub fn flush() -> Result<Flushed, FlushError> {
    let mut ran = Vec::new();
    for &(argv, socket) in COMMANDS {
        if socket.is_some_and(|socket| !Path::new(socket).exists()) {
            continue;
        }
        let command = argv.join(" ");
        let output = Command::new(argv[0])
            .args(&argv[1..])
            .stdin(Stdio::null())
            .output();
        match output {
            Err(source) => return Err(FlushError::NotStarted { command, source }),
            Ok(output) if output.status.success() => ran.push(command),
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stderr)
                    .trim()
                    .lines()
                    .last()
                    .unwrap_or_default()
                    .to_owned();
                let message = if text.is_empty() {
                    output.status.to_string()
                } else {
                    text
                };
                return Err(FlushError::Failed { command, message });
            }
        }
    }
    Ok(Flushed { commands: ran })
}

/// Command lines; with a path, only while it exists, because the daemon in question has its socket there.
type Commands = &'static [(&'static [&'static str], Option<&'static str>)];

cfg_if::cfg_if! {
    if #[cfg(target_vendor = "apple")] {
        const COMMANDS: Commands = &[
            (&["dscacheutil", "-flushcache"], None),
            (&["killall", "-HUP", "mDNSResponder"], None),
        ];
    } else if #[cfg(windows)] {
        const COMMANDS: Commands = &[(&["ipconfig", "/flushdns"], None)];
    } else {
        const COMMANDS: Commands = &[
            (
                &["resolvectl", "flush-caches"],
                Some("/run/systemd/resolve/io.systemd.Resolve"),
            ),
            (&["nscd", "-i", "hosts"], Some("/run/nscd/socket")),
        ];
    }
}
