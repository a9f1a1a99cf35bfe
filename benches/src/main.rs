//! `devbox-benches NAME [--json]`, normally run by `cargo xtask bench`.
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
    if devbox_benches::serve(&arguments)? {
        return Ok(());
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
        bail!("expected one NAME, and optionally --json");
    };
    let bench = BENCHES.iter().find(|bench| bench.name == *name);
    let bench = bench.with_context(|| {
        let known: Vec<_> = BENCHES.iter().map(|bench| bench.name).collect();
        format!("there is no bench {name}; the benches are: {}", known.join(", "))
    })?;
    let mut report = Report::new(bench.name);
    (bench.run)(&mut report)?;
    if json {
        write!(out, "{}", report.json_lines())?;
        // Notes are for people; the JSON output has no place for them.
        for note in report.notes() {
            writeln!(io::stderr(), "{note}")?;
        }
    } else {
        write!(out, "{}", report.table())?;
    }
    Ok(())
}
