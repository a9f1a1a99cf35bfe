//! The project's own commands: `cargo xtask test`, `ci`, `arch`, `cross`, `bench`.
//!
//! Knows how the workspace is built, checked and measured; must not know how anything in it works. What a
//! developer types is what CI runs: `ci` is `test`, and there is no second list of checks.
#![forbid(unsafe_code)]

mod arch;
mod bench;
mod check;
mod command;
mod cross;
mod package;
mod programs;
mod readme;
mod say;
mod steps;
mod sys;
mod test_output;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::say::{complain, say};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own commands", version)]
struct Arguments {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Everything that CI runs; with FILTERs only the tests whose names contain one of them
    Test {
        /// Leave the machine alone: a program that the end-to-end tests want and that is missing is skipped
        #[arg(long)]
        no_install: bool,
        /// Parts of test names
        #[arg(value_name = "FILTER")]
        filters: Vec<String>,
    },
    /// What `.ci/run` calls: the same as `test`
    Ci,
    /// The dependency rules of ARCHITECTURE.md against Cargo's graph and the sources
    Arch,
    /// The commands that README.md and the crates' READMEs show
    Readme,
    /// Check the workspace for Windows and macOS, and run what can be run under wine
    Cross {
        /// Leave the machine alone: a tool that is missing is not installed
        #[arg(long)]
        no_install: bool,
    },
    /// Build in release and measure; without a NAME, the list of benches
    Bench {
        /// Which bench
        name: Option<String>,
        /// One JSON object a figure, in place of the table
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            complain(&format!("xtask: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Test { no_install, filters } => check::test(!no_install, &filters),
        Verb::Ci => check::test(true, &[]),
        Verb::Arch => {
            let breaches = arch::check()?;
            for breach in &breaches {
                say(breach);
            }
            say(&format!("arch: {} rules, {} broken", arch::RULES, breaches.len()));
            Ok(if breaches.is_empty() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
        Verb::Readme => check::readme_only(),
        Verb::Cross { no_install } => check::cross_only(!no_install),
        Verb::Bench { name, json } => bench::run(name.as_deref(), json),
    }
}
