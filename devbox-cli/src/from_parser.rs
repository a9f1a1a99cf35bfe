//! The manual pages, generated from the parser so that they are never behind it.

use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;
use clap_mangen::Man;

use crate::args::{Cli, ManArgs};
use crate::failure::{Failure, code};
use crate::print;

/// `devbox man`.
pub(crate) fn man(args: &ManArgs) -> Result<ExitCode, Failure> {
    match &args.dir {
        Some(folder) => {
            write_pages(folder)?;
            Ok(ExitCode::SUCCESS)
        }
        None => {
            let mut page = Vec::new();
            // The list of commands names the pages of those that have one.
            let command = Cli::command().disable_help_subcommand(true);
            Man::new(command).render(&mut page).map_err(Failure::because)?;
            print::out(&String::from_utf8_lossy(&page));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// One page a command: `devbox.1`, `devbox-up.1`, …
fn write_pages(folder: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), folder))
        .map_err(|error| Failure::new(code::FAILED, format!("{}: {error}", folder.display())))
}
