//! What packagers install beside the program, generated from the parser so that it is never behind it: shell completions and
//! manual pages.

use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::args::{Cli, ManArgs};
use crate::failure::{Failure, code};
use crate::print;

/// `devbox completions`.
pub(crate) fn completions(shell: Shell) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "devbox", &mut script);
    show(&script)
}

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
            show(&page)
        }
    }
}

/// One page a command: `devbox.1`, `devbox-up.1`, …
fn write_pages(folder: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), folder))
        .map_err(|error| Failure::new(code::FAILED, format!("{}: {error}", folder.display())))
}

fn show(text: &[u8]) -> Result<ExitCode, Failure> {
    print::out(&String::from_utf8_lossy(text));
    Ok(ExitCode::SUCCESS)
}
