//! Runs a command that sees more names: `with-hosts 'ADDRESS NAME' … -- COMMAND [ARGUMENT…]`.
//!
//! It puts the lines behind the system's hosts file. `--update-from FIFO` reads a whole hosts file from there later, and
//! makes it the command's; `--stay` stays behind for what the command leaves running; `--probe` only says whether this system can
//! do it.

#![expect(clippy::print_stderr, reason = "a program of its own, with a terminal")]

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use process_scope::{Back, Error, PrivateHosts, Scope, ScopedCommand, Side};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let first = arguments.next();
    if first
        .as_deref()
        .is_some_and(|first| first == process_scope::HIDDEN_ARGUMENT)
    {
        return process_scope::enter(arguments);
    }
    match run(first.into_iter().chain(arguments)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("with-hosts: {error}");
            eprintln!("{error:?}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(mut arguments: impl Iterator<Item = OsString>) -> Result<ExitCode, Error> {
    let mut hosts = std::fs::read("/etc/hosts").unwrap_or_default();
    let (mut updates, mut stay) = (None, false);
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--") => break,
            Some("--probe") => return process_scope::probe().map(|()| ExitCode::SUCCESS),
            Some("--stay") => stay = true,
            Some("--update-from") => updates = arguments.next().map(PathBuf::from),
            _ => {
                hosts.extend_from_slice(argument.as_encoded_bytes());
                hosts.push(b'\n');
            }
        }
    }
    if stay {
        return match process_scope::split()? {
            Side::Front(front) => process_scope::die_like(front.wait()?),
            Side::Back(mut back) => run_behind(&mut back, &Scope::new(hosts), ScopedCommand::new(arguments)),
        };
    }
    // Ctrl-C is the command's affair; a real program installs handlers for that (see the crate's documentation).
    let mut command = process_scope::spawn(&Scope::new(hosts), &ScopedCommand::new(arguments))?;
    if let Some(fifo) = updates {
        let hosts = command.hosts;
        std::thread::spawn(move || follow(hosts, &fifo));
    }
    let outcome = process_scope::wait(&mut command.child)?;
    process_scope::die_like(outcome)
}

fn run_behind(back: &mut Back, scope: &Scope, command: ScopedCommand) -> Result<ExitCode, Error> {
    back.adopt_orphans()?;
    let command = process_scope::spawn(scope, &command.group(back.job()))?;
    back.command_runs()?;
    let mut tree = command.tree(back)?;
    let outcome = tree.wait()?;
    if tree.is_over() {
        process_scope::die_like(outcome);
    }
    back.release(outcome)?;
    tree.wait_for_rest();
    Ok(ExitCode::SUCCESS)
}

fn follow(mut hosts: PrivateHosts, fifo: &std::path::Path) {
    while let Ok(content) = std::fs::read(fifo) {
        if let Err(error) = hosts.update(&content) {
            eprintln!("with-hosts: {error}");
        }
    }
}
