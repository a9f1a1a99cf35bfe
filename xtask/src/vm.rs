//! `cargo xtask vm-test`: tests of the real kernel on a distribution's own, in a virtual machine.
//!
//! The machine is `tests/vm/run`, which Cargo calls as the runner of a test's program; the kernel that it gets is kept below `target/vm`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::check;
use crate::command::{output, program_in_root, root, target_dir};
use crate::programs::{self, FOR_VM};
use crate::steps::{Done, Steps};

/// The script's exit status where no machine can be had.
const NO_MACHINE: i32 = 77;

/// The steps of `vm-test`; skipped, with the reason, where no virtual machine can be had.
pub(crate) fn steps(steps: &mut Steps, may_install: bool, filters: &[String]) {
    let mut why = None;
    steps.step("vm", |_| {
        let had = machine(may_install)?;
        if let Done::Skipped(reason) = &had {
            why = Some(reason.clone());
        }
        Ok(had)
    });
    steps.step("vm tests", |skips| match why {
        Some(why) => Ok(Done::Skipped(why)),
        None => check::vm_tests(&script(), &cache(), filters, skips),
    });
}

/// Runs them alone.
pub(crate) fn test(may_install: bool, filters: &[String]) -> Result<ExitCode> {
    let mut all = Steps::default();
    steps(&mut all, may_install, filters);
    Ok(all.summary())
}

fn script() -> PathBuf {
    root().join("tests").join("vm").join("run")
}

fn cache() -> PathBuf {
    target_dir().join("vm")
}

/// Gets what a machine needs.
fn machine(may_install: bool) -> Result<Done> {
    if std::env::consts::OS != "linux" {
        return Ok(Done::Skipped("the virtual machine needs Linux".into()));
    }
    if let Some(first) = programs::provide(FOR_VM, may_install)?.into_iter().next() {
        return Ok(Done::Skipped(first));
    }
    let (status, text) = output(program_in_root(script()).arg(cache()))?;
    match status.code() {
        Some(0) => Ok(Done::passed()),
        Some(NO_MACHINE) => Ok(Done::Skipped(text.trim_end().to_owned())),
        _ => bail!("{}", text.trim_end()),
    }
}
