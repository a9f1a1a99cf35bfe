//! What a user can do who may not edit the hosts file: the lines, the command that adds them, and the other ways.

use devbox_helper_client::{HelperError, HostsEntry};

use crate::failure::{Failure, code};
use crate::private_hosts::{self, BY_HAND_TAG};

/// Adds the ways out to a failure of the first write of the hosts file.
pub(crate) fn ways_out(failure: Failure, error: &HelperError, entries: &[HostsEntry]) -> Failure {
    let file = match error {
        HelperError::PermissionDenied { file, .. } => file,
        HelperError::Damaged { file, .. } => {
            return failure.help(format!(
                "nothing was written; `devbox hosts repair --file {}` mends the block",
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
    let failure = match private_hosts::by_hand(file, entries) {
        Ok(commands) => failure
            .help("")
            .help(format!("By hand, these lines make the names known; `devbox hosts rm --tag {BY_HAND_TAG}` … takes them out:"))
            .help("")
            .verbatim(&commands),
        // Without the file no change of it can be shown: then the entries alone.
        Err(_) => entries.iter().fold(
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

/// Why `cleanup` could not, and what helps.
pub(crate) fn cleanup_ways_out(error: &HelperError) -> Failure {
    let code = match error {
        HelperError::Locked { .. } => code::UNAVAILABLE,
        _ => code::FAILED,
    };
    let failure = Failure::new(code, error.to_string());
    match error {
        HelperError::PermissionDenied { file, .. } => {
            failure.help(format!("sudo devbox cleanup --hosts-file {}", file.display()))
        }
        HelperError::NotFound { .. } => {
            failure.help("name the file that a session was given with --hosts-file FILE")
        }
        _ => failure,
    }
}
