//! How the command fails: what to say, what helps, and the exit code.

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use crate::output::{self, Stream};
use crate::print;

/// Exit codes of the command; `exec` has its own for failures before its command runs.
pub(crate) mod code {
    /// Bad flags, bad configuration, a refused token, a missing right.
    pub(crate) const FAILED: u8 = 1;
    /// Something is in the way for the moment: the gateway is not reachable, the hosts file is locked.
    pub(crate) const UNAVAILABLE: u8 = 2;
    /// A newer session took over.
    pub(crate) const DISPLACED: u8 = 3;
    /// `exec` itself failed, as with `env`, `nohup` and `chroot`. The codes of a command that cannot be run (126) or is not
    /// there (127) come from `process_scope`.
    pub(crate) const EXEC_FAILED: u8 = 125;
}

/// A failure as the user sees it.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
    help: Vec<String>,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            help: Vec::new(),
        }
    }

    /// A failure because of an error, its causes included.
    pub(crate) fn because(error: impl Into<anyhow::Error>) -> Self {
        Self::new(code::FAILED, format!("{:#}", error.into()))
    }

    /// Says which file it is about.
    #[must_use]
    pub(crate) fn about(mut self, path: &Path) -> Self {
        self.message = format!("{}: {}", path.display(), self.message);
        self
    }

    /// Adds a line that says what helps; an empty one separates.
    #[must_use]
    pub(crate) fn help(mut self, line: impl AsRef<str>) -> Self {
        self.help
            .push(format!("  {}", line.as_ref()).trim_end().to_owned());
        self
    }

    /// Adds text to be copied, exactly as it is.
    #[must_use]
    pub(crate) fn verbatim(mut self, text: &str) -> Self {
        self.help.extend(text.lines().map(str::to_owned));
        self
    }

    /// The same failure in `exec`, whose codes below 125 are its command's.
    #[must_use]
    pub(crate) fn with_code_of_exec(mut self) -> Self {
        self.code = self.code.max(code::EXEC_FAILED);
        self
    }

    pub(crate) fn code(&self) -> u8 {
        self.code
    }

    /// Says it on standard error and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        drop(output::write(Stream::Err, &print::plain(&self.to_string())));
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "devbox: {}", self.message)?;
        for line in &self.help {
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::because(error)
    }
}

/// A path for a command that the user may paste into a shell.
pub(crate) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/\\:._-+,@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}
