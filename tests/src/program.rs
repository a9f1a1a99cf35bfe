//! Finds or builds the program under test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, bail};

/// The `devbox` program under test: the file named by `DEVBOX_BIN`, otherwise the one beside the test executable, which is built
/// first (`cargo build -p devbox-cli`, once per test process).
///
/// # Errors
/// If there is no such file, or it cannot be built.
pub fn program() -> crate::Result<&'static Path> {
    static PROGRAM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match PROGRAM.get_or_init(|| find().map_err(|error| format!("{error:#}"))) {
        Ok(path) => Ok(path),
        Err(message) => bail!("{message}"),
    }
}

/// Whether bulk tests transfer their full size: if the program under test was built with optimisation, or the environment asks
/// for it (`DEVBOX_E2E_FULL=1`).
pub fn is_release() -> bool {
    let full = std::env::var_os("DEVBOX_E2E_FULL").is_some_and(|value| value == "1");
    full || program().is_ok_and(|path| path.components().any(|part| part.as_os_str() == "release"))
}

fn find() -> crate::Result<PathBuf> {
    if let Some(named) = std::env::var_os("DEVBOX_BIN") {
        let path = PathBuf::from(named);
        return path
            .canonicalize()
            .with_context(|| format!("DEVBOX_BIN names {}", path.display()));
    }
    // target/<profile>/deps/<test executable>
    let test = std::env::current_exe().context("own path")?;
    let folder = test
        .ancestors()
        .nth(2)
        .context("the test executable is not in a target folder")?;
    let release = folder.file_name().is_some_and(|profile| profile == "release");
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--quiet", "-p", "devbox-cli"]);
    if release {
        build.arg("--release");
    }
    build.current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = build.output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!(
            "cargo build -p devbox-cli failed:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let path = folder.join("devbox");
    if !path.is_file() {
        bail!(
            "{} does not exist after cargo build -p devbox-cli",
            path.display()
        );
    }
    Ok(path)
}
