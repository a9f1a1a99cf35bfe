//! The bindings for other languages: generates what is committed, compares it with what the library says, and tests the packages.

mod swift;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::command::{cargo, find_program, program_in_root, root, succeed, target_dir};
use crate::say::say;
use crate::steps::{Done, Steps};

/// What is committed, and the names under which the generator writes it.
const COMMITTED: [(&str, &str, &str); 4] = [
    (
        "kotlin",
        "rs/devbox/devbox.kt",
        "bindings/kotlin/src/main/kotlin/rs/devbox/devbox.kt",
    ),
    (
        "swift",
        "DevboxGenerated.swift",
        "bindings/swift/Sources/Devbox/DevboxGenerated.swift",
    ),
    (
        "swift",
        "DevboxFFI.h",
        "bindings/swift/Sources/DevboxFFI/DevboxFFI.h",
    ),
    (
        "swift",
        "DevboxFFI.modulemap",
        "bindings/swift/Sources/DevboxFFI/module.modulemap",
    ),
];

/// What builds the wheel, and what the example needs.
const PYTHON_PACKAGES: [&str; 2] = ["maturin==1.16.0", "psycopg[binary]==3.3.9"];

/// Generates what is committed.
pub(crate) fn generate() -> Result<ExitCode> {
    let generated = generated()?;
    for (language, name, place) in COMMITTED {
        let place = root().join(place);
        let folder = place.parent().context("a file in the root")?;
        fs::create_dir_all(folder)?;
        fs::copy(generated.join(language).join(name), &place).with_context(|| place.display().to_string())?;
        say(&place.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs only the tests of the packages, against the `devbox` in `DEVBOX_BIN` if that is set. With `swift`, Swift is installed where
/// it is missing; with `campaign`, 1,000 sessions and what calls cost come last.
pub(crate) fn test(may_install: bool, swift: bool, campaign: bool) -> Result<ExitCode> {
    let mut steps = Steps::default();
    if std::env::var_os("DEVBOX_BIN").is_none() {
        steps.step("build", |_| crate::check::build());
    }
    if swift && may_install {
        steps.step("swiftlang", |_| swift::install());
    }
    self::steps(&mut steps, may_install);
    if campaign {
        steps.step("campaign", |_| self::campaign());
    }
    Ok(steps.summary())
}

/// Compares what is committed with the library, and tests each package where its language is installed.
pub(crate) fn steps(steps: &mut Steps, may_install: bool) {
    steps.step("bindings", |_| drift());
    steps.step("python", |_| python(may_install));
    steps.step("kotlin", |_| kotlin(may_install, &[]));
    steps.step("swift", |_| swift::scenario());
}

/// The figures are printed; that the memory stays flat is checked. The packages are those that were tested before.
fn campaign() -> Result<Done> {
    let python = venv().join("bin").join("python");
    if !python.is_file() {
        return Ok(Done::Skipped("the Python package is not installed".to_owned()));
    }
    let mut command = in_folder(&python, "bindings/python/tests");
    say(&succeed(command.arg("campaign.py").env("DEVBOX_BIN", devbox()))?.trim_end());
    kotlin(false, &["-Dgroups=campaign", "-DexcludedGroups="])
}

/// The program that is gateway and helper in the tests.
fn devbox() -> PathBuf {
    std::env::var_os("DEVBOX_BIN").map_or_else(crate::check::devbox, PathBuf::from)
}

fn venv() -> PathBuf {
    target_dir().join("bindings").join("venv")
}

/// Builds the library, and generates from that very library: the two compare themselves when they meet.
fn generated() -> Result<PathBuf> {
    succeed(cargo().args(["build", "-p", "devbox-ffi", "--features", "bindgen", "--locked"]))?;
    let folder = target_dir().join("bindings").join("generated");
    for language in ["kotlin", "swift"] {
        let mut command = program_in_root(target_dir().join("debug").join("uniffi-bindgen"));
        command
            .arg("generate")
            .arg(library())
            .args(["--no-format", "--language", language]);
        succeed(command.arg("--out-dir").arg(folder.join(language)))?;
    }
    Ok(folder)
}

fn library() -> PathBuf {
    let name = format!(
        "{}devbox_ffi{}",
        std::env::consts::DLL_PREFIX,
        std::env::consts::DLL_SUFFIX
    );
    target_dir().join("debug").join(name)
}

fn drift() -> Result<Done> {
    let generated = generated()?;
    let differs = |(language, name, place): &(&str, &str, &str)| {
        fs::read(generated.join(language).join(name)).ok() != fs::read(root().join(place)).ok()
    };
    let different: Vec<_> = COMMITTED
        .iter()
        .filter(|file| differs(file))
        .map(|(_, _, place)| *place)
        .collect();
    if !different.is_empty() {
        bail!(
            "not what `cargo xtask bindings` generates: {}",
            different.join(", ")
        );
    }
    Ok(Done::Passed(format!("{} generated files", COMMITTED.len())))
}

/// The wheel, installed into an environment of its own, and its tests against the built `devbox`.
fn python(may_install: bool) -> Result<Done> {
    let Some(python) = find_program("python3") else {
        return Ok(Done::Skipped("python3 is not installed".to_owned()));
    };
    let folder = target_dir().join("bindings");
    let venv = venv();
    let maturin = venv.join("bin").join("maturin");
    if !maturin.is_file() {
        if !may_install {
            return Ok(Done::Skipped("maturin is not installed, --no-install".to_owned()));
        }
        let made = succeed(program_in_root(python).args(["-m", "venv"]).arg(&venv)).and_then(|_| {
            succeed(
                program_in_root(venv.join("bin").join("pip"))
                    .args(["install", "--quiet"])
                    .args(PYTHON_PACKAGES),
            )
        });
        if let Err(error) = made {
            return Ok(Done::Skipped(last_line("maturin cannot be installed", &error)));
        }
    }
    let wheels = folder.join("wheels");
    if wheels.is_dir() {
        fs::remove_dir_all(&wheels)?;
    }
    // The profile of the other tests, so that nothing is built twice.
    let mut build = in_folder(&maturin, "bindings/python");
    build
        .args(["build", "--profile", "dev", "--locked", "--out"])
        .arg(&wheels);
    succeed(build.env("CARGO_TARGET_DIR", target_dir()))?;
    let wheel = fs::read_dir(&wheels)?
        .next()
        .context("maturin made no wheel")??
        .path();
    let mut install = program_in_root(venv.join("bin").join("pip"));
    install.args([
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--force-reinstall",
    ]);
    succeed(install.arg(wheel))?;
    let mut tests = in_folder(&venv.join("bin").join("python"), "bindings/python/tests");
    tests.args(["-m", "unittest"]).env("DEVBOX_BIN", devbox());
    let said = succeed(&mut tests)?;
    let count = said
        .lines()
        .find(|line| line.starts_with("Ran "))
        .unwrap_or_default();
    Ok(Done::Passed(count.to_owned()))
}

/// The module for the JVM and its tests, by Maven.
fn kotlin(may_install: bool, which: &[&str]) -> Result<Done> {
    let (Some(maven), Some(_)) = (find_program("mvn"), find_program("javac")) else {
        let how = "apt-get install maven default-jdk-headless";
        return Ok(Done::Skipped(format!("Maven or a JDK is not installed; {how}")));
    };
    let native = native_folder()?;
    let mut command = in_folder(&maven, "bindings/kotlin");
    command.args(["--quiet", "--batch-mode"]);
    if !may_install {
        command.arg("--offline");
    }
    command.arg(format!("-Ddevbox.native={}", native.display()));
    command.arg(format!(
        "-Ddevbox.build={}",
        target_dir().join("bindings").join("maven").display()
    ));
    let said = succeed(command.args(which).arg("test").env("DEVBOX_BIN", devbox()))?;
    if !which.is_empty() {
        say(&said.trim_end());
    }
    Ok(Done::passed())
}

/// A folder with the library where JNA looks for it in a module's resources.
fn native_folder() -> Result<PathBuf> {
    let system = match std::env::consts::OS {
        "macos" => "darwin",
        "windows" => "win32",
        system => system,
    };
    let machine = match std::env::consts::ARCH {
        "x86_64" => "x86-64",
        machine => machine,
    };
    let native = target_dir().join("bindings").join("native");
    let folder = native.join(format!("{system}-{machine}"));
    fs::create_dir_all(&folder)?;
    let library = library();
    let name = library.file_name().context("a library without a name")?;
    fs::copy(&library, folder.join(name))?;
    Ok(native)
}

fn in_folder(program: &Path, folder: &str) -> Command {
    let mut command = program_in_root(program);
    command.current_dir(root().join(folder));
    command
}

fn last_line(what: &str, error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    format!("{what}: {}", text.lines().last().unwrap_or_default())
}
