//! `cargo xtask test`: the list of checks, the same for a developer and for CI.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::arch;
use crate::bindings;
use crate::campaigns;
use crate::command::{cargo, find_program, lines, output, root, succeed, target_dir};
use crate::cross;
use crate::kube;
use crate::package;
use crate::programs::{self, FOR_TESTS};
use crate::readme::{self, How};
use crate::say::say;
use crate::steps::{Done, Steps};
use crate::test_output::TestOutput;
use crate::vm;

/// Runs all checks; with filters, only the tests whose names contain one of them; with `all`, the campaigns as well.
pub(crate) fn test(may_install: bool, filters: &[String], all: bool) -> Result<ExitCode> {
    let mut steps = Steps::default();
    steps.loud_step("programs", "that the end-to-end tests run", |skips| {
        provide(may_install, skips)
    });
    if filters.is_empty() {
        steps.step("format", |_| {
            done(cargo().args(["fmt", "--all", "--check", "--", "--files-with-diff"]))
        });
        steps.step("arch", |_| architecture());
        steps.step("clippy", |_| {
            done(cargo().args([
                "clippy",
                "--workspace",
                "--all-targets",
                "--locked",
                "--",
                "-D",
                "warnings",
            ]))
        });
        steps.step("features", |_| features());
    }
    // In release mode, as the README's first command builds it: the tests run the program that is shipped.
    steps.step("build", |_| build());
    steps.loud_step("tests", "unit, property, end-to-end, documentation", |skips| {
        tests(filters, skips)
    });
    if filters.is_empty() {
        steps.step("doc", |_| {
            done(
                cargo()
                    .args(["doc", "--workspace", "--no-deps", "--locked"])
                    .env("RUSTDOCFLAGS", "-D warnings"),
            )
        });
        readme_blocks(&mut steps)?;
        steps.step("fuzz", |_| fuzz_targets());
        steps.step("deny", |_| deny());
        steps.step("package", |_| package::leaves_can_be_published());
        bindings::steps(&mut steps, may_install);
        cross::steps(&mut steps, may_install);
        vm::steps(&mut steps, may_install, &[]);
        kube::steps(&mut steps, may_install, &[], kube::NoNode::Skips);
    }
    if all {
        campaigns::steps(&mut steps, may_install, &[]);
    }
    Ok(steps.summary())
}

/// Runs only the commands in the READMEs.
pub(crate) fn readme_only() -> Result<ExitCode> {
    let mut steps = Steps::default();
    readme_blocks(&mut steps)?;
    Ok(steps.summary())
}

/// Runs only the checks for other operating systems.
pub(crate) fn cross_only(may_install: bool) -> Result<ExitCode> {
    let mut steps = Steps::default();
    cross::steps(&mut steps, may_install);
    Ok(steps.summary())
}

/// Runs the campaign of hostile peers; with names, only these attacks. Whether all of them were withstood.
pub(crate) fn attack(names: &[String]) -> Result<bool> {
    succeed(cargo().args(["build", "--release", "-p", "devbox-cli", "--locked"]))?;
    let mut command = cargo();
    command.args([
        "run",
        "--quiet",
        "--locked",
        "-p",
        "devbox-tests",
        "--bin",
        "attacks",
        "--",
    ]);
    let status = command.args(names).env("DEVBOX_BIN", devbox()).status()?;
    Ok(status.success())
}

fn done(command: &mut Command) -> Result<Done> {
    succeed(command)?;
    Ok(Done::passed())
}

/// Libraries that are built with less than their default features, and with what: nothing, or these.
const FEATURES: &[(&str, &[&str])] = &[
    ("devbox-engine", &["", "direct", "gateway"]),
    ("ipalloc", &[""]),
    ("nameserver", &["", "server"]),
    ("tunnel-bridge", &["", "tls", "websocket", "tls,websocket"]),
];

/// What is used only with a feature is no dead code without it.
fn features() -> Result<Done> {
    for (package, combinations) in FEATURES {
        for combination in *combinations {
            let features = format!("--features={combination}");
            let check = ["clippy", "--package", package, "--no-default-features", &features];
            succeed(cargo().args(check).args(["--locked", "--", "-D", "warnings"]))?;
        }
    }
    Ok(Done::passed())
}

fn provide(may_install: bool, skips: &mut Vec<String>) -> Result<Done> {
    let absent = programs::provide(FOR_TESTS, may_install)?;
    let note = if absent.is_empty() {
        "all installed".to_owned()
    } else {
        format!("{} missing", absent.len())
    };
    skips.extend(absent);
    Ok(Done::Passed(note))
}

fn architecture() -> Result<Done> {
    let breaches = arch::check()?;
    if breaches.is_empty() {
        return Ok(Done::Passed(format!("{} rules hold", arch::RULES)));
    }
    bail!(
        "{}",
        breaches
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    )
}

/// The program that is tested.
pub(crate) fn build() -> Result<Done> {
    done(cargo().args(["build", "--release", "-p", "devbox-cli", "--locked"]))
}

fn tests(filters: &[String], skips: &mut Vec<String>) -> Result<Done> {
    let mut command = cargo();
    // Not `--all-targets`: it would build the examples as tests, but some tests run an example.
    command.args(["test", "--workspace", "--locked", "--no-fail-fast"]);
    run_tests(command, filters, skips)
}

/// The tests that need a Kubernetes node, with the one in `node`.
pub(crate) fn kube_tests(node: &Path, filters: &[String], skips: &mut Vec<String>) -> Result<Done> {
    let mut command = cargo();
    command.args(["test", "--locked", "-p", "devbox-tests", "--test", "kube"]);
    command.env("DEVBOX_KUBE", node);
    run_tests(command, filters, skips)
}

/// The tests of the kernel, run by `script` in a virtual machine. It starts in a few seconds, and is slow: one test at a time.
pub(crate) fn vm_tests(
    script: &Path,
    cache: &Path,
    filters: &[String],
    skips: &mut Vec<String>,
) -> Result<Done> {
    let mut command = cargo();
    command.args(["test", "--locked", "-p", "netif", "--test", "kernel"]);
    let runner = format!("target.'cfg(all())'.runner=[{script:?}, {cache:?}]");
    command.args(["--config", &runner]).env("RUST_TEST_THREADS", "1");
    run_tests(command, filters, skips)
}

/// The installed helper on a machine with systemd, which starts from `disk`: the programs that are shipped.
pub(crate) fn systemd_tests(
    script: &Path,
    disk: &Path,
    cache: &Path,
    skips: &mut Vec<String>,
) -> Result<Done> {
    succeed(cargo().args([
        "build",
        "--release",
        "--locked",
        "-p",
        "devbox-cli",
        "-p",
        "devbox-helper",
    ]))?;
    let mut command = cargo();
    command.args(["test", "--locked", "-p", "devbox-helper", "--test", "systemd"]);
    let devbox = devbox();
    let helper = devbox.with_file_name("devbox-helper");
    let runner = format!(
        "target.'cfg(all())'.runner=[{script:?}, \"--disk\", {disk:?}, \"--with\", {devbox:?}, \"--with\", {helper:?}, {cache:?}]"
    );
    command.args(["--config", &runner]).env("VM_SECONDS", "900");
    run_tests(command, &[], skips)
}

/// Runs `cargo test`, whose own arguments may have ended with `--`.
pub(crate) fn run_tests(mut command: Command, filters: &[String], skips: &mut Vec<String>) -> Result<Done> {
    if command.get_args().all(|argument| argument != "--") {
        command.arg("--");
    }
    command.arg("--show-output").args(filters);
    command.env("DEVBOX_BIN", devbox());
    // A snapshot that differs is a failure, here as in CI, and never updated.
    command.env("INSTA_UPDATE", "no");
    let mut output = TestOutput::default();
    let status = lines(&mut command, |line| {
        if output.line(line) {
            say(&line);
        }
    })?;
    skips.append(&mut output.skips);
    if !status.success() {
        bail!("{} tests failed: {}", output.failed, output.failures.join(", "));
    }
    Ok(Done::Passed(format!("{} tests passed", output.passed)))
}

/// The `devbox` that the end-to-end tests run.
pub(crate) fn devbox() -> PathBuf {
    target_dir()
        .join("release")
        .join(format!("devbox{}", std::env::consts::EXE_SUFFIX))
}

fn readme_blocks(steps: &mut Steps) -> Result<()> {
    for file in readmes()? {
        let text = std::fs::read_to_string(root().join(&file)).with_context(|| file.display().to_string())?;
        let blocks = readme::blocks(&text).with_context(|| file.display().to_string())?;
        for block in blocks {
            let place = readme::place(&file, &block);
            steps.step(&format!("readme {place}"), |_| match &block.how {
                How::Skip(reason) => Ok(Done::Skipped(reason.clone())),
                _ => readme::run(&block).map(|()| Done::passed()),
            });
        }
    }
    Ok(())
}

/// The README.md of the project and of each crate, relative to the root.
fn readmes() -> Result<Vec<PathBuf>> {
    let root = root();
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&root)? {
        let folder = PathBuf::from(entry?.file_name());
        let readme = folder.join("README.md");
        if root.join(&folder).join("Cargo.toml").is_file() && root.join(&readme).is_file() {
            files.push(readme);
        }
    }
    files.sort();
    files.insert(0, PathBuf::from("README.md"));
    Ok(files)
}

/// The fuzz targets are a workspace of their own; this only checks that they still compile against the crates.
fn fuzz_targets() -> Result<Done> {
    let manifest = root().join("fuzz").join("Cargo.toml");
    if !manifest.is_file() {
        return Ok(Done::Skipped("there are none".into()));
    }
    if find_program("c++").is_none() {
        return Ok(Done::Skipped(
            "libFuzzer needs a C++ compiler; apt-get install g++".into(),
        ));
    }
    let mut command = cargo();
    command
        .args(["check", "--all-targets", "--manifest-path"])
        .arg(manifest);
    done(command.env("CARGO_TARGET_DIR", target_dir().join("fuzz")))
}

fn deny() -> Result<Done> {
    if find_program("cargo-deny").is_none() {
        return Ok(Done::Skipped(
            "cargo-deny is not installed; cargo install cargo-deny".into(),
        ));
    }
    let (status, text) = output(cargo().args(["deny", "--all-features", "check"]))?;
    if status.success() {
        return Ok(Done::passed());
    }
    // The list of advisories comes from the network; the other checks need only the graph.
    if text.contains("failed to fetch advisory database") {
        succeed(cargo().args(["deny", "--all-features", "check", "bans", "licenses", "sources"]))?;
        return Ok(Done::Passed(
            "without advisories: the list cannot be downloaded".into(),
        ));
    }
    bail!("{}", text.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readmes_of_the_project_and_its_crates_are_found() {
        let found = readmes().unwrap();
        assert_eq!(found[0], Path::new("README.md"));
        for expected in ["hostsfile/README.md", "process-scope/README.md"] {
            assert!(found.iter().any(|file| file == Path::new(expected)), "{found:?}");
        }
        assert!(found.iter().all(|file| root().join(file).is_file()), "{found:?}");
    }
}
