//! `devbox up --detach`: a session that goes on without the terminal, and its log.
//!
//! The command starts itself again with a hidden first argument. That process leaves the terminal's session, runs `up` as in
//! the foreground, with the same output, and tells once it is ready; from then on it writes to its log. If it fails before,
//! its exit code is the command's.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use devbox_engine::StatusReport;

use crate::args::{Output, UpArgs};
use crate::failure::{Failure, code};
use crate::log_file::{self, LogFile};
use crate::sys::{Background, Caller, Starter};
use crate::{output, sys};

/// The hidden first argument.
pub(crate) const ARGUMENT: &str = "__background";

/// Where a caller's logs are kept.
pub(crate) fn state_folder(caller: &Caller) -> Result<PathBuf, Failure> {
    caller.state_folder().ok_or_else(|| {
        Failure::new(code::FAILED, "there is no home folder to keep a log in")
            .help("set XDG_STATE_HOME to a folder of yours")
    })
}

/// Starts the session and waits until it is ready or has failed.
pub(crate) fn start(caller: &Caller) -> Result<ExitCode, Failure> {
    // Before anything is begun that could not be kept.
    state_folder(caller)?;
    let arguments = std::iter::once(ARGUMENT.into()).chain(std::env::args_os().skip(1));
    let started = Background::start(arguments).and_then(Background::wait);
    let Some(status) = started.map_err(Failure::because)? else {
        return Ok(ExitCode::SUCCESS);
    };
    match status.code().map(u8::try_from) {
        // It has said why.
        Some(Ok(code)) => Ok(ExitCode::from(code)),
        _ => Err(Failure::new(
            code::FAILED,
            format!("the session ended before it was ready: {status}"),
        )),
    }
}

/// Becomes the process in the background.
pub(crate) fn enter() -> Result<Starter, Failure> {
    output::keep();
    Starter::take().map_err(Failure::because)
}

/// The session is ready: says how to see and end it, lets the command that started it end, and goes on in the log.
pub(crate) fn go_on(
    starter: &Starter,
    state: &Path,
    status: &StatusReport,
    args: &UpArgs,
) -> Result<(), Failure> {
    let environment = status.environments().next().unwrap_or("session");
    let log = LogFile::open(state, environment).map_err(|error| {
        let folder = log_file::folder(state);
        Failure::new(code::FAILED, format!("no log in {}: {error}", folder.display()))
    })?;
    let pid = status.identity.pid;
    match args.output.form() {
        Output::Json => output::tell_starter(&format!(
            "{}\n",
            serde_json::json!({
                "event": "detached", "pid": pid, "environment": environment, "log": log.path(),
            })
        )),
        Output::Text => output::tell_starter(&format!(
            "running in the background as process {pid}\n  devbox logs --env {environment}\n  \
             devbox down --env {environment}\n"
        )),
    }
    sys::redirect_output(log.file()).map_err(Failure::because)?;
    output::move_to(log);
    starter
        .ready()
        .map_err(|_| Failure::new(code::FAILED, "the command that started it was interrupted"))
}
