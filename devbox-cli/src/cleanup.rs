//! `devbox cleanup`: what was left where a session and its helper were both killed.

use std::process::ExitCode;

use devbox_engine::{Error, system_hosts_file};

use crate::args::{CleanupArgs, Output};
use crate::failure::Failure;
use crate::{helper, print, runtime, sys, ways_out};

/// Removes the blocks whose owner is dead: by the helper, within its policy.
pub(crate) fn run(args: &CleanupArgs) -> Result<ExitCode, Failure> {
    let caller = sys::caller().map_err(Failure::because)?;
    let file = match &args.hosts_file {
        Some(file) => std::path::absolute(file).map_err(Failure::because)?,
        None => system_hosts_file().map_err(Failure::because)?,
    };
    let helper = helper::start(&file, &[], &caller, false, false)?;
    sys::drop_to_caller(&caller).map_err(Failure::because)?;
    runtime::run(0, async {
        let report = helper.clean_up().await.map_err(|error| match error {
            Error::Helper(devbox_helper_client::Error::Helper(error)) => ways_out::of_cleanup(&error),
            error => error.into(),
        })?;
        match args.output.form() {
            Output::Json => print::json(&report),
            Output::Text if report.removed.is_empty() => {
                print::out(&format!("{}: nothing to clean up\n", report.file.display()));
            }
            Output::Text => {
                for block in &report.removed {
                    print::out(&format!(
                        "{}: removed block {}\n",
                        report.file.display(),
                        block.tag
                    ));
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}
