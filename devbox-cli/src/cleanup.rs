//! `devbox cleanup`: what was left where a session and its helper were both killed.

use std::process::ExitCode;

use devbox_engine::{Error, system_hosts_file};
use devbox_helper_client::{HelperError, SweepReport};

use crate::args::{CleanupArgs, Output};
use crate::failure::{Failure, code};
use crate::{helper, print, runtime, sys, ways_out};

/// Removes the blocks whose owner is dead: by the helper, within its policy.
pub(crate) fn run(args: &CleanupArgs) -> Result<ExitCode, Failure> {
    let caller = sys::caller().map_err(Failure::because)?;
    let file = match &args.hosts_file {
        Some(file) => std::path::absolute(file).map_err(Failure::because)?,
        None => system_hosts_file().map_err(Failure::because)?,
    };
    let helper = helper::start(&helper::Wanted::of(&file), &caller)?;
    sys::drop_to_caller(&caller).map_err(Failure::because)?;
    runtime::run(0, async {
        let report = helper.clean_up().await.map_err(|error| match error {
            Error::Helper(devbox_helper_client::Error::Helper(error)) => ways_out::of_cleanup(&error),
            error => error.into(),
        })?;
        match args.output.form() {
            Output::Json => print::json(&report),
            Output::Text => print::out(&told(&report)),
        }
        if report.network.failed > 0 {
            let failed = format!(
                "{} changes of the network could not be undone",
                report.network.failed
            );
            return Err(Failure::new(code::FAILED, failed)
                .help("they are tried again by every helper that root starts"));
        }
        if report.left.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        Err(ways_out::of_cleanup(&HelperError::LinesLeft {
            file: report.file,
            lines: report.left,
        }))
    })
}

fn told(report: &SweepReport) -> String {
    let file = report.file.display();
    let blocks = report
        .removed
        .iter()
        .map(|block| format!("{file}: removed block {}\n", block.tag));
    let mut text: String = blocks.collect();
    match report.stray_lines {
        0 => {}
        1 => text.push_str(&format!(
            "{file}: removed 1 line of a session whose markers were missing\n"
        )),
        lines => text.push_str(&format!(
            "{file}: removed {lines} lines of sessions whose markers were missing\n"
        )),
    }
    match report.network.removed {
        0 => {}
        1 => text.push_str("network: undid 1 change of a session\n"),
        changes => text.push_str(&format!("network: undid {changes} changes of sessions\n")),
    }
    for left in &report.network.left {
        text.push_str(&format!("network: left {left}\n"));
    }
    if text.is_empty() && report.left.is_empty() {
        text = format!("{file}: nothing to clean up\n");
    }
    text
}
