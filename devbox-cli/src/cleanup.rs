//! `devbox cleanup`: what was left where a session and its helper were both killed.

use std::process::ExitCode;

use crate::args::{CleanupArgs, Output};
use crate::failure::Failure;
use crate::{manual, print, private_hosts, runtime, session, sys};

/// Removes the blocks of owners that live no longer. It goes the helper's road, with the helper's policy.
pub(crate) fn run(args: &CleanupArgs) -> Result<ExitCode, Failure> {
    let caller = sys::caller().map_err(Failure::because)?;
    let file = match &args.hosts_file {
        Some(file) => std::path::absolute(file).map_err(Failure::because)?,
        None => private_hosts::system_file()?,
    };
    let helper = session::start_helper(&file, &[], &caller, false)?;
    sys::drop_to_caller(&caller).map_err(Failure::because)?;
    runtime::run(0, async {
        sys::remove_dead_control_sockets().await;
        let report = helper.sweep().await.map_err(|error| match error {
            devbox_helper_client::Error::Helper(error) => manual::cleanup_ways_out(&error),
            error => Failure::because(error),
        })?;
        match args.output {
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
