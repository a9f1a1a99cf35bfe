//! The bindings for other languages: generates what is committed, compares it with what the library says, and tests the packages.

mod kotlin;
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
        campaign_step(&mut steps);
    }
    Ok(steps.summary())
}

/// 1,000 sessions from each language, and what calls cost, behind [`steps`].
pub(crate) fn campaign_step(steps: &mut Steps) {
    steps.step("campaign", |_| campaign());
}

/// Compares what is committed with the library, and tests each package where its language is installed.
pub(crate) fn steps(steps: &mut Steps, may_install: bool) {
    steps.step("bindings", |_| drift());
    steps.step("python", |_| python(may_install));
    steps.step("kotlin", |_| jvm(may_install, Profile::Dev, &[]));
    steps.step("jdbc", |_| jdbc(may_install));
    steps.step("swift", |_| swift::scenario());
}

/// With the library as it is shipped. The figures are printed; that the memory stays flat and calls are cheap is checked.
fn campaign() -> Result<Done> {
    let python = venv().join("bin").join("python");
    if !python.is_file() {
        return Ok(Done::Skipped("the Python package is not installed".to_owned()));
    }
    succeed(cargo().args(["build", "-p", "devbox-ffi", "--release", "--locked"]))?;
    install_python_package(Profile::Release)?;
    let mut command = in_folder(&python, "bindings/python/tests");
    say(&succeed(command.arg("campaign.py").env("DEVBOX_BIN", devbox()))?.trim_end());
    if let Some(said) = swift::costs()? {
        say(&said.trim_end());
    }
    // Each class in a JVM of its own.
    let which = ["-Dgroups=campaign", "-DexcludedGroups=", "-DreuseForks=false"];
    jvm(false, Profile::Release, &which)
}

/// How a library is built: as for the other tests, so that nothing is built twice, or as it is shipped.
#[derive(Clone, Copy)]
enum Profile {
    Dev,
    Release,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Release => "release",
        }
    }

    fn folder(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }
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
            .arg(library(Profile::Dev))
            .args(["--no-format", "--language", language]);
        succeed(command.arg("--out-dir").arg(folder.join(language)))?;
    }
    kotlin::make_calls_cheaper(&folder.join("kotlin/rs/devbox/devbox.kt"))?;
    Ok(folder)
}

fn library(profile: Profile) -> PathBuf {
    let name = format!(
        "{}devbox_ffi{}",
        std::env::consts::DLL_PREFIX,
        std::env::consts::DLL_SUFFIX
    );
    target_dir().join(profile.folder()).join(name)
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

/// The package, installed into an environment of its own, and its tests against the built `devbox`.
fn python(may_install: bool) -> Result<Done> {
    let Some(python) = find_program("python3") else {
        return Ok(Done::Skipped("python3 is not installed".to_owned()));
    };
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
    install_python_package(Profile::Dev)?;
    let mut tests = in_folder(&venv.join("bin").join("python"), "bindings/python/tests");
    tests.args(["-m", "unittest"]).env("DEVBOX_BIN", devbox());
    let said = succeed(&mut tests)?;
    let count = said
        .lines()
        .find(|line| line.starts_with("Ran "))
        .unwrap_or_default();
    Ok(Done::Passed(count.to_owned()))
}

/// `pip install .`, with the maturin of the environment.
fn install_python_package(profile: Profile) -> Result<()> {
    let mut install = in_folder(&venv().join("bin").join("pip"), "bindings/python");
    install.args([
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
        "--force-reinstall",
        ".",
    ]);
    // Where `pip` finds the environment's maturin.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(venv().join("bin")).chain(std::env::split_paths(&path));
    install
        .env("PATH", std::env::join_paths(folders)?)
        .env("CARGO_TARGET_DIR", target_dir())
        .env(
            "MATURIN_PEP517_ARGS",
            format!("--profile {} --locked", profile.name()),
        );
    succeed(&mut install)?;
    Ok(())
}

/// The module for the JVM and its tests, by Maven.
fn jvm(may_install: bool, profile: Profile, which: &[&str]) -> Result<Done> {
    let Some(maven) = maven() else {
        return Ok(no_maven());
    };
    let mut command = in_folder(&maven, "bindings/kotlin");
    maven_arguments(&mut command, may_install, profile)?;
    let said = succeed(command.args(which).arg("test").env("DEVBOX_BIN", devbox()))?;
    if !which.is_empty() {
        say(&said.trim_end());
    }
    Ok(Done::passed())
}

/// The example app on the JVM against a real PostgreSQL, with the module from beside it.
fn jdbc(may_install: bool) -> Result<Done> {
    let Some(maven) = maven() else {
        return Ok(no_maven());
    };
    let Some(python) = find_program("python3") else {
        return Ok(Done::Skipped("python3 is not installed".to_owned()));
    };
    if fs::read_dir("/usr/lib/postgresql").is_err() {
        return Ok(Done::Skipped("PostgreSQL is not installed".to_owned()));
    }
    // Both modules in one build, so that nothing has to be installed into the user's repository.
    let folder = target_dir().join("bindings").join("jdbc");
    fs::create_dir_all(&folder)?;
    let up = "../".repeat(folder.components().count());
    let module = |path: &str| format!("<module>{up}{}</module>", root().join(path).display());
    let project = format!(
        "<project><modelVersion>4.0.0</modelVersion><groupId>io.github.devbox-rs</groupId><artifactId>both</artifactId>\
         <version>0.1.0</version><packaging>pom</packaging><modules>{}{}</modules></project>",
        module("bindings/kotlin"),
        module("examples/kotlin")
    );
    fs::write(folder.join("pom.xml"), project)?;
    let mut command = in_folder(&python, "bindings/python/tests");
    command.arg("postgres.py").arg(maven).arg("--file").arg(&folder);
    maven_arguments(&mut command, may_install, Profile::Dev)?;
    // The tests of the module itself have run before.
    succeed(command.args([
        "-Dtest=OrdersTest",
        "-Dsurefire.failIfNoSpecifiedTests=false",
        "test",
    ]))?;
    Ok(Done::passed())
}

fn maven() -> Option<PathBuf> {
    find_program("javac")?;
    find_program("mvn")
}

fn no_maven() -> Done {
    let how = "apt-get install maven default-jdk-headless";
    Done::Skipped(format!("Maven or a JDK is not installed; {how}"))
}

fn maven_arguments(command: &mut Command, may_install: bool, profile: Profile) -> Result<()> {
    command.args(["--quiet", "--batch-mode"]);
    if !may_install {
        command.arg("--offline");
    }
    command.arg(format!("-Ddevbox.native={}", native_folder(profile)?.display()));
    let build = target_dir().join("bindings").join("maven");
    command.arg(format!("-Ddevbox.build={}", build.display()));
    Ok(())
}

/// A folder with the library where JNA looks for it in a module's resources.
fn native_folder(profile: Profile) -> Result<PathBuf> {
    let system = match std::env::consts::OS {
        "macos" => "darwin",
        "windows" => "win32",
        system => system,
    };
    let machine = match std::env::consts::ARCH {
        "x86_64" => "x86-64",
        machine => machine,
    };
    let native = target_dir().join("bindings").join("native").join(profile.name());
    let folder = native.join(format!("{system}-{machine}"));
    fs::create_dir_all(&folder)?;
    let library = library(profile);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The Gradle module is not built here, so at least it asks for what the Maven module was tested with.
    #[test]
    fn gradle_and_maven_ask_for_the_same_versions() {
        let read = |file: &str| fs::read_to_string(root().join("bindings/kotlin").join(file)).unwrap();
        let (pom, gradle) = (read("pom.xml"), read("build.gradle.kts"));
        let between = |text: &str, before: &str, after: &str| {
            let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("no {before}"));
            rest.split_once(after).unwrap().0.to_owned()
        };
        let of_pom = |artifact: &str| {
            let (_, rest) = pom
                .split_once(&format!("<artifactId>{artifact}</artifactId>"))
                .unwrap();
            between(rest, "<version>", "</version>")
        };
        for artifact in ["kotlinx-coroutines-core", "jna", "junit-jupiter"] {
            let version = between(&gradle, &format!(":{artifact}:"), "\"");
            assert_eq!(version, of_pom(artifact), "{artifact}");
        }
        assert_eq!(
            between(&gradle, "kotlin(\"jvm\") version \"", "\""),
            between(&pom, "<kotlin.version>", "</kotlin.version>")
        );
        assert_eq!(between(&gradle, "\nversion = \"", "\""), of_pom("devbox"));
        assert_eq!(
            between(&gradle, "jvmToolchain(", ")"),
            between(&pom, "<maven.compiler.release>", "</maven.compiler.release>")
        );
    }
}
