//! Who runs the commands, and with which program.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

pub(crate) const LINE: &str = "127.77.3.4 orders.backend";
pub(crate) const NAME: &str = "orders.backend";
pub(crate) const ADDRESS: &str = "127.77.3.4";
/// An account that every Linux system has, with a home that it does not own.
const DAEMON: u32 = 1;

/// Somebody who may run commands in a scope on this system.
pub(crate) struct User {
    pub(crate) name: &'static str,
    id: Option<u32>,
    /// A copy that this user can reach.
    pub(crate) program: PathBuf,
    _folder: TempDir,
}

impl User {
    fn new(name: &'static str, id: Option<u32>) -> User {
        let folder = readable_folder();
        let program = folder.path().join("with-hosts");
        // By a process of its own: were it open for writing here, a child forked meanwhile would hold it open too, and
        // it could not be run (ETXTBSY).
        assert!(
            Command::new("cp")
                .arg(example())
                .arg(&program)
                .status()
                .unwrap()
                .success()
        );
        User {
            name,
            id,
            program,
            _folder: folder,
        }
    }

    /// Anything, as this user.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.current_dir("/").stdin(Stdio::null());
        if let Some(id) = self.id {
            command.uid(id).gid(id);
        }
        command
    }

    /// `argv` in a scope that knows [`NAME`].
    pub(crate) fn scoped(&self, argv: &[&str]) -> Command {
        let mut command = self.command(&self.program);
        command.arg(LINE).arg("--").args(argv);
        command
    }

    /// A shell script in a scope that knows [`NAME`].
    pub(crate) fn script(&self, script: &str) -> Output {
        self.scoped(&["sh", "-c", script]).output().unwrap()
    }

    pub(crate) fn is_root(&self) -> bool {
        self.id.is_none() && am_root()
    }
}

/// Says that this test, or a part of it, cannot run here. The line goes past the test runner, which keeps to itself what a
/// passing test prints; `cargo xtask test` collects it.
fn skip(why: &str) {
    let thread = std::thread::current();
    let line = format!(
        "SKIP {}: {}\n",
        thread.name().unwrap_or("scope"),
        why.replace('\n', " ")
    );
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

pub(crate) fn am_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Root and an ordinary user where the tests run as root, else whoever runs them; without those whom this system
/// forbids it, and it says so.
pub(crate) fn users() -> Vec<User> {
    let mut users = if am_root() {
        vec![User::new("root", None), User::new("daemon", Some(DAEMON))]
    } else {
        vec![User::new("caller", None)]
    };
    users.retain(|user| {
        let probe = user.command(&user.program).arg("--probe").output().unwrap();
        let said = String::from_utf8_lossy(&probe.stderr);
        let forbidden = said.contains("UserNamespacesForbidden") || said.contains("MountNamespaceForbidden");
        if forbidden {
            skip(&format!("no scope can be made as {}: {}", user.name, said.trim()));
        } else {
            assert!(probe.status.success(), "{said}");
        }
        !forbidden
    });
    users
}

/// An ordinary user for tests that arrange the system around it, in a mount namespace of the test's own: only root can.
pub(crate) fn ordinary_user_of_root() -> Option<User> {
    if !am_root() {
        skip("needs root");
        return None;
    }
    users().into_iter().find(|user| !user.is_root())
}

/// Is the program installed? Says so if not.
pub(crate) fn have(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", "command -v \"$1\"", "sh", program])
        .stdout(Stdio::null())
        .status()
        .unwrap()
        .success();
    if !found {
        skip(&format!("{program} is not installed"));
    }
    found
}

/// The example's file, which cargo builds along with the tests.
pub(crate) fn example() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("examples/with-hosts");
    assert!(
        path.exists(),
        "{} is missing: build it by `cargo build -p process-scope --examples`",
        path.display()
    );
    path
}

/// A folder of the test's own that every user can read and write in.
pub(crate) fn readable_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    folder
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

/// A named pipe in `folder`.
pub(crate) fn fifo(folder: &Path) -> PathBuf {
    let path = folder.join("fifo");
    let made = Command::new("mkfifo")
        .args(["-m", "666"])
        .arg(&path)
        .status()
        .unwrap();
    assert!(made.success());
    path
}
