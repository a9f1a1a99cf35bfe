//! Failures of commands that see files of their own.

use devbox_provider::with_causes;
use process_scope::Error;

use super::DevboxError;

impl From<Error> for DevboxError {
    fn from(error: Error) -> Self {
        let reason = with_causes(&error);
        let exit_code = error.exit_code();
        let (program, setting) = match error {
            Error::Unsupported { what } => {
                return Self::Unsupported {
                    what: what.to_owned(),
                };
            }
            Error::UserNamespacesForbidden { restriction, .. } => (None, restriction.setting()),
            Error::CommandNotFound { program } => (Some(program.display().to_string()), None),
            Error::CommandNotExecutable { file: program, .. }
            | Error::NoHostsFile { path: program }
            | Error::Start { program, .. }
            | Error::NoAnswer { program, .. } => (Some(program.display().to_string()), None),
            _ => (None, None),
        };
        Self::Command {
            exit_code,
            program,
            setting: setting.map(ToOwned::to_owned),
            reason,
        }
    }
}
