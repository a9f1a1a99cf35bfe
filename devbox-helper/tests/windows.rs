//! The real program behind a real pipe and as a real service, on Windows or under Wine: with a hosts file of its own, and the registry
//! and the service control manager of the machine.
#![cfg(windows)]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::io::ErrorKind;
use std::os::windows::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use devbox_helper_client::{
    Channel, Client, Endpoint, Error, Handshake, HelperError, HostsBlock, HostsEntry, NewResolver,
};
use windows_registry::LOCAL_MACHINE;

const ORIGINAL: &[u8] = b"127.0.0.1 localhost\r\n10.1.2.3 mine.example";
const FILE_FLAG_OVERLAPPED: u32 = 0x4000_0000;
const RULES: &str = r"SYSTEM\CurrentControlSet\Services\Dnscache\Parameters\DnsPolicyConfig";

const HELPER: &str = env!("CARGO_BIN_EXE_devbox-helper");

/// A folder with all that a helper needs, and a pipe that no other test has.
struct Place {
    dir: tempfile::TempDir,
    pipe: PathBuf,
}

impl Place {
    fn new(test: &str, users: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("hosts"), ORIGINAL).unwrap();
        let policy = format!("pools = ['127.77.0.0/16']\nusers = [{users}]\nresolver = true\n");
        fs::write(dir.path().join("policy.toml"), policy).unwrap();
        let pipe = PathBuf::from(format!(r"\\.\pipe\devbox-{}-{test}", std::process::id()));
        Self { dir, pipe }
    }

    /// For the account that runs the test.
    fn own(test: &str) -> Self {
        Self::new(test, &format!("'{}'", devbox_helper::own_account().unwrap()))
    }

    /// Nothing where there is no such file: Wine replaces one in two steps.
    fn hosts(&self) -> Vec<u8> {
        fs::read(self.dir.path().join("hosts")).unwrap_or_default()
    }

    /// Starts the program, and waits until it has a pipe.
    fn serve(&self) -> Server {
        let child = Command::new(HELPER)
            .arg("serve")
            .args(self.arguments())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut server = Server(child);
        self.await_pipe(|| assert_eq!(server.0.try_wait().unwrap(), None, "the helper has ended"));
        server
    }

    fn arguments(&self) -> Vec<PathBuf> {
        let mut arguments = vec!["--socket".into(), self.pipe.clone()];
        for (option, name) in [
            ("--policy", "policy.toml"),
            ("--hosts-file", "hosts"),
            ("--state", "state"),
        ] {
            arguments.extend([option.into(), self.dir.path().join(name)]);
        }
        arguments
    }

    fn await_pipe(&self, mut meanwhile: impl FnMut()) {
        let start = Instant::now();
        loop {
            match Client::connect(&self.pipe) {
                Err(Error::Connect { source, .. }) if source.kind() == ErrorKind::NotFound => {
                    meanwhile();
                    assert!(
                        start.elapsed() < Duration::from_secs(60),
                        "the helper has no pipe"
                    );
                    thread::yield_now();
                }
                // Whatever it says, it is there.
                _ => return,
            }
        }
    }

    fn connect(&self) -> Client {
        Client::connect(&self.pipe).unwrap()
    }
}

struct Server(Child);

impl Server {
    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Only one that a test has not ended itself.
        if matches!(self.0.try_wait(), Ok(None)) {
            self.0.kill().ok();
            self.0.wait().ok();
        }
    }
}

fn block(tag: &str, name: &str) -> HostsBlock {
    HostsBlock {
        tag: tag.into(),
        entries: vec![HostsEntry {
            address: "127.77.0.5".parse().unwrap(),
            names: vec![name.into()],
        }],
    }
}

fn rule() -> NewResolver {
    NewResolver {
        interface: "devbox0".into(),
        suffixes: vec!["shop.internal".into()],
        servers: vec!["127.77.0.1:53".parse().unwrap()],
    }
}

fn rule_is_there() -> bool {
    LOCAL_MACHINE
        .open(format!(r"{RULES}\netif-devbox-shop.internal"))
        .is_ok()
}

fn until(what: &str, so: impl Fn() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what}");
        thread::yield_now();
    }
}

#[test]
fn a_claim_lasts_as_long_as_its_connection() {
    let place = Place::own("claim");
    let _server = place.serve();
    let mut client = place.connect();
    client.set_hosts(block("devbox-one", "orders.backend")).unwrap();
    assert!(
        String::from_utf8(place.hosts())
            .unwrap()
            .contains("orders.backend")
    );
    // Another session of the same user waits for the name.
    let mut other = place.connect();
    let report = other.set_hosts(block("devbox-two", "orders.backend")).unwrap();
    assert_eq!(report.held.len(), 1, "{report:?}");
    let status = client.status().unwrap();
    let holders: Vec<u32> = status.claims.iter().map(|claim| claim.holder.pid).collect();
    assert_eq!(
        holders,
        [std::process::id(); 2],
        "the pid is what the system says"
    );
    drop(client);
    until("the other session gets the name", || {
        String::from_utf8(place.hosts()).unwrap().contains("devbox-two")
    });
    drop(other);
    until("the hosts file is as before", || place.hosts() == ORIGINAL);
}

#[test]
fn who_is_not_listed_is_refused_with_a_reason() {
    // The account of the helper itself may open the pipe, but the policy has the last word.
    let place = Place::new("stranger", "'S-1-5-21-1-2-3-4'");
    let _server = place.serve();
    let refused = Client::connect(&place.pipe).map(drop).unwrap_err();
    let Error::Helper(HelperError::NotAllowed { what, why }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(what, format!("user {}", devbox_helper::own_account().unwrap()));
    assert!(why.contains("policy lists neither"), "{why}");
}

#[test]
fn a_message_is_read_while_the_other_direction_waits() {
    let place = Place::own("duplex");
    let _server = place.serve();
    let pipe = fs::File::options()
        .access_mode(0x0012_019b)
        .custom_flags(FILE_FLAG_OVERLAPPED)
        .open(&place.pipe)
        .unwrap();
    let (mut sender, mut receiver) = Channel::of(pipe.into()).unwrap().split();
    let (waiting, waits) = std::sync::mpsc::channel();
    let reading = thread::spawn(move || {
        waiting.send(()).unwrap();
        receiver
            .receive_within::<Handshake>(Duration::from_secs(30))
            .unwrap()
    });
    waits.recv().unwrap();
    sender.send(&Handshake::hello()).unwrap();
    let answer = reading.join().unwrap();
    assert!(matches!(answer, Some(Handshake::Welcome { .. })), "{answer:?}");
}

#[test]
fn who_says_nothing_within_a_limit_is_told_apart_from_who_has_gone() {
    let place = Place::own("limit");
    let server = place.serve();
    let pipe = fs::File::options()
        .access_mode(0x0012_019b)
        .custom_flags(FILE_FLAG_OVERLAPPED)
        .open(&place.pipe)
        .unwrap();
    let (_sender, mut receiver) = Channel::of(pipe.into()).unwrap().split();
    let silent = receiver.receive_within::<Handshake>(Duration::from_millis(50));
    assert!(
        matches!(&silent, Err(Error::Channel(error)) if error.kind() == ErrorKind::TimedOut),
        "{silent:?}"
    );
    server.kill();
    let ended = receiver.receive_within::<Handshake>(Duration::from_secs(30));
    assert!(matches!(ended, Ok(None)), "{ended:?}");
}

#[test]
fn what_a_killed_helper_left_is_undone_before_the_next_one_serves() {
    let place = Place::own("killed");
    let server = place.serve();
    let mut client = place.connect();
    client.set_hosts(block("devbox-one", "orders.backend")).unwrap();
    client.set_resolver(rule()).unwrap();
    assert!(rule_is_there());
    server.kill();
    assert!(rule_is_there() && place.hosts() != ORIGINAL);
    let _next = place.serve();
    // It serves, so it has undone everything.
    assert!(!rule_is_there());
    assert_eq!(place.hosts(), ORIGINAL);
}

#[test]
fn a_rule_goes_with_its_session() {
    let place = Place::own("rule");
    let _server = place.serve();
    let mut client = place.connect();
    let report = client.set_resolver(NewResolver {
        suffixes: vec!["other.internal".into()],
        ..rule()
    });
    assert_eq!(report.unwrap().changed, 1);
    let key = format!(r"{RULES}\netif-devbox-other.internal");
    assert!(LOCAL_MACHINE.open(&key).is_ok());
    drop(client);
    until("the rule is gone", || LOCAL_MACHINE.open(&key).is_err());
}

#[test]
fn a_listener_cannot_be_passed_and_that_is_said() {
    let place = Place::own("listener");
    let _server = place.serve();
    let refused = place
        .connect()
        .bind(Endpoint::tcp("127.77.0.5:80".parse().unwrap()));
    assert!(
        matches!(refused, Err(Error::Helper(HelperError::Unsupported { .. }))),
        "{refused:?}"
    );
}

/// A service as `devbox helper install` makes it, under a name of its own.
struct Installed(String);

impl Installed {
    fn of(place: &Place, test: &str) -> Self {
        let service = Self(format!("devbox-{}-{test}", std::process::id()));
        let mut command = format!("\"{HELPER}\" service");
        for argument in place.arguments() {
            command += &format!(" \"{}\"", argument.display());
        }
        let made = service.sc("create", &["binPath=", &command, "start=", "demand"]);
        assert!(made.0, "{}", made.1);
        service
    }

    /// Whether it was done, and what was said.
    fn sc(&self, verb: &str, words: &[&str]) -> (bool, String) {
        let said = Command::new("sc.exe")
            .args([verb, &self.0])
            .args(words)
            .output()
            .unwrap();
        (
            said.status.success(),
            String::from_utf8_lossy(&said.stdout).into_owned(),
        )
    }

    /// Waits until it has stopped, and gives its two exit codes.
    fn stopped(&self) -> (String, String) {
        let start = Instant::now();
        loop {
            let (_, told) = self.sc("query", &[]);
            let number = |name: &str| {
                let line = told.lines().find(|line| line.trim_start().starts_with(name));
                let number = line.and_then(|line| line.split(':').nth(1)?.split_whitespace().next());
                number.unwrap_or_default().to_owned()
            };
            if number("STATE") == "1" {
                return (number("WIN32_EXIT_CODE"), number("SERVICE_EXIT_CODE"));
            }
            assert!(start.elapsed() < Duration::from_secs(60), "{told}");
        }
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        self.sc("stop", &[]);
        self.sc("delete", &[]);
    }
}

#[test]
fn a_service_is_started_by_its_manager_and_undoes_everything_when_it_is_stopped() {
    let place = Place::own("service");
    let service = Installed::of(&place, "service");
    let started = service.sc("start", &[]);
    assert!(started.0, "{}", started.1);
    place.await_pipe(|| {});
    let mut client = place.connect();
    client.set_hosts(block("devbox-one", "orders.backend")).unwrap();
    assert_ne!(place.hosts(), ORIGINAL);
    let told = service.sc("stop", &[]);
    assert!(told.0, "{}", told.1);
    assert_eq!(service.stopped(), ("0".to_owned(), "0".to_owned()));
    assert_eq!(place.hosts(), ORIGINAL);
}

#[test]
fn a_service_that_cannot_serve_tells_its_manager_that_it_failed() {
    let place = Place::own("failure");
    fs::remove_file(place.dir.path().join("policy.toml")).unwrap();
    let service = Installed::of(&place, "failure");
    service.sc("start", &[]);
    // ERROR_SERVICE_SPECIFIC_ERROR, and ours.
    assert_eq!(service.stopped(), ("1066".to_owned(), "1".to_owned()));
}
