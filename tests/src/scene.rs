//! One test's own place: a directory, an address, an environment name, and everything its programs printed.

use std::any::type_name;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use tempfile::TempDir;

use crate::caller::Caller;
use crate::command::Invocation;
use crate::devbox::{CatalogFile, Service};
use crate::process::Log;
use crate::skip::Skip;
use crate::wait;

/// One test's own place. It is dropped last, and prints what all its programs printed if the test failed.
#[derive(Debug)]
pub struct Scene {
    name: String,
    folder: TempDir,
    address: Ipv4Addr,
    environment: String,
    counter: AtomicU32,
    logs: Mutex<Vec<Arc<Log>>>,
}

/// Runs one test in its own [`Scene`]. When `body` is done and has dropped what it started, no process of the scene may be left;
/// any that is left is killed, and the test fails. A [`Skip`] is printed as one line and passes. Any other error fails the test,
/// after everything its programs printed has been shown.
///
/// # Errors
/// Those of `body`, except a [`Skip`].
pub fn scenario<F>(body: F) -> Outcome
where
    F: FnOnce(&Scene) -> crate::Result,
{
    let name = test_name(type_name::<F>());
    let scene = Scene::new(&name).map_err(Failed)?;
    let outcome = body(&scene);
    let left = scene.expect_no_process();
    let Err(error) = outcome.and(left) else {
        return Ok(());
    };
    if let Some(skip) = error.downcast_ref::<Skip>() {
        skip.tell(&name);
        return Ok(());
    }
    scene.print_logs();
    Err(Failed(error))
}

/// Two files in PEM form.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// What a test returns.
pub type Outcome = Result<(), Failed>;

/// Why a test failed. The test runner prints it with `Debug`, which here lists the reasons, one per line.
pub struct Failed(anyhow::Error);

impl fmt::Debug for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, reason) in self.0.chain().enumerate() {
            writeln!(f, "{}{reason}", if depth == 0 { "" } else { "because: " })?;
        }
        Ok(())
    }
}

/// "services::psql_by_name::{{closure}}" -> "psql_by_name"
fn test_name(closure: &str) -> String {
    let test = closure.trim_end_matches("::{{closure}}");
    test.rsplit("::").next().unwrap_or(test).to_owned()
}

impl Scene {
    fn new(name: &str) -> crate::Result<Scene> {
        // The path must be short, since a Unix socket's path has at most 107 bytes and sockets are created below. In /tmp, because
        // every user may enter it.
        let folder = tempfile::Builder::new()
            .prefix("dbx-")
            .tempdir_in("/tmp")
            .context("cannot create a folder in /tmp")?;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
        // Outside 127.77.0.0/16, which is devbox's, and with a random host part, so that tests that run side by side can use the
        // same ports. Their services' addresses differ too, since they are derived from the environment's name.
        let address = Ipv4Addr::new(
            127,
            fastrand::u8(128..=250),
            fastrand::u8(..),
            fastrand::u8(1..=254),
        );
        let environment = format!("t{:08x}", fastrand::u32(..));
        Ok(Scene {
            name: name.to_owned(),
            folder,
            address,
            environment,
            counter: AtomicU32::new(0),
            logs: Mutex::new(Vec::new()),
        })
    }

    /// The test's name, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The scene's folder. Every user may read it, and only the user who runs the tests may write to it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The loopback address that this test's far side listens on.
    pub fn address(&self) -> IpAddr {
        self.address.into()
    }

    /// The name of the environment, different in each scene.
    pub fn environment(&self) -> &str {
        &self.environment
    }

    /// An address of this scene with a port that nothing listens on, found by binding port 0. Only this scene uses the address, so
    /// nobody takes the port before it is used.
    pub fn free_address(&self) -> crate::Result<SocketAddr> {
        let listener = TcpListener::bind((self.address, 0)).context("bind the scene's address")?;
        Ok(listener.local_addr()?)
    }

    /// `usual`, or a free port if a program on this machine already listens on `usual` on all addresses.
    pub fn port_like(&self, usual: u16) -> crate::Result<u16> {
        // No other test uses this address, so binding it fails only because of a wildcard listener. Ports below 1024 cannot be tried
        // without privileges; the usual one is then assumed to be free.
        match TcpListener::bind((self.address, usual)) {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Ok(self.free_address()?.port()),
            _ => Ok(usual),
        }
    }

    /// A number that is unique in this scene, for file names.
    pub fn unique(&self) -> u32 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }

    /// Writes a file below the scene's folder (mode 0644) and returns its path.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> crate::Result<PathBuf> {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))?;
        Ok(path)
    }

    /// Writes a file that only `caller` may read.
    pub fn write_secret(
        &self,
        name: &str,
        bytes: impl AsRef<[u8]>,
        caller: Caller,
    ) -> crate::Result<PathBuf> {
        let path = self.write(name, bytes)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        self.give(&path, caller)?;
        Ok(path)
    }

    /// A certificate for the scene's address that vouches for itself, made anew, and its key. [`Caller::Ordinary`] may read them.
    ///
    /// # Errors
    /// [`Skip`] without openssl(1); if it cannot be made.
    pub fn certificate(&self) -> crate::Result<Certificate> {
        crate::need_program("openssl", "openssl")?;
        let folder = self.folder_of(&format!("tls-{}", self.unique()), Caller::Ordinary)?;
        let script = format!(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -keyout key.pem -out cert.pem \
             -subj /CN=devbox-test -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=IP:{}",
            self.address()
        );
        let make = self
            .command(["sh", "-c", &script])
            .in_folder(&folder)
            .by(Caller::Ordinary);
        make.run(2 * wait::SOON)?.expect_success()?;
        Ok(Certificate {
            certificate: folder.join("cert.pem"),
            key: folder.join("key.pem"),
        })
    }

    /// A folder below the scene's that belongs to `caller`, created with mode 0755 if it does not exist.
    pub fn folder_of(&self, name: &str, caller: Caller) -> crate::Result<PathBuf> {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        self.give(&path, caller)?;
        Ok(path)
    }

    /// Makes `caller` the owner of `path`.
    pub fn give(&self, path: &Path, caller: Caller) -> crate::Result {
        if let Some((uid, gid)) = caller.ids_to_take()? {
            chown(path, Some(uid), Some(gid)).with_context(|| format!("give {} away", path.display()))?;
        }
        Ok(())
    }

    /// A hosts file with the content [`crate::hosts::ORIGINAL`], in its own folder. Both belong to `caller`.
    pub fn hosts_file(&self, caller: Caller) -> crate::Result<PathBuf> {
        let folder = self.folder_of(&format!("etc-{}", self.unique()), caller)?;
        let path = folder.join("hosts");
        std::fs::write(&path, crate::hosts::ORIGINAL)?;
        self.give(&path, caller)?;
        Ok(path)
    }

    /// The home directory of `caller` in this scene.
    pub fn home(&self, caller: Caller) -> crate::Result<PathBuf> {
        self.folder_of(&format!("home-{}", caller.uid()), caller)
    }

    /// An empty folder that belongs to `caller`, the working directory of the programs it runs.
    pub fn working_directory(&self, caller: Caller) -> crate::Result<PathBuf> {
        self.folder_of(&format!("cwd-{}", caller.uid()), caller)
    }

    /// The environment of the programs that `caller` runs: only what is needed from the environment of the tests.
    pub(crate) fn environment_of(&self, caller: Caller) -> crate::Result<BTreeMap<OsString, OsString>> {
        let home = self.home(caller)?;
        let runtime = self.folder_of(&format!("run-{}", caller.uid()), caller)?;
        std::fs::set_permissions(&runtime, std::fs::Permissions::from_mode(0o700))?;
        let temporary = self.folder_of(&format!("tmp-{}", caller.uid()), caller)?;
        let name = caller.name();
        let pairs: [(&str, OsString); 9] = [
            ("HOME", home.into()),
            ("LC_ALL", "C.UTF-8".into()),
            ("LOGNAME", name.clone().into()),
            (
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into(),
            ),
            ("RUST_BACKTRACE", "1".into()),
            ("TERM", "dumb".into()),
            ("TMPDIR", temporary.into()),
            ("USER", name.into()),
            ("XDG_RUNTIME_DIR", runtime.into()),
        ];
        Ok(pairs
            .into_iter()
            .map(|(key, value)| (key.into(), value))
            .collect())
    }

    /// The program under test, at a path where every user may run it: if the build is in a folder that others cannot enter, a link
    /// or a copy in the scene.
    pub fn devbox_program(&self) -> crate::Result<PathBuf> {
        let program = crate::program()?;
        if everyone_may_reach(program) {
            return Ok(program.to_owned());
        }
        let ours = self.folder.path().join("devbox");
        if !ours.exists() && std::fs::hard_link(program, &ours).is_err() {
            std::fs::copy(program, &ours).context("copy the program")?;
        }
        Ok(ours)
    }

    /// A program to run in this scene.
    pub fn command<I, S>(&self, argv: I) -> Invocation<'_>
    where
        I: IntoIterator<Item = S>,
        S: Into<OsString>,
    {
        Invocation::new(self, argv.into_iter().map(Into::into).collect())
    }

    /// A run of the program under test, with these arguments.
    pub fn devbox<I, S>(&self, arguments: I) -> crate::Result<Invocation<'_>>
    where
        I: IntoIterator<Item = S>,
        S: Into<OsString>,
    {
        let program = OsString::from(self.devbox_program()?);
        Ok(self.command([program].into_iter().chain(arguments.into_iter().map(Into::into))))
    }

    /// A catalog file with these services, for this scene's environment.
    pub fn catalog(&self, services: &[Service]) -> crate::Result<CatalogFile> {
        CatalogFile::new(self, self.environment(), services)
    }

    /// Skips the test unless the tests are run by root.
    ///
    /// # Errors
    /// [`Skip`].
    pub fn need_root(&self) -> crate::Result {
        Caller::Root.ids_to_take().map(|_| ())
    }

    /// Checks that every process that was started in this scene, even by its programs, ends.
    fn expect_no_process(&self) -> crate::Result {
        let folder = self.folder.path().to_string_lossy().into_owned();
        let mut left = Vec::new();
        let gone = wait::until("the end of all processes of the scene", wait::SOON, || {
            left = crate::proc::with_environment(&folder);
            left.is_empty().then_some(())
        });
        gone.map_err(|late| {
            let told: Vec<String> = left
                .iter()
                .map(|pid| format!("{pid} ({})", crate::proc::command_line(*pid)))
                .collect();
            for pid in left {
                if let Some(id) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
                    // It may have ended in the meantime.
                    rustix::process::kill_process(id, rustix::process::Signal::KILL).ok();
                }
            }
            late.context(format!("left behind: {}", told.join(", ")))
        })
    }

    pub(crate) fn keep_log(&self, log: Arc<Log>) {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner).push(log);
    }

    #[expect(
        clippy::print_stderr,
        reason = "the test runner shows it with the failed test and keeps it otherwise"
    )]
    fn print_logs(&self) {
        for log in self.logs.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            eprintln!("{log}");
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
        }
    }
}

/// All files below `folder`, sorted, to compare before and after.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten().flatten() {
            let kind = if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                &mut folders
            } else {
                &mut found
            };
            kind.push(entry.path());
        }
    }
    found.sort();
    found
}

fn everyone_may_reach(program: &Path) -> bool {
    let readable = |path: &Path, bits: u32| {
        std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & bits == bits)
    };
    readable(program, 0o005) && program.ancestors().skip(1).all(|folder| readable(folder, 0o001))
}
