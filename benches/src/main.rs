//! `devbox-benches NAME [--json]`, normally by way of `cargo xtask bench`.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use devbox_benches::{BENCHES, Report, load};

fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(io::stderr(), "bench: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(mut arguments: Vec<String>) -> Result<()> {
    if arguments.first().is_some_and(|first| first == load::ARGUMENT) {
        return load::serve(&arguments[1..]);
    }
    let json = arguments
        .iter()
        .position(|argument| argument == "--json")
        .map(|at| arguments.remove(at))
        .is_some();
    let mut out = io::stdout().lock();
    let [name] = arguments.as_slice() else {
        for bench in BENCHES {
            writeln!(out, "{:<10} {}", bench.name, bench.about)?;
        }
        if arguments.is_empty() {
            return Ok(());
        }
        bail!("one NAME, and --json if you like");
    };
    let bench = BENCHES.iter().find(|bench| bench.name == *name);
    let bench = bench.with_context(|| {
        let known: Vec<_> = BENCHES.iter().map(|bench| bench.name).collect();
        format!("no bench is called {name}; there are: {}", known.join(", "))
    })?;
    let mut report = Report::new(bench.name);
    (bench.run)(&mut report)?;
    if json {
        write!(out, "{}", report.json_lines())?;
        // Notes are for people, and a program that reads figures has no line for them.
        for note in report.notes() {
            writeln!(io::stderr(), "{note}")?;
        }
    } else {
        write!(out, "{}", report.table())?;
    }
    Ok(())
}
