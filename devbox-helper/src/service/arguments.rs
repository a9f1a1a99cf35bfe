//! The command line of the installed helper.

use std::ffi::OsString;
use std::path::PathBuf;

use super::Service;
use crate::audit::LogTo;
use crate::error::Error;

impl Service {
    /// Reads the arguments behind [`SERVE`](super::SERVE): `--socket PATH` (otherwise systemd passes one), `--policy FILE`,
    /// `--hosts-file FILE`, `--state DIR`, `--log-journal SOCKET`.
    ///
    /// # Errors
    /// [`Error::Argument`]: nothing is ignored.
    pub fn from_args<I: IntoIterator<Item: Into<OsString>>>(args: I) -> Result<Self, Error> {
        let mut service = Self::default();
        let mut args = args.into_iter().map(Into::into);
        while let Some(argument) = args.next() {
            let bad = |message: &str| Error::Argument {
                argument: argument.to_string_lossy().into_owned(),
                message: message.into(),
            };
            let value = args.next().map(PathBuf::from);
            let value = value.filter(|path| path.is_absolute());
            let value = value.ok_or_else(|| bad("unknown, or not followed by an absolute path"))?;
            match argument.to_str() {
                Some("--socket") => service.socket = Some(value),
                Some("--policy") => service.policy_file = value,
                Some("--hosts-file") => service.hosts_file = value,
                Some("--state") => service.state_dir = value,
                Some("--log-journal") => service.log = LogTo::Journal(value),
                _ => return Err(bad("unknown")),
            }
        }
        Ok(service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_refused() {
        for args in [
            vec!["--socket"],
            vec!["--socket", "s"],
            vec!["--verbose", "/x"],
            vec!["/x"],
        ] {
            assert!(Service::from_args(args.clone()).is_err(), "{args:?}");
        }
        let service = Service::from_args(["--socket", "/run/s", "--state", "/run/d"]).unwrap();
        assert_eq!(
            (service.socket, service.state_dir),
            (Some("/run/s".into()), "/run/d".into())
        );
    }
}
