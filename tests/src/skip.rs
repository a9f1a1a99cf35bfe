//! Saying that a test cannot run here, and why.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The error that makes [`crate::scenario`] print a `SKIP` line and pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skip {
    why: String,
}

impl Skip {
    /// A skip for the reason `why`: one line, without the test's name.
    pub fn new(why: impl Into<String>) -> Skip {
        Skip { why: why.into() }
    }

    /// Writes `SKIP <test>: <why>` as one line to the process's own standard error.
    ///
    /// Not by `eprintln!`: the test runner keeps what a passing test prints that way to itself.
    pub(crate) fn tell(&self, test: &str) {
        let line = format!("SKIP {test}: {}\n", self.why);
        // A closed standard error leaves nobody to tell.
        std::io::stderr().write_all(line.as_bytes()).ok();
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for Skip {}

/// The path of `program`, looked for where Debian puts programs, or `None`.
///
/// `PATH` alone is not enough: an ordinary user's has no `/usr/sbin`, and Debian keeps `initdb` and `postgres` in
/// `/usr/lib/postgresql/<version>/bin`, of which the newest is taken.
pub fn find_program(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = [
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ]
    .map(PathBuf::from);
    usual
        .into_iter()
        .chain(std::env::split_paths(&path))
        .chain(postgres_folders())
        .map(|folder| folder.join(program))
        .find(|file| is_executable(file))
}

/// The path of `program`.
///
/// # Errors
/// [`Skip`] that names the Debian `package` to install.
pub fn need_program(program: &str, package: &str) -> crate::Result<PathBuf> {
    let missing = || Skip::new(format!("{program} is not installed (apt-get install {package})"));
    Ok(find_program(program).ok_or_else(missing)?)
}

/// The netcat that can half-close a connection (`nc -N`): other programs of that name cannot.
///
/// # Errors
/// [`Skip`] where OpenBSD's is not installed.
pub fn need_netcat() -> crate::Result<PathBuf> {
    need_program("nc.openbsd", "netcat-openbsd").or_else(|missing| {
        let plain = find_program("nc").filter(|nc| {
            let help = std::process::Command::new(nc).arg("-h").output();
            help.is_ok_and(|out| String::from_utf8_lossy(&out.stderr).contains("OpenBSD"))
        });
        plain.ok_or(missing)
    })
}

fn postgres_folders() -> Vec<PathBuf> {
    let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") else {
        return Vec::new();
    };
    let mut folders: Vec<PathBuf> = versions
        .flatten()
        .map(|version| version.path().join("bin"))
        .collect();
    folders.sort();
    folders.reverse();
    folders
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
