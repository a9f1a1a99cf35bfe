//! One run of a program: which one, as which user, with which view of `/etc/hosts`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::caller::Caller;
use crate::machine::Machine;
use crate::process::{Exit, Process, Spawn, Stdio};
use crate::scene::Scene;
use crate::skip::Skip;

/// A program to run: configured by its methods, then [`run`](Invocation::run) to its end or
/// [`start`](Invocation::start)ed.
#[derive(Debug, Clone)]
#[must_use]
pub struct Invocation<'a> {
    scene: &'a Scene,
    argv: Vec<OsString>,
    environment: BTreeMap<OsString, Option<OsString>>,
    working_directory: Option<PathBuf>,
    caller: Caller,
    network: Option<PathBuf>,
    view: View<'a>,
    stdin: Option<Vec<u8>>,
    output: Output,
}

#[derive(Debug, Clone, Copy)]
enum Output {
    Captured,
    Closed,
    Unread,
}

#[derive(Debug, Clone)]
enum View<'a> {
    System,
    Hosts(PathBuf),
    Machine(&'a Machine),
    NoUserNamespaces,
}

impl<'a> Invocation<'a> {
    pub(crate) fn new(scene: &'a Scene, argv: Vec<OsString>) -> Invocation<'a> {
        Invocation {
            scene,
            argv,
            environment: BTreeMap::new(),
            working_directory: None,
            caller: Caller::own(),
            network: None,
            view: View::System,
            stdin: None,
            output: Output::Captured,
        }
    }

    /// Appends arguments.
    pub fn args<I, S>(mut self, arguments: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<OsString>,
    {
        self.argv.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// The command line.
    pub fn words(&self) -> &[OsString] {
        &self.argv
    }

    /// Sets an environment variable.
    pub fn env(mut self, key: &str, value: impl Into<OsString>) -> Self {
        self.environment.insert(key.into(), Some(value.into()));
        self
    }

    /// Runs without this environment variable.
    pub fn env_remove(mut self, key: &str) -> Self {
        self.environment.insert(key.into(), None);
        self
    }

    /// Runs in `folder`. Default: an empty folder of the scene that belongs to the caller.
    pub fn in_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.working_directory = Some(folder.into());
        self
    }

    /// Runs as `caller`. Default: the user who runs the tests.
    pub fn by(mut self, caller: Caller) -> Self {
        self.caller = caller;
        self
    }

    /// Runs in its own mount namespace, where the file `hosts`, as it is when the program starts, is seen as `/etc/hosts`.
    pub fn seeing_hosts(mut self, hosts: &Path) -> Self {
        self.view = View::Hosts(hosts.to_owned());
        self
    }

    /// Runs inside `machine`.
    pub fn inside(mut self, machine: &'a Machine) -> Self {
        self.view = View::Machine(machine);
        self
    }

    /// Runs in this network namespace (network_namespaces(7)). Only root can enter one.
    pub fn in_network(mut self, namespace: impl Into<PathBuf>) -> Self {
        self.network = Some(namespace.into());
        self
    }

    /// Runs where only root can create a namespace: with a different root directory that shows the same files. The kernel refuses
    /// user namespaces there (user_namespaces(7)), as some systems do by a setting.
    pub fn without_user_namespaces(mut self) -> Self {
        self.view = View::NoUserNamespaces;
        self
    }

    /// Gives the program these bytes as its input, then the end of file. Default: an empty input.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Runs with a standard output and standard error whose readers are gone: writing to them fails (`EPIPE`).
    pub fn output_closed(mut self) -> Self {
        self.output = Output::Closed;
        self
    }

    /// Runs with a standard output and standard error that nobody reads: once the pipe is full, writing to them blocks.
    pub fn output_unread(mut self) -> Self {
        self.output = Output::Unread;
        self
    }

    /// Starts the program.
    ///
    /// # Errors
    /// If it cannot be started; [`Skip`] if the view or the caller is not possible here.
    pub fn start(&self) -> crate::Result<Process> {
        let stdio = match self.output {
            Output::Captured => Stdio::Piped(self.stdin.clone().unwrap_or_default()),
            Output::Closed => Stdio::Closed,
            Output::Unread => Stdio::Unread,
        };
        Process::start(self.scene, self.spawn(stdio, false)?)
    }

    /// Starts the program on a terminal, as the leader of its own session.
    ///
    /// # Errors
    /// As [`start`](Invocation::start).
    pub fn start_on_terminal(&self) -> crate::Result<crate::pty::Terminal> {
        crate::pty::Terminal::start(self.scene, |terminal| self.spawn(Stdio::Terminal(terminal), true))
    }

    /// Runs the program to its end, and kills it after `within`.
    ///
    /// # Errors
    /// As [`start`](Invocation::start), and if the time is over. An exit code other than 0 is not an error.
    pub fn run(&self, within: Duration) -> crate::Result<Finished> {
        let started = Instant::now();
        let mut process = self.start()?;
        let exit = process.wait(within)?;
        let took = started.elapsed();
        Ok(Finished {
            label: process.label().to_owned(),
            exit,
            stdout: process.stdout_bytes(),
            stderr: process.stderr_bytes(),
            took,
        })
    }

    fn spawn(&self, stdio: Stdio, own_terminal: bool) -> crate::Result<Spawn> {
        let Some(program) = self.argv.first() else {
            bail!("no program")
        };
        let short = Path::new(program)
            .file_name()
            .unwrap_or(program)
            .to_string_lossy();
        let rest = self
            .argv
            .iter()
            .skip(1)
            .map(|argument| argument.to_string_lossy());
        let label = std::iter::once(short).chain(rest).collect::<Vec<_>>().join(" ");

        let mut argv: Vec<OsString> = Vec::new();
        if own_terminal {
            argv.extend(["setsid", "--ctty"].map(OsString::from));
        }
        if let Some(network) = &self.network {
            let mut option = OsString::from("--net=");
            option.push(network);
            argv.extend(["nsenter".into(), option, "--".into()]);
        }
        argv.extend(self.view_words()?);
        argv.extend(self.caller_words()?);
        argv.extend(self.argv.iter().cloned());

        let mut environment = self.scene.environment_of(self.caller)?;
        for (key, value) in &self.environment {
            match value {
                Some(value) => environment.insert(key.clone(), value.clone()),
                None => environment.remove(key),
            };
        }
        Ok(Spawn {
            label,
            argv,
            environment,
            stdio,
            own_group: !own_terminal,
        })
    }

    /// The words before the command that give it its view of the file system.
    fn view_words(&self) -> crate::Result<Vec<OsString>> {
        match &self.view {
            View::System => Ok(Vec::new()),
            View::Machine(machine) => Ok(machine.enter_words()),
            View::NoUserNamespaces => {
                self.scene.need_root()?;
                let root = self.scene.folder_of("root", Caller::Root)?;
                let script = "mount --rbind / \"$1\" && root=$1 && shift && exec chroot \"$root\" \"$@\"";
                let mut words = own_mounts_words()?;
                words.extend(["sh", "-c", script, "sh"].map(OsString::from));
                words.push(root.into());
                Ok(words)
            }
            View::Hosts(hosts) => {
                let switch = self.scene.folder().join("nsswitch.conf");
                if !switch.exists() {
                    self.scene.write(
                        "nsswitch.conf",
                        "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n",
                    )?;
                }
                let script = "mount --bind \"$1\" /etc/hosts && \
                              { ! [ -e /etc/nsswitch.conf ] || mount --bind \"$2\" /etc/nsswitch.conf; } && \
                              shift 2 && exec \"$@\"";
                let mut words = own_mounts_words()?;
                words.extend(["sh", "-c", script, "sh"].map(OsString::from));
                words.extend([hosts.clone().into_os_string(), switch.into_os_string()]);
                Ok(words)
            }
        }
    }

    /// The words before the command that change the user, and end the command when the test's thread ends.
    fn caller_words(&self) -> crate::Result<Vec<OsString>> {
        let folder = match &self.working_directory {
            Some(folder) => folder.clone(),
            None => self.scene.working_directory(self.caller)?,
        };
        let mut words: Vec<OsString> = vec!["env".into(), "-C".into(), folder.into(), "setpriv".into()];
        if let Some((uid, gid)) = self.caller.ids_to_take()? {
            words.extend([format!("--reuid={uid}"), format!("--regid={gid}")].map(OsString::from));
            words.push("--clear-groups".into());
        }
        words.extend(["--pdeathsig=KILL", "--"].map(OsString::from));
        Ok(words)
    }
}

/// The words that run a command in its own mount namespace: directly as root, otherwise inside a user namespace.
///
/// # Errors
/// [`Skip`] if the system does not allow it.
pub(crate) fn own_mounts_words() -> crate::Result<Vec<OsString>> {
    static REFUSED: OnceLock<Option<String>> = OnceLock::new();
    let mut words = vec!["unshare"];
    if Caller::own() != Caller::Root {
        words.extend(["--user", "--map-root-user"]);
    }
    words.extend(["--mount", "--propagation", "private"]);
    match REFUSED.get_or_init(|| refused(&words)) {
        None => Ok(words.into_iter().map(OsString::from).collect()),
        Some(why) => Err(Skip::new(format!("this system allows no mount namespace here ({why})")).into()),
    }
}

/// Why this system does not let `caller` create a user and mount namespace, if so. Root needs no user namespace.
pub(crate) fn own_users_refused(caller: Caller) -> Option<String> {
    static REFUSED: OnceLock<Option<String>> = OnceLock::new();
    if caller == Caller::Root {
        return own_mounts_words().err().map(|skip| skip.to_string());
    }
    let ids = caller.ids_to_take().ok()?;
    let switch = ids.map(|(uid, gid)| format!("setpriv --reuid={uid} --regid={gid} --clear-groups"));
    let words = switch.unwrap_or_default() + " unshare --user --map-root-user --mount";
    let why = REFUSED.get_or_init(|| refused(&words.split_ascii_whitespace().collect::<Vec<_>>()));
    why.as_ref()
        .map(|why| format!("this system allows no user namespace here ({why})"))
}

fn refused(words: &[&str]) -> Option<String> {
    let (program, arguments) = words.split_first()?;
    match std::process::Command::new(program)
        .args(arguments)
        .arg("true")
        .output()
    {
        Err(error) => Some(error.to_string()),
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

/// A program that has run to its end.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The command line, for messages.
    pub label: String,
    /// How it ended.
    pub exit: Exit,
    /// Everything it wrote to standard output.
    pub stdout: Vec<u8>,
    /// Everything it wrote to standard error.
    pub stderr: Vec<u8>,
    /// From before its start until its end.
    pub took: Duration,
}

impl Finished {
    /// Standard output as text.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Standard output, then standard error.
    pub fn everything(&self) -> String {
        self.output() + &self.errors()
    }

    /// Returns itself if the exit code is `code`.
    ///
    /// # Errors
    /// Otherwise, with what the program wrote.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> crate::Result<Finished> {
        if self.exit != Exit::code(code) {
            let text = self.everything();
            bail!(
                "`{}`: expected exit code {code}, seen {}\n{text}",
                self.label,
                self.exit
            );
        }
        Ok(self)
    }

    /// Returns itself if the exit code is 0.
    ///
    /// # Errors
    /// Otherwise, with what the program wrote.
    pub fn expect_success(self) -> crate::Result<Finished> {
        self.expect_code(0)
    }

    /// Returns itself if standard output or standard error contains each of `parts`, ignoring case.
    ///
    /// # Errors
    /// If a part is missing: names it, with what the program wrote.
    pub fn expect_text(self, parts: &[&str]) -> crate::Result<Finished> {
        let text = self.everything();
        let lower = text.to_lowercase();
        for part in parts {
            if !lower.contains(&part.to_lowercase()) {
                bail!("`{}` does not mention {part:?}:\n{text}", self.label);
            }
        }
        Ok(self)
    }

    /// Standard output as JSON.
    ///
    /// # Errors
    /// If it is not JSON.
    pub fn json(&self) -> crate::Result<serde_json::Value> {
        serde_json::from_slice(&self.stdout)
            .with_context(|| format!("`{}` printed no JSON: {}", self.label, self.output()))
    }
}
