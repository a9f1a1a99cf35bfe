//! The project's own commands: `cargo xtask test`, `ci`, `arch`, `bindings`, `cross`, `kube-test`, `vm-test`, `image`, `attack`, `bench`.
//!
//! Knows how the workspace is built, checked and measured; must not know how anything in it works. CI runs exactly what a
//! developer runs: `ci` is `test`, and there is no second list of checks.
#![forbid(unsafe_code)]

mod arch;
mod bench;
mod bindings;
mod campaigns;
mod check;
mod command;
mod cross;
mod image;
mod kube;
mod oci;
mod package;
mod programs;
mod readme;
mod say;
mod steps;
mod sys;
mod test_output;
mod vm;

use std::path::PathBuf;
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
    /// Run everything that CI runs; with FILTERs, only the tests whose names contain one of them
    Test {
        /// Also the campaigns that look for the rare: an hour and more
        #[arg(long, conflicts_with = "filters")]
        all: bool,
        /// Install nothing; skip end-to-end tests whose programs are missing
        #[arg(long)]
        no_install: bool,
        /// Part of a test's name
        #[arg(value_name = "FILTER")]
        filters: Vec<String>,
    },
    /// Run the campaigns of `test --all` alone, or those of these names: links, resolvers, kills, systemd, bindings, attack, image
    Campaign {
        /// Install nothing
        #[arg(long)]
        no_install: bool,
        /// A campaign
        #[arg(value_name = "NAME")]
        names: Vec<String>,
    },
    /// The same as `test`, for CI
    Ci,
    /// Check Cargo's graph and the sources against the rules of ARCHITECTURE.md
    Arch,
    /// Generate the committed parts of the bindings for other languages anew; with --test, compare them and test the packages
    Bindings {
        /// Compare and test, and change nothing
        #[arg(long)]
        test: bool,
        /// Install Swift for it, in a Debian of its own below the target folder
        #[arg(long, requires = "test")]
        swift: bool,
        /// Start and stop 1,000 sessions from each language, and measure what calls cost
        #[arg(long, requires = "test")]
        campaign: bool,
        /// Install nothing
        #[arg(long)]
        no_install: bool,
    },
    /// Run the commands shown in README.md and in the crates' READMEs
    Readme,
    /// Check the workspace for Windows and macOS, and run the portable crates' tests under Wine
    Cross {
        /// Install nothing; skip what needs a missing tool
        #[arg(long)]
        no_install: bool,
    },
    /// Start a Kubernetes node, run the tests that need one, and end it; with FILTERs, only the tests whose names contain one of them
    KubeTest {
        /// Install nothing
        #[arg(long)]
        no_install: bool,
        /// Part of a test's name
        #[arg(value_name = "FILTER")]
        filters: Vec<String>,
    },
    /// Run the tests of the real kernel on a distribution's kernel, in a virtual machine; with FILTERs, only those whose names contain one
    VmTest {
        /// Run the installed helper under a distribution's systemd instead, through a start of the machine: minutes
        #[arg(long, conflicts_with = "filters")]
        systemd: bool,
        /// Install nothing
        #[arg(long)]
        no_install: bool,
        /// Part of a test's name
        #[arg(value_name = "FILTER")]
        filters: Vec<String>,
    },
    /// A Kubernetes node to try things with
    #[command(subcommand)]
    Kube(KubeVerb),
    /// Make the gateway's container image
    Image {
        /// Its name and tag
        #[arg(long, default_value = image::REFERENCE)]
        reference: String,
        /// The file to write [default: target/image/gateway.tar]
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Build in release mode, and let hostile peers attack it: minutes, and a table of memory and of what others noticed
    Attack {
        /// The attacks to make [default: all]
        names: Vec<String>,
    },
    /// Build in release mode and run a bench; without a NAME, list them
    Bench {
        /// The bench to run
        name: Option<String>,
        /// Print one JSON object per figure instead of the table
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
enum KubeVerb {
    /// Build what it needs, and start it
    Up,
    /// End it, and remove what it left
    Down,
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
        Verb::Test {
            no_install,
            all,
            filters,
        } => check::test(!no_install, &filters, all),
        Verb::Campaign { no_install, names } => campaigns::run(!no_install, &names),
        Verb::Ci => check::test(true, &[], false),
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
        Verb::Bindings { test: false, .. } => bindings::generate(),
        Verb::Bindings {
            no_install,
            swift,
            campaign,
            ..
        } => bindings::test(!no_install, swift, campaign),
        Verb::Readme => check::readme_only(),
        Verb::Cross { no_install } => check::cross_only(!no_install),
        Verb::KubeTest { no_install, filters } => kube::test(!no_install, &filters),
        Verb::VmTest {
            no_install,
            systemd: true,
            ..
        } => vm::systemd(!no_install),
        Verb::VmTest {
            no_install, filters, ..
        } => vm::test(!no_install, &filters),
        Verb::Kube(KubeVerb::Up) => kube::up(),
        Verb::Kube(KubeVerb::Down) => kube::down(),
        Verb::Image { reference, to } => image::run(&reference, to.as_deref()),
        Verb::Attack { names } => Ok(if check::attack(&names)? {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }),
        Verb::Bench { name, json } => bench::run(name.as_deref(), json),
    }
}
