//! `cargo xtask vm-test`: tests of the real kernel on a distribution's own, in a virtual machine.
//!
//! The machine is `tests/vm/run`, which Cargo calls as the runner of a test's program; the kernel that it gets is kept below `target/vm`,
//! and so is the disk with a distribution's systemd that `tests/vm/root` makes.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::check;
use crate::command::{output, program_in_root, root, target_dir};
use crate::programs::{self, FOR_VM, FOR_VM_DISK};
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
        None => check::vm_tests(&script("run"), &cache(), filters, skips),
    });
}

/// Runs them alone.
pub(crate) fn test(may_install: bool, filters: &[String]) -> Result<ExitCode> {
    let mut all = Steps::default();
    steps(&mut all, may_install, filters);
    Ok(all.summary())
}

/// Runs the story of the installed helper, on a machine with systemd.
pub(crate) fn systemd(may_install: bool) -> Result<ExitCode> {
    let mut steps = Steps::default();
    systemd_steps(&mut steps, may_install);
    Ok(steps.summary())
}

/// The steps of it; skipped, with the reason, where no virtual machine can be had.
pub(crate) fn systemd_steps(steps: &mut Steps, may_install: bool) {
    let mut lacking = None;
    let mut disk = PathBuf::new();
    steps.step("vm", |_| {
        let had = match machine(may_install)? {
            Done::Passed(_) => made_disk(may_install, &mut disk)?,
            skipped => skipped,
        };
        if let Done::Skipped(why) = &had {
            lacking = Some(why.clone());
        }
        Ok(had)
    });
    steps.step("systemd", |skips| match lacking {
        Some(why) => Ok(Done::Skipped(why)),
        None => check::systemd_tests(&script("run"), &disk, &cache(), skips),
    });
}

/// The file system of a machine with systemd, which is made once: minutes, most of them for packages to arrive.
fn made_disk(may_install: bool, disk: &mut PathBuf) -> Result<Done> {
    if let Some(first) = programs::provide(FOR_VM_DISK, may_install)?.into_iter().next() {
        return Ok(Done::Skipped(first));
    }
    let (status, text) = output(program_in_root(script("root")).arg(cache()))?;
    match (status.code(), text.lines().last()) {
        (Some(0), Some(path)) => {
            *disk = path.into();
            Ok(Done::passed())
        }
        (Some(NO_MACHINE), Some(why)) => Ok(Done::Skipped(why.to_owned())),
        _ => bail!("{}", text.trim_end()),
    }
}

fn script(name: &str) -> PathBuf {
    root().join("tests").join("vm").join(name)
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
    let (status, text) = output(program_in_root(script("run")).arg(cache()))?;
    match status.code() {
        Some(0) => Ok(Done::passed()),
        Some(NO_MACHINE) => Ok(Done::Skipped(text.trim_end().to_owned())),
        _ => bail!("{}", text.trim_end()),
    }
}
