//! The real server in a directory of its own, on a machine that is only remembered, as a process that can be killed: a test runs its
//! own program again with the test `server` as the only one, and a caller of another user with the test `caller`.

#![expect(clippy::print_stdout, reason = "a test's own process")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use devbox_helper::{LogTo, Service};
use devbox_helper_client::{Client, Error, HelperError, Reply, Request};
use netif::{
    Applied, Backend, Capabilities, Change, ChangeError, Found, InterfaceName, Observed, Owner, Recording,
    TunHandle, Undone,
};

pub(crate) const ORIGINAL: &[u8] =
    b"127.0.0.1 localhost\n# BEGIN mine\n10.0.0.1 other\n# END mine\n10.1.2.3 mine.example";

/// A directory with all that a server needs.
pub(crate) struct Place {
    dir: tempfile::TempDir,
    log: UnixDatagram,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::with_policy(
            "pools = ['127.77.0.0/16', '10.107.0.0/16', 'fd00:77::/64']\nusers = [0, 65534]\ninterfaces = true\nresolver = true\nsuffixes = ['dev.example.com']",
        )
    }

    pub(crate) fn with_policy(policy: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Callers of other users connect here.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let log = UnixDatagram::bind(dir.path().join("log")).unwrap();
        log.set_nonblocking(true).unwrap();
        let place = Self { dir, log };
        fs::write(place.hosts(), ORIGINAL).unwrap();
        place.set_policy(policy);
        place
    }

    pub(crate) fn set_policy(&self, policy: &str) {
        let me = rustix::process::geteuid().as_raw();
        fs::write(self.path("policy"), policy.replace("[0,", &format!("[{me}, 0,"))).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn hosts(&self) -> PathBuf {
        self.path("hosts")
    }

    pub(crate) fn machine(&self) -> Recording {
        Recording::at(owner(), &self.path("machine")).unwrap()
    }

    /// What is on the machine, in words.
    pub(crate) fn network(&self) -> Vec<String> {
        let mut all: Vec<String> = self
            .machine()
            .contents()
            .unwrap()
            .iter()
            .map(|(change, _)| change.to_string())
            .collect();
        all.sort();
        all
    }

    pub(crate) fn hosts_text(&self) -> String {
        String::from_utf8(fs::read(self.hosts()).unwrap()).unwrap()
    }

    pub(crate) fn start(&self) -> Process {
        self.start_with(&[])
    }

    /// Returns once it serves.
    pub(crate) fn start_with(&self, environment: &[(&str, &str)]) -> Process {
        self.await_accepting(self.spawn(environment))
    }

    fn await_accepting(&self, mut server: Process) -> Process {
        let deadline = Instant::now() + Duration::from_secs(20);
        // The socket is there before what another one has left is undone; a welcome comes only then.
        while Client::connect(self.path("socket")).is_err() {
            assert!(server.child.try_wait().unwrap().is_none(), "the server has ended");
            assert!(Instant::now() < deadline, "the server does not accept");
            std::thread::yield_now();
        }
        server
    }

    pub(crate) fn spawn(&self, environment: &[(&str, &str)]) -> Process {
        Process {
            child: self.command(environment).spawn().unwrap(),
        }
    }

    pub(crate) fn command(&self, environment: &[(&str, &str)]) -> Command {
        let mut command = alone("server");
        command
            .env("SERVER_PLACE", self.dir.path())
            .envs(environment.iter().copied())
            .stderr(Stdio::piped());
        command
    }

    /// The program itself, which has no network that is only remembered.
    pub(crate) fn start_program(&self) -> Process {
        self.await_serving(Command::new(env!("CARGO_BIN_EXE_devbox-helper")))
    }

    /// The same, where the command is the program or becomes it.
    pub(crate) fn await_serving(&self, mut command: Command) -> Process {
        command.arg(devbox_helper::SERVE);
        for (option, name) in [
            ("--socket", "socket"),
            ("--policy", "policy"),
            ("--hosts-file", "hosts"),
            ("--state", "state"),
            ("--log-journal", "log"),
        ] {
            command.arg(option).arg(self.path(name));
        }
        let child = command
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        self.await_accepting(Process { child })
    }

    /// The program itself, with a socket that was made for it: sd_listen_fds(3).
    pub(crate) fn start_activated(&self) -> Process {
        let listener = UnixListener::bind(self.path("socket")).unwrap();
        // A shell puts it where the program looks for it, and becomes the program, whose process is then the one that is meant.
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "export LISTEN_PID=$$ LISTEN_FDS=1; exec 3<&0 </dev/null; exec \"$@\"",
            "sh",
        ]);
        command.args([env!("CARGO_BIN_EXE_devbox-helper"), devbox_helper::SERVE]);
        for (option, name) in [
            ("--policy", "policy"),
            ("--hosts-file", "hosts"),
            ("--state", "state"),
            ("--log-journal", "log"),
        ] {
            command.arg(option).arg(self.path(name));
        }
        let child = command
            .stdin(OwnedFd::from(listener))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Process { child }
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.path("socket")).unwrap()
    }

    /// The entries of the log since the last call.
    pub(crate) fn logged(&self) -> Vec<String> {
        let mut entries = Vec::new();
        let mut bytes = vec![0; 1 << 16];
        while let Ok(count) = self.log.recv(&mut bytes) {
            entries.push(String::from_utf8_lossy(&bytes[..count]).into_owned());
        }
        entries
    }

    /// Waits for the entry of a refusal that has all these words.
    pub(crate) fn await_refusal(&self, words: &[&str]) {
        let has_all = |entry: &String| words.iter().all(|word| entry.contains(word));
        eventually(|| {
            self.logged()
                .iter()
                .any(|entry| entry.contains("DEVBOX_OUTCOME=refused") && has_all(entry))
        });
    }

    pub(crate) fn journals(&self) -> usize {
        fs::read_dir(self.path("state")).map_or(0, |entries| {
            entries
                .filter(|entry| {
                    entry
                        .as_ref()
                        .is_ok_and(|entry| entry.metadata().is_ok_and(|found| found.len() > 0))
                })
                .count()
        })
    }

    /// Asserts that everything is as before the first server.
    pub(crate) fn assert_untouched(&self, when: &str) {
        assert_eq!(self.hosts_text().as_bytes(), ORIGINAL, "{when}");
        assert_eq!(self.network(), [""; 0], "{when}");
        assert_eq!(self.journals(), 0, "{when}");
    }

    pub(crate) fn is_untouched(&self) -> bool {
        fs::read(self.hosts()).unwrap() == ORIGINAL && self.network().is_empty()
    }

    /// Waits until everything is as before.
    pub(crate) fn await_untouched(&self) {
        eventually(|| self.is_untouched());
    }
}

/// This program again, with this test as the only one, and nothing to read or to say.
pub(crate) fn alone(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

pub(crate) fn eventually(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "it never came to hold");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub(crate) fn owner() -> Owner {
    Owner::new("devbox").unwrap()
}

/// A process that does not outlive its test.
pub(crate) struct Process {
    pub(crate) child: Child,
}

impl Process {
    /// It may have ended by itself.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends the program itself as an administrator does. (A test's server is not the first thread of its process.)
    pub(crate) fn end(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
    }

    pub(crate) fn last_words(&mut self) -> String {
        let mut text = String::new();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        text
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only when it has ended.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The body of the test `server`.
pub(crate) fn serve() {
    let Some(place) = std::env::var_os("SERVER_PLACE").map(PathBuf::from) else {
        return; // run by hand, with no test at the other end
    };
    let machine = Recording::at(owner(), &place.join("machine")).unwrap();
    #[cfg(target_os = "linux")]
    crate::victim::offer();
    let mut service = Service::default();
    service.socket = Some(place.join("socket"));
    service.policy_file = place.join("policy");
    service.hosts_file = place.join("hosts");
    service.state_dir = place.join("state");
    service.log = LogTo::Journal(place.join("log"));
    service.patience = Duration::from_millis(300);
    service.backend = match std::env::var("SERVER_DIES_AT") {
        Ok(step) => Box::new(Mortal {
            machine,
            steps_left: step.parse().unwrap(),
        }),
        Err(_) => Box::new(machine),
    };
    // Arguments, threads and the harness's output are those of a test; the rest is the program.
    if let Err(error) = service.run() {
        std::io::stderr()
            .write_all(format!("{error}\n").as_bytes())
            .unwrap();
        std::process::exit(1);
    }
    std::process::exit(0);
}

/// A machine on which the process is killed, as by `kill -9`, when so many more steps have been done: before a change is made, after
/// it, before it is undone, after it.
struct Mortal {
    machine: Recording,
    steps_left: usize,
}

impl Mortal {
    fn step(&mut self) {
        if self.steps_left == 0 {
            let me = rustix::process::getpid();
            rustix::process::kill_process(me, rustix::process::Signal::KILL).unwrap();
            // The signal is on its way.
            loop {
                std::thread::park();
            }
        }
        self.steps_left -= 1;
    }
}

impl Backend for Mortal {
    fn capabilities(&mut self) -> Capabilities {
        self.machine.capabilities()
    }

    fn observe(&mut self) -> Result<Observed, netif::Error> {
        self.machine.observe()
    }

    fn find(&mut self, changes: &[Change]) -> Vec<Result<Found, ChangeError>> {
        // Before anything is written down.
        self.step();
        self.machine.find(changes)
    }

    fn apply(&mut self, changes: &[Change]) -> Vec<Result<Applied, ChangeError>> {
        let mut outcomes = Vec::new();
        for change in changes {
            self.step();
            outcomes.extend(self.machine.apply(std::slice::from_ref(change)));
        }
        self.step();
        outcomes
    }

    fn undo(&mut self, changes: &[Change]) -> Vec<Result<Undone, ChangeError>> {
        let mut outcomes = Vec::new();
        for change in changes.iter().rev() {
            self.step();
            outcomes.extend(self.machine.undo(std::slice::from_ref(change)));
        }
        self.step();
        outcomes.reverse();
        outcomes
    }

    fn open_tun(&mut self, name: &InterfaceName) -> Result<TunHandle, ChangeError> {
        self.machine.open_tun(name)
    }
}

/// A caller that runs as another user: it asks what it is told, one request a line.
pub(crate) struct Caller {
    child: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Caller {
    /// `None` where this process may not become another user.
    pub(crate) fn of(place: &Place, uid: u32) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let program = place.path("caller");
        if !program.exists() {
            // The build directory may be closed to others.
            fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let mut child = Command::new(program)
            .args(["--exact", "caller", "--ignored", "--nocapture"])
            .env("CALLER_SOCKET", place.path("socket"))
            .uid(uid)
            .gid(uid)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (asks, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Some(Self {
            child,
            asks,
            answers: BufReader::new(answers),
        })
    }

    pub(crate) fn ask(&mut self, request: &Request) -> Result<Reply, HelperError> {
        let line = serde_json::to_string(request).unwrap();
        self.asks.write_all(format!("{line}\n").as_bytes()).unwrap();
        self.answer().unwrap()
    }

    /// What the caller says next; `None` once it has ended.
    pub(crate) fn answer(&mut self) -> Option<Result<Reply, HelperError>> {
        loop {
            let mut line = String::new();
            if self.answers.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            if let Some(answer) = line.strip_prefix("answer ") {
                return Some(match serde_json::from_str(answer).unwrap() {
                    Reply::Error(error) => Err(error),
                    reply => Ok(reply),
                });
            }
        }
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// The body of the test `caller`.
pub(crate) fn call() {
    let Some(socket) = std::env::var_os("CALLER_SOCKET") else {
        return;
    };
    let say = |reply: &Reply| println!("\nanswer {}", serde_json::to_string(reply).unwrap());
    let mut client = match Client::connect(Path::new(&socket)) {
        Ok(client) => client,
        Err(Error::Helper(error)) => return say(&Reply::Error(error)),
        Err(error) => return println!("{error:?}"),
    };
    for line in std::io::stdin().lines() {
        let request: Request = serde_json::from_str(&line.unwrap()).unwrap();
        match client.request(&request) {
            Ok(reply) => say(&reply),
            Err(Error::Helper(error)) => say(&Reply::Error(error)),
            Err(error) => return println!("{error:?}"),
        }
    }
}

pub(crate) fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}
