//! `cargo xtask bench`: the benches, built in release mode, with the `devbox` that is shipped.

use std::process::ExitCode;

use anyhow::Result;

use crate::command::{cargo, program_in_root, succeed, target_dir};
use crate::kube;
use crate::say::complain;

/// Builds and runs one bench; without a name, lists them.
pub(crate) fn run(name: Option<&str>, json: bool) -> Result<ExitCode> {
    complain("building devbox and the benches in release mode");
    // Builds of their own, as users build devbox: in one build, the crates that they share would get the features of all.
    for package in ["devbox-cli", "devbox-helper", "devbox-benches"] {
        succeed(cargo().args(["build", "--release", "-p", package]))?;
    }
    let built = target_dir().join("release");
    let file = |name: &str| built.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    let mut command = program_in_root(file("devbox-benches"));
    command
        .args(name)
        .args(json.then_some("--json"))
        .env("DEVBOX_BIN", file("devbox"));
    let node = match name {
        Some("kube") => kube::for_bench()?,
        _ => None,
    };
    if let Some(node) = &node {
        command.env("DEVBOX_KUBE", node.folder());
    }
    let status = command.status()?;
    if let Some(node) = node {
        node.end()?;
    }
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
