//! Runs other programs: Cargo without the variables of the Cargo that runs us, output captured or passed on.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// The folder that Cargo builds into.
pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// `cargo`, run in the workspace's root.
pub(crate) fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    program_in_root(program)
}

/// Any program, run in the workspace's root, without the environment variables that `cargo run` sets.
///
/// Build scripts watch variables such as `CARGO_MANIFEST_DIR`. If they were passed on, every switch between `cargo xtask test`
/// and a plain `cargo test` would rebuild those packages and everything that depends on them.
pub(crate) fn program_in_root(program: impl Into<OsString>) -> Command {
    let mut command = Command::new(program.into());
    command.current_dir(root()).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(set_by_cargo_run) {
            command.env_remove(name);
        }
    }
    command
}

fn set_by_cargo_run(name: &str) -> bool {
    name.starts_with("CARGO_PKG_")
        || name.starts_with("CARGO_MANIFEST_")
        || name.starts_with("CARGO_BIN_")
        || matches!(
            name,
            "CARGO_CRATE_NAME" | "CARGO_PRIMARY_PACKAGE" | "CARGO_RUSTC_CURRENT_DIR" | "OUT_DIR"
        )
}

/// Runs a command to the end and returns everything it printed, in the order in which it was printed.
pub(crate) fn output(command: &mut Command) -> Result<(ExitStatus, String)> {
    let (mut reader, writer) = std::io::pipe()?;
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot run {}", shown(command)))?;
    // The command keeps the pipe's write end open until its handles are replaced.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes)?;
    Ok((child.wait()?, String::from_utf8_lossy(&bytes).into_owned()))
}

/// Runs a command to the end; an exit code other than 0 is an error with all the output.
pub(crate) fn succeed(command: &mut Command) -> Result<String> {
    let (status, text) = output(command)?;
    if !status.success() {
        bail!("{} ended with {status}\n{}", shown(command), text.trim_end());
    }
    Ok(text)
}

/// Runs a command to the end and passes on each line as it comes, including those from standard error.
pub(crate) fn lines(command: &mut Command, mut each: impl FnMut(&str)) -> Result<ExitStatus> {
    let (reader, writer) = std::io::pipe()?;
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot run {}", shown(command)))?;
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        each(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']));
        line.clear();
    }
    Ok(child.wait()?)
}

/// The command line as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program
        .file_name()
        .unwrap_or(program.as_os_str())
        .to_string_lossy()
        .into_owned();
    command
        .get_args()
        .fold(name, |line, argument| line + " " + &argument.to_string_lossy())
}

/// Finds a program in `PATH` or where Debian keeps the administrator's programs.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_keeps_both_streams_in_order() {
        let (status, text) =
            output(Command::new("sh").args(["-c", "echo one; echo two >&2; echo three; exit 3"])).unwrap();
        assert_eq!((status.code(), text.as_str()), (Some(3), "one\ntwo\nthree\n"));
    }

    #[test]
    fn a_failure_contains_what_was_printed() {
        let error = succeed(Command::new("sh").args(["-c", "echo the reason >&2; exit 7"])).unwrap_err();
        assert!(format!("{error:#}").contains("the reason"), "{error:#}");
    }

    #[test]
    fn lines_come_one_by_one() {
        let mut seen = Vec::new();
        let status = lines(Command::new("sh").args(["-c", "printf 'a\\nb'"]), |line| {
            seen.push(line.to_owned());
        })
        .unwrap();
        assert!(status.success());
        assert_eq!(seen, ["a", "b"]);
    }

    #[test]
    fn only_the_variables_of_cargo_run_are_removed() {
        assert!(set_by_cargo_run("CARGO_PKG_NAME") && set_by_cargo_run("CARGO_MANIFEST_DIR"));
        assert!(
            !set_by_cargo_run("CARGO_HOME")
                && !set_by_cargo_run("CARGO_TARGET_DIR")
                && !set_by_cargo_run("CARGO")
        );
    }
}
