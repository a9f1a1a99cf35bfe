//! The machine: its users, what is on it, and sessions of `devbox up`.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use devbox_helper_client::Client;

pub(crate) const DEVBOX: &str = "/program/devbox";
pub(crate) const HELPER: &str = "/program/devbox-helper";
pub(crate) const SERVICE: &str = "devbox-helper.service";
pub(crate) const SOCKET: &str = "devbox-helper.socket";
/// Where the machine was remembered before anything was installed.
const REMEMBERED: &str = "/var/lib/vm-remembered";
/// A machine without KVM is slow.
const PATIENCE: Duration = Duration::from_secs(60);
/// A port that only root may bind.
pub(crate) const LOW_PORT: u16 = 80;

pub(crate) struct User {
    pub(crate) name: &'static str,
    pub(crate) uid: u32,
}

pub(crate) struct Stage {
    pub(crate) ana: User,
    pub(crate) ben: User,
    /// Sends back what it gets.
    echo: SocketAddr,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let echo = TcpListener::bind("127.0.0.1:0").unwrap();
        let stage = Self {
            ana: user("ana"),
            ben: user("ben"),
            echo: echo.local_addr().unwrap(),
        };
        thread::spawn(move || {
            for stream in echo.incoming().flatten() {
                let mut back = stream.try_clone().unwrap();
                thread::spawn(move || std::io::copy(&mut { stream }, &mut back));
            }
        });
        for user in [&stage.ana, &stage.ben] {
            let catalog = format!(
                "environment: dev\nservices:\n  - name: orders\n    namespace: backend\n    ports:\n      \
                 - {{name: web, port: {LOW_PORT}, target: \"{}\"}}\n",
                stage.echo
            );
            fs::write(format!("/home/{}/catalog.yaml", user.name), catalog).unwrap();
        }
        stage
    }

    /// Writes down what is on the machine, for [`assert_as_before`].
    pub(crate) fn remember(&self) {
        fs::create_dir(REMEMBERED).unwrap();
        for (what, now) in seen() {
            fs::write(Path::new(REMEMBERED).join(what), now).unwrap();
        }
        fs::write(Path::new(REMEMBERED).join("files"), files()).unwrap();
    }
}

/// What sessions change.
fn seen() -> [(&'static str, String); 3] {
    let network = [
        "-br link",
        "-br addr",
        "route show table all",
        "-6 route show table all",
    ]
    .map(|question| told("ip", &question.split(' ').collect::<Vec<_>>()))
    .concat();
    let resolver = told("resolvectl", &["domain"]) + &told("resolvectl", &["dns"]);
    let hosts = fs::read_to_string("/etc/hosts").unwrap();
    [("network", network), ("resolver", resolver), ("hosts", hosts)]
}

/// Waits until names, network and resolver are as before anything was installed.
pub(crate) fn assert_as_before() {
    let differs = || {
        seen().into_iter().find_map(|(what, now)| {
            let then = fs::read_to_string(Path::new(REMEMBERED).join(what)).unwrap();
            (now != then).then(|| format!("{what} before:\n{then}\nnow:\n{now}"))
        })
    };
    let deadline = Instant::now() + PATIENCE;
    while let Some(difference) = differs() {
        assert!(Instant::now() < deadline, "{difference}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// Asserts that no file has come or gone since before the installation.
pub(crate) fn assert_files_as_before() {
    let then = fs::read_to_string(Path::new(REMEMBERED).join("files")).unwrap();
    let now = files();
    let (then, now): (BTreeSet<_>, BTreeSet<_>) = (then.lines().collect(), now.lines().collect());
    let new: Vec<_> = now.difference(&then).collect();
    let gone: Vec<_> = then.difference(&now).collect();
    assert!(new.is_empty() && gone.is_empty(), "new: {new:?}, gone: {gone:?}");
}

/// Files and folders where an installation may leave something.
fn files() -> String {
    let mut found = Vec::new();
    for top in ["/etc", "/usr", "/var/lib", "/opt"] {
        walk(Path::new(top), &mut found);
    }
    if Path::new("/run/devbox").exists() {
        found.push("/run/devbox".to_owned());
    }
    found.sort();
    found.join("\n")
}

fn walk(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        let text = path.display().to_string();
        // What systemd keeps for itself, and what this program does.
        if text.starts_with("/var/lib/systemd") || text.starts_with("/var/lib/vm-") {
            continue;
        }
        found.push(text);
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&path, found);
        }
    }
}

fn user(name: &'static str) -> User {
    let uid = told("id", &["-u", name]).trim().parse().unwrap();
    User { name, uid }
}

/// The output of a program that succeeds.
pub(crate) fn told(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let (out, error) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{out}{error}",
        output.status
    );
    out.into_owned()
}

/// What `systemctl is-active` says.
pub(crate) fn state(unit: &str) -> String {
    let output = Command::new("systemctl")
        .args(["is-active", unit])
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The helper's process, where one runs.
pub(crate) fn helper_pid() -> Option<u32> {
    let pid = told("systemctl", &["show", "-p", "MainPID", "--value", SERVICE]);
    pid.trim().parse().ok().filter(|pid| *pid != 0)
}

pub(crate) fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// Kills the helper, which cannot undo anything before, and neither systemd nor its socket starts another one. `meanwhile` is done while the
/// helper can see nothing; nobody may be left who would connect again.
pub(crate) fn kill_for_good(meanwhile: impl FnOnce()) {
    let folder = "/run/systemd/system/devbox-helper.service.d";
    fs::create_dir_all(folder).unwrap();
    fs::write(format!("{folder}/once.conf"), "[Service]\nRestart=no\n").unwrap();
    told("systemctl", &["daemon-reload"]);
    let pid = helper_pid().unwrap();
    let stopped = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(stopped, rustix::process::Signal::STOP).unwrap();
    meanwhile();
    kill(pid);
    eventually("the end of the helper", || helper_pid().is_none().then_some(()));
    told("systemctl", &["stop", SOCKET]);
    fs::remove_dir_all(folder).unwrap();
    told("systemctl", &["daemon-reload"]);
}

pub(crate) fn client() -> Client {
    Client::connect("/run/devbox/helper.sock").unwrap()
}

pub(crate) fn eventually<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "it never came: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// What the system's resolver finds.
pub(crate) fn resolve(name: &str) -> Option<IpAddr> {
    let output = Command::new("getent").args(["ahosts", name]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_whitespace().next()?.parse().ok()
}

pub(crate) fn assert_echoes(address: IpAddr, port: u16) {
    let mut stream = TcpStream::connect((address, port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"echo").unwrap();
    let mut back = [0; 4];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"echo");
}

/// A running `devbox up`.
pub(crate) struct Session {
    child: Child,
}

impl Session {
    /// Returns once it is ready.
    pub(crate) fn start(user: &User, arguments: &[&str]) -> Self {
        let home = format!("/home/{}", user.name);
        let child = Command::new(DEVBOX)
            .args(["up", "--catalog", "catalog.yaml"])
            .args(arguments)
            .current_dir(&home)
            .env_clear()
            .env("HOME", &home)
            .env("PATH", "/usr/bin:/bin")
            .uid(user.uid)
            .gid(user.uid)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut session = Self { child };
        let (say, said) = mpsc::channel();
        let outputs: [Box<dyn Read + Send>; 2] = [
            Box::new(session.child.stdout.take().unwrap()),
            Box::new(session.child.stderr.take().unwrap()),
        ];
        for output in outputs {
            let say = say.clone();
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    // Nobody listens once it is ready.
                    say.send(line).ok();
                }
            });
        }
        drop(say);
        let mut told = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while let Ok(line) = said.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            if line == "ready" {
                assert_eq!(told.iter().find(|line: &&String| line.contains("not used")), None);
                return session;
            }
            told.push(line);
        }
        panic!("{} is not ready: {told:#?}", user.name);
    }

    /// As Ctrl-C.
    pub(crate) fn end(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Where a scene has failed half-way.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
