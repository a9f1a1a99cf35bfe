//! What a user can do who may not edit the hosts file: the lines, the command that adds them, and the other ways.

use helper_client::{HelperError, HostsEntry};

use crate::failure::{Failure, code};

/// Adds the ways out to a failure of the first write of the hosts file.
pub(crate) fn ways_out(failure: Failure, error: &HelperError, entries: &[HostsEntry]) -> Failure {
    let file = match error {
        HelperError::PermissionDenied { file, .. } | HelperError::ReadOnly { file, .. } => file,
        HelperError::Damaged { file, .. } => {
            return failure.help(format!(
                "nothing was written; `devbox hosts repair --file {}` mends the block",
                file.display()
            ));
        }
        _ => return failure.help("nothing was written; `devbox up --no-hosts` runs without the hosts file"),
    };
    let file = file.display();
    let mut failure = failure
        .help("")
        .help(format!(
            "These lines make the names known; to add them to {file} by hand:"
        ))
        .help("");
    failure = failure.help(format!("  sudo tee -a {file} >/dev/null <<'END'"));
    for entry in entries {
        failure = failure.help(format!("  {} {}", entry.address, entry.names.join(" ")));
    }
    failure
        .help("  END")
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
        HelperError::PermissionDenied { .. } => failure.help("sudo devbox cleanup"),
        HelperError::NotFound { .. } => {
            failure.help("name the file that a session was given with --hosts-file FILE")
        }
        _ => failure,
    }
}
