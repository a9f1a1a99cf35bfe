//! The `devbox` command: argv, configuration, text and exit codes. How anything works is in the crates below it.

#![deny(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::args::{Cli, Command, GatewayCommand};
use crate::failure::{Failure, code};

mod args;
mod background;
mod cleanup;
mod completion;
mod config;
mod demo;
mod dns;
mod dry_run;
mod ends;
mod exec;
mod failure;
mod fetch;
mod from_parser;
mod gateway;
mod helper;
mod hosts;
mod ip;
mod log_file;
mod logs;
mod output;
mod print;
mod rbac;
mod run;
mod runtime;
mod status;
mod sys;
mod up;
mod watch;
mod ways_out;

fn main() -> ExitCode {
    if completion::answer() {
        return ExitCode::SUCCESS;
    }
    let mut arguments = std::env::args_os().skip(1).peekable();
    let mut starter = None;
    // The program is its own helper, its own entry into a namespace, its own demo client and its own session in the
    // background, so that one file is all there is to copy.
    match arguments.peek().map(OsString::as_os_str).and_then(OsStr::to_str) {
        Some(helper::ARGUMENT) => return become_helper(arguments.skip(1)),
        Some(process_scope::HIDDEN_ARGUMENT) => return process_scope::enter(arguments.skip(1)),
        Some(fetch::ARGUMENT) => return fetch::enter(arguments.skip(1)),
        Some(background::ARGUMENT) => {
            arguments.next();
            match background::enter() {
                Ok(found) => starter = Some(found),
                Err(failure) => return failure.report(),
            }
        }
        _ => {}
    }
    let cli = match Cli::try_parse_from(std::iter::once("devbox".into()).chain(arguments)) {
        Ok(cli) => cli,
        Err(error) => return bad_arguments(&error),
    };
    let done = match &cli.command {
        Command::Up(args) => up::run(args, starter.as_ref()),
        Command::Exec(args) => exec::run(args),
        Command::Logs(args) => logs::run(args),
        Command::Status(args) => status::status(args),
        Command::Down(args) => status::down(args),
        Command::Cleanup(args) => cleanup::run(args),
        Command::Helper(command) => helper::installed::run(command),
        Command::Demo(args) => demo::run(args),
        Command::Gateway(GatewayCommand::Serve(args)) => gateway::serve(args),
        Command::Gateway(GatewayCommand::Manifests(args)) => Ok(gateway::manifests(args)),
        Command::Hosts(args) => hosts::run(args),
        Command::Ip(args) => ip::run(args),
        Command::Dns(args) => dns::run(args),
        Command::Rbac(args) => rbac::run(args),
        Command::Completions(args) => completion::script(args.shell),
        Command::Man(args) => from_parser::man(args),
    };
    let code = done.unwrap_or_else(|failure| failure.report());
    match output::lost() {
        Some(why) if code == ExitCode::SUCCESS => {
            Failure::new(code::FAILED, format!("cannot write to standard output: {why}")).report()
        }
        _ => code,
    }
}

/// Becomes the helper. It speaks over its channel; its standard error is read only if that fails.
fn become_helper(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    match devbox_helper::enter(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => Failure::because(error).report(),
    }
}

/// Help goes to standard output. A mistake exits with 1, not with clap's 2, which means here that something is in the way;
/// with 125 for `exec`, whose other codes are its command's.
fn bad_arguments(error: &clap::Error) -> ExitCode {
    if error.print().is_err() {
        tracing::debug!("nobody reads the message");
    }
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ if std::env::args_os().nth(1).is_some_and(|first| first == "exec") => {
            ExitCode::from(code::EXEC_FAILED)
        }
        _ => ExitCode::from(code::FAILED),
    }
}
