//! `--dry-run`: what a session would do, printed.

use std::path::Path;
use std::process::ExitCode;

use devbox_engine::{Config, Conflict, Plan};
use serde::Serialize;

use crate::args::Output;
use crate::failure::Failure;
use crate::print;

#[derive(Serialize)]
struct Shown<'a> {
    event: &'static str,
    services: &'a [devbox_session::ServiceReport],
    hosts_file: Option<&'a Path>,
    diff: &'a str,
    conflicts: &'a [Conflict],
}

/// Prints what a session with this configuration would do. `root` says whether its helper would be root.
pub(crate) async fn run(config: &Config, root: bool, output: Output) -> Result<ExitCode, Failure> {
    let Plan {
        status,
        hosts_file,
        diff,
        events,
        notices,
        conflicts,
        ..
    } = devbox_engine::plan(config, root, devbox_helper::owner::is_alive).await?;
    notices
        .iter()
        .map(print::notice)
        .for_each(|line| print::note(&line));
    events
        .iter()
        .filter_map(print::event)
        .for_each(|line| print::note(&line));
    match output {
        Output::Json => print::json(&Shown {
            event: "plan",
            services: &status.services,
            hosts_file: hosts_file.as_deref(),
            diff: &diff,
            conflicts: &conflicts,
        }),
        Output::Text => {
            conflicts
                .iter()
                .map(print::conflict)
                .for_each(|line| print::note(&line));
            print::out(&print::services(&status));
            if !diff.is_empty() {
                print::out(&format!("\n{diff}"));
            }
            print::out("nothing was changed\n");
        }
    }
    Ok(ExitCode::SUCCESS)
}
