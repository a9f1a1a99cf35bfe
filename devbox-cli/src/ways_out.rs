//! What users can do who may not edit the hosts file: the lines, the command that adds them, and the other ways.

use std::path::Path;

use devbox_engine::plan_block;
use devbox_helper_client::{HelperError, HostsEntry};
use hostsfile::{Shell, manual_instructions};

use crate::failure::{Failure, code};

/// The tag of a block that users add themselves: not one of a session's, which would be swept.
const BY_HAND_TAG: &str = "devbox";

/// Adds the ways out to a failure of a session's first write of the hosts file.
pub(crate) fn of_session(failure: Failure, error: &HelperError, entries: &[HostsEntry]) -> Failure {
    let file = match error {
        HelperError::PermissionDenied { file, .. } => file,
        HelperError::Damaged { file, .. } => {
            return failure.help(format!(
                "nothing was written; `devbox hosts repair --file {}` repairs the block",
                file.display()
            ));
        }
        HelperError::ReadOnly { .. } => {
            return failure
                .help("nothing was written. Without the file:")
                .help("  devbox up --no-hosts …       reaches the services by address")
                .help("  devbox exec … -- COMMAND     the names for one command alone (Linux)");
        }
        _ => return failure.help("nothing was written; `devbox up --no-hosts` runs without the hosts file"),
    };
    let failure = match by_hand(file, entries) {
        Some(commands) => failure
            .help("")
            .help(format!(
                "By hand, these lines make the names known; `devbox hosts rm --tag {BY_HAND_TAG}` … removes them:"
            ))
            .help("")
            .verbatim(&commands),
        // A change of a file that cannot be read cannot be shown: then the entries alone.
        None => entries.iter().fold(
            failure.help("").help("The lines that make the names known:").help(""),
            |failure, entry| failure.verbatim(&format!("{} {}", entry.address, entry.names.join(" "))),
        ),
    };
    failure
        .help("")
        .help("Other ways:")
        .help("  sudo devbox up …             only the helper that edits the file stays root")
        .help("  devbox up --no-hosts …       keeps a session running, so that lines added by hand work")
        .help("  devbox exec … -- COMMAND     the names for one command alone, without root (Linux)")
}

/// The commands that add the entries to a file by hand, if it can be read.
fn by_hand(file: &Path, entries: &[HostsEntry]) -> Option<String> {
    let bytes = std::fs::read(file).ok()?;
    let plan = plan_block(&bytes, BY_HAND_TAG, entries).ok()?;
    Some(manual_instructions(&plan, file, Shell::platform()))
}

/// Why `cleanup`, or the end of a session, left something, and what helps.
pub(crate) fn of_cleanup(error: &HelperError) -> Failure {
    let code = match error {
        HelperError::Locked { .. } => code::UNAVAILABLE,
        _ => code::FAILED,
    };
    let failure = Failure::new(code, error.to_string());
    match error {
        HelperError::PermissionDenied { file, .. } => {
            failure.help(format!("sudo devbox cleanup --hosts-file {}", file.display()))
        }
        HelperError::LinesLeft { .. } => {
            failure.help("remove what you do not need; without the comment at its end a line is yours")
        }
        HelperError::NotFound { .. } => {
            failure.help("name the file that a session was given with --hosts-file FILE")
        }
        _ => failure,
    }
}
