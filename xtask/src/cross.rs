//! `cargo xtask cross`: checks the workspace for Windows and macOS, and for FreeBSD the crates that know it, and runs the tests of the
//! portable crates under Wine.
//!
//! A toolchain from rustup has only the standard library of the system it runs on. Debian's newer Rust (`rustc-web`) comes with
//! the library's source, so that it can be built for another target. All the tools are Debian packages; where they cannot be
//! installed, the steps are skipped with the reason.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::command::{output, program_in_root, shown, succeed, target_dir};
use crate::programs::{self, FOR_CROSS};
use crate::steps::{Done, Steps};
use crate::sys::make_executable;
use crate::test_output::TestOutput;

const WINDOWS: &str = "x86_64-pc-windows-gnu";
const MACOS: &str = "aarch64-apple-darwin";
const FREEBSD: &str = "x86_64-unknown-freebsd";

/// Everything but the end-to-end tests, which are only for Linux.
const WORKSPACE: &[&str] = &["--workspace", "--exclude", "devbox-tests"];

/// What knows FreeBSD as a system of its own.
const KNOW_FREEBSD: &[&str] = &[
    "--package",
    "netif",
    "--package",
    "devbox-helper-client",
    "--package",
    "devbox-helper",
];

/// Crates whose tests behave the same on every system, or are for Windows. The tests of the others are about another system, or about
/// sockets, which behave differently under Wine.
const TESTED_UNDER_WINE: &[&str] = &["hostsfile", "ipalloc", "netif", "service-catalog", "tunnel-proto"];

/// How long the tests of one program may take under Wine, all together. They take seconds.
const LIMIT: Duration = Duration::from_secs(600);

/// The library that Rust's std takes random numbers from.
const PROCESS_PRNG: &str = "bcryptprimitives.dll";

/// Crates with tests in `tests/windows.rs`: of a real registry, real pipes and a real service.
const TESTED_ON_WINDOWS: &[&str] = &["devbox-helper"];

/// Tests of those crates that cannot pass under Wine, and why.
const NOT_UNDER_WINE: &[(&str, &str)] = &[
    (
        "eight_processes_lose_nothing_and_readers_see_whole_files",
        "Wine replaces a file in two steps, and a reader in between finds no file",
    ),
    (
        "every_case_holds",
        "the cases expect Unix line ends, and a file that is replaced in one step",
    ),
    (
        "snapshot_of_",
        "insta runs cargo to find its snapshots, and there is no cargo under Wine",
    ),
];

/// Runs the steps; each is skipped, with the reason, if the machine lacks a tool.
pub(crate) fn steps(steps: &mut Steps, may_install: bool) {
    let absent = programs::provide(FOR_CROSS, may_install);
    let lacking = |absent: &Result<Vec<String>>| match absent {
        Ok(absent) => absent.first().cloned(),
        Err(error) => Some(format!("{error:#}")),
    };
    let skip = lacking(&absent);
    let mut step = |name: &str, work: fn(&mut Vec<String>) -> Result<Done>| {
        steps.step(name, |skips| {
            skip.as_ref()
                .map_or_else(|| work(skips), |why| Ok(Done::Skipped(why.clone())))
        });
    };
    step("windows", |_| check(WINDOWS, WORKSPACE));
    step("macos", |_| check(MACOS, WORKSPACE));
    step("freebsd", |_| check(FREEBSD, KNOW_FREEBSD));
    step("wine", tests_under_wine);
}

fn folder() -> PathBuf {
    target_dir().join("cross")
}

/// Debian's Cargo with Debian's rustc, building std from source for a target.
fn cargo(target: &str, std_parts: &str, arguments: &[&str]) -> Command {
    let mut command = program_in_root("/usr/bin/cargo");
    command.args(arguments).args([
        "--locked",
        "--target",
        target,
        &format!("-Zbuild-std={std_parts}"),
    ]);
    // Allows -Z options, such as -Zbuild-std, on a stable compiler.
    command
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTC", "/usr/bin/rustc")
        .env("RUSTDOC", "/usr/bin/rustdoc");
    command
        .env("CARGO_TARGET_DIR", folder())
        .env("CC_x86_64_pc_windows_gnu", "x86_64-w64-mingw32-gcc");
    // Set by the Cargo that runs us, for its own toolchain.
    for name in [
        "CARGO",
        "LD_LIBRARY_PATH",
        "RUSTUP_TOOLCHAIN",
        "RUSTC_WRAPPER",
        "RUSTFLAGS",
    ] {
        command.env_remove(name);
    }
    command
}

fn check(target: &str, packages: &[&str]) -> Result<Done> {
    fs::create_dir_all(folder())?;
    let mut command = cargo(target, "std,panic_abort", &["check", "--quiet"]);
    command.args(packages);
    if target == MACOS {
        let (compiler, archiver) = compiler_of_nothing()?;
        command
            .env("CC_aarch64_apple_darwin", compiler)
            .env("AR_aarch64_apple_darwin", archiver);
        command.env("SDKROOT", folder());
    }
    let text = succeed(&mut command)?;
    // `-D warnings` would apply to std too.
    if text.contains("warning:") {
        bail!("warnings for {target}\n{}", text.trim_end());
    }
    Ok(Done::passed())
}

/// A C compiler for a system whose headers are not installed. A check links nothing, so build scripts that compile C are
/// satisfied with an empty object file.
fn compiler_of_nothing() -> Result<(PathBuf, PathBuf)> {
    const COMPILER: &str = r#"#!/bin/sh
# Answers questions about itself as the system's compiler does, and compiles everything to an empty file.
for argument; do case $argument in -E|--version|-dumpmachine) exec cc "$@" ;; esac; done
while [ $# -gt 0 ]; do
    case $1 in
        -o) shift; : > "$1" ;;
        -o*) : > "${1#-o}" ;;
    esac
    shift
done
"#;
    const ARCHIVER: &str = "#!/bin/sh\n# An archive of empty files is an empty archive.\n\
        for argument; do case $argument in *.a) printf '!<arch>\\n' > \"$argument\" ;; esac; done\n";
    Ok((
        script("cc-of-nothing", COMPILER)?,
        script("ar-of-nothing", ARCHIVER)?,
    ))
}

fn script(name: &str, text: &str) -> Result<PathBuf> {
    let file = folder().join(name);
    fs::write(&file, text)?;
    make_executable(&file)?;
    Ok(file)
}

fn tests_under_wine(skips: &mut Vec<String>) -> Result<Done> {
    let wine = Wine::start()?;
    let mut tests = TestOutput::default();
    for (parts, packages) in [
        (&["--lib", "--tests"][..], TESTED_UNDER_WINE),
        (&["--test", "windows"], TESTED_ON_WINDOWS),
    ] {
        let mut command = cargo(WINDOWS, "std,panic_abort,test", &["test", "--no-fail-fast"]);
        command.args(parts);
        for package in packages {
            command.args(["--package", package]);
        }
        command
            .env("CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER", &wine.runner)
            .env("PROPTEST_CASES", "32");
        command.arg("--");
        for (test, _) in NOT_UNDER_WINE {
            command.args(["--skip", test]);
        }
        let (status, text) = output(&mut command)?;
        let shown: Vec<_> = text.lines().filter(|line| tests.line(line)).collect();
        if !status.success() {
            bail!("{}", shown.join("\n"));
        }
    }
    for (test, why) in NOT_UNDER_WINE {
        skips.push(format!("wine: {test}: {why}"));
    }
    Ok(Done::Passed(format!("{} tests passed under Wine", tests.passed)))
}

/// A script that runs a Windows program in a prefix, for so long. Then Wine's services are ended, and with them whatever it has started,
/// and they are started again for the next program.
fn runner(prefix: &Path, limit: Duration) -> String {
    let limit = limit.as_secs_f32();
    // Single quotes are enough: the folder is ours, and its name contains no quotes.
    format!(
        r#"#!/bin/sh
export WINEPREFIX='{}' WINEDEBUG=-all WINEDLLOVERRIDES='mscoree,mshtml='
timeout --foreground --kill-after=10 {limit} wine "$@"
status=$?
case $status in 124 | 137)
    echo "$1 was ended: it may run for {limit} s"
    wineserver -k
    wineserver -p < /dev/null > /dev/null 2>&1
    timeout 60 wine wineboot < /dev/null > /dev/null 2>&1
esac
exit $status
"#,
        prefix.display()
    )
}

/// Wine's services, in a prefix of their own. The first program to need them starts them with its own standard output, and they would
/// keep that open after the last test.
struct Wine {
    /// A script that runs a Windows program.
    runner: PathBuf,
    prefix: PathBuf,
}

impl Wine {
    fn start() -> Result<Self> {
        let library = process_prng()?;
        let prefix = folder().join("wine");
        fs::create_dir_all(&prefix)?;
        let runner = script("run-under-wine", &runner(&prefix, LIMIT))?;
        let wine = Self { runner, prefix };
        wine.server("-p")?;
        quiet(Command::new(&wine.runner).arg("wineboot"))?;
        // Where every program finds it: a service has an environment of its own, without these variables.
        let system = wine.prefix.join("drive_c/windows/system32").join(PROCESS_PRNG);
        fs::copy(&library, &system).with_context(|| system.display().to_string())?;
        quiet(Command::new(&wine.runner).args([
            "reg.exe",
            "add",
            r"HKCU\Software\Wine\DllOverrides",
            "/v",
            "bcryptprimitives",
            "/d",
            "native,builtin",
            "/f",
        ]))?;
        Ok(wine)
    }

    /// `-p` has it stay until `-k`.
    fn server(&self, what: &str) -> Result<()> {
        quiet(
            Command::new("wineserver")
                .arg(what)
                .env("WINEPREFIX", &self.prefix),
        )
    }
}

impl Drop for Wine {
    fn drop(&mut self) {
        // If it has ended already, there is nothing to end.
        self.server("-k").ok();
    }
}

fn quiet(command: &mut Command) -> Result<()> {
    let silent = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let status = silent.status().with_context(|| shown(silent))?;
    ensure!(status.success(), "{} ended with {status}", shown(silent));
    Ok(())
}

/// Rust's std takes its random numbers from `ProcessPrng`, which Wine 8 lacks: builds a DLL that implements it with the older
/// function that Wine has.
fn process_prng() -> Result<PathBuf> {
    const SOURCE: &str = "#include <windows.h>\n\
        BOOLEAN NTAPI SystemFunction036(PVOID, ULONG);\n\
        __declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T length) {\n    \
            return SystemFunction036(data, (ULONG)length);\n}\n";
    let folder = folder().join("dll");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let (source, library) = (folder.join("bcryptprimitives.c"), folder.join(PROCESS_PRNG));
    fs::write(&source, SOURCE)?;
    let mut compiler = program_in_root("x86_64-w64-mingw32-gcc");
    compiler.args([
        OsStr::new("-shared"),
        OsStr::new("-o"),
        library.as_os_str(),
        source.as_os_str(),
    ]);
    succeed(compiler.arg("-ladvapi32"))?;
    Ok(library)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_windows_program_that_does_not_end_is_ended_and_named() {
        let folder = tempfile::tempdir().unwrap();
        // Wine runs what it is given; so does a shell.
        symlink("/bin/sh", folder.path().join("wine")).unwrap();
        symlink("/bin/true", folder.path().join("wineserver")).unwrap();
        let run = |limit, program: &str| {
            let text = runner(folder.path(), limit);
            let path = format!("{}:/usr/bin:/bin", folder.path().display());
            let mut command = Command::new("sh");
            command
                .args(["-c", &text, "run-under-wine", "-c", program])
                .env("PATH", path);
            let (status, told) = output(&mut command).unwrap();
            (status.code(), told)
        };
        let (code, told) = run(Duration::from_millis(100), "exec sleep 3600");
        assert_eq!(
            (code, &*told),
            (Some(124), "-c was ended: it may run for 0.1 s\n")
        );
        assert_eq!(
            run(LIMIT, "echo as usual; exit 3"),
            (Some(3), "as usual\n".to_owned())
        );
    }
}
