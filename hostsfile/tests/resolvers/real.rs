//! The real resolvers, in namespaces of their own: `/etc` is a file system with nothing but a hosts file and the resolvers' settings,
//! and there is no network.

use std::cmp::Reverse;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use fastrand::Rng;
use hostsfile::{Document, LintOptions, Resolver};

use super::generate::{file, words};
use super::{SETUPS, seed};

const DIRECTORY: &str = "HOSTSFILE_TEST_RESOLVERS";

#[test]
fn real_resolvers_agree_on_some_files() {
    compare("real::real_resolvers_agree_on_some_files", 200);
}

#[test]
#[ignore = "takes ten seconds, and 200 files are always run: cargo test -p hostsfile --test resolvers -- --ignored"]
fn real_resolvers_agree_on_many_files() {
    compare("real::real_resolvers_agree_on_many_files", 2_000);
}

fn compare(test: &str, files: usize) {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        // In the namespaces.
        return compare_here(Path::new(&directory), files);
    }
    let skip = |why: &str| say(&format!("SKIP {test}: {why}"));
    if !rustix::process::geteuid().is_root() {
        return skip("it takes root to make a mount namespace");
    }
    let able = Command::new("unshare")
        .args(["-m", "-n", "--propagation", "private", "true"])
        .stderr(Stdio::null())
        .status();
    if !able.is_ok_and(|status| status.success()) {
        return skip("unshare(1) cannot make mount and network namespaces here");
    }
    if !runs("getconf", &["GNU_LIBC_VERSION"]) {
        return skip("this system's C library is not glibc");
    }
    let directory = tempfile::tempdir().unwrap();
    for (compiler, how) in [("gcc", [].as_slice()), ("musl-gcc", ["-static"].as_slice())] {
        if !runs(compiler, &["--version"]) {
            return skip(&format!("{compiler} is not installed"));
        }
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/resolvers/lookup.c");
        let status = Command::new(compiler)
            .args(how)
            .args(["-Wall", "-Werror", "-O1", "-o"])
            .arg(program(directory.path(), compiler))
            .arg(source)
            .status()
            .unwrap();
        assert!(status.success(), "{compiler}: {status}");
    }
    let output = Command::new("timeout")
        .args(["300", "unshare", "-m", "-n", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--include-ignored", "--nocapture"])
        .env(DIRECTORY, directory.path())
        .env_remove("RESOLV_MULTI")
        .env_remove("RESOLV_HOST_CONF")
        .env("HOSTSFILE_SEED", seed().to_string())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success() && text.contains(" 1 passed"), "{text}");
}

fn runs(program: &str, arguments: &[&str]) -> bool {
    let status = Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

fn program(directory: &Path, compiler: &str) -> PathBuf {
    directory.join(format!("lookup-{compiler}"))
}

/// Prints past the test harness, which would capture the line.
fn say(line: &str) {
    std::io::stderr()
        .write_all(format!("{line}\n").as_bytes())
        .unwrap();
}

fn compare_here(directory: &Path, files: usize) {
    // nscd's socket is under /run.
    for place in ["/etc", "/run"] {
        assert!(runs("mount", &["-t", "tmpfs", "tmpfs", place]));
    }
    std::fs::write("/etc/nsswitch.conf", "hosts: files\n").unwrap();
    // Cannot be opened, so that musl asks no name server.
    std::os::unix::fs::symlink("resolv.conf", "/etc/resolv.conf").unwrap();
    std::fs::write("/etc/hosts", "").unwrap();
    let mut real: Vec<Real> = SETUPS
        .into_iter()
        .map(|(resolver, multi)| Real::start(directory, resolver, multi))
        .collect();

    // For getent(1).
    std::fs::write("/etc/host.conf", "multi on\n").unwrap();
    let seed = seed();
    let mut rng = Rng::with_seed(seed);
    for number in 0..files {
        let bytes = file(&mut rng);
        std::fs::write("/etc/hosts", &bytes).unwrap();
        let document = Document::parse(bytes.as_slice());
        for name in words(&bytes) {
            for real in &mut real {
                let answer = real.ask(&name);
                let model = real.model(&document, &name);
                // Addresses are answered without a look into the file.
                let itself = is_itself(&name, &answer);
                assert!(
                    answer == model || (itself && model == Answer::default()),
                    "seed {seed}, file {number}, {} multi {}, {:?}: the resolver says {answer:?}, the model {model:?}\n{:?}",
                    real.resolver,
                    real.multi,
                    String::from_utf8_lossy(&name),
                    String::from_utf8_lossy(&bytes),
                );
            }
            if number % 50 == 0 {
                as_getent(&name, &mut real[0]);
            }
        }
    }
}

/// Whether the name is an address and answered with nothing but that.
fn is_itself(name: &[u8], answer: &Answer) -> bool {
    let text = std::str::from_utf8(name).unwrap_or_default();
    let text = text.split('%').next().unwrap();
    answer.iter().flatten().all(|address| match address {
        IpAddr::V6(address) => text.parse() == Ok(*address),
        IpAddr::V4(address) => {
            // An IPv4 address in the form of an IPv6 one, or numbers.
            text.parse() == Ok(address.to_ipv6_mapped())
                || text
                    .split('.')
                    .all(|part| part.starts_with(|c: char| c.is_ascii_digit()))
        }
    })
}

/// getent(1) gives the same: with `ahosts`, each address on three lines, for streams, datagrams and raw sockets.
fn as_getent(name: &[u8], glibc: &mut Real) {
    if name.starts_with(b"-") {
        return;
    }
    // Its `AI_ADDRCONFIG` leaves out nothing where there is no network.
    let output = Command::new("getent")
        .args(["--no-idn", "ahosts"])
        .arg(std::ffi::OsStr::from_bytes(name))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let listed: Vec<IpAddr> = text
        .lines()
        .filter(|line| line.contains("STREAM"))
        .map(|line| line.split([' ', '%']).next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(
        listed,
        glibc.ask(name)[2],
        "getent ahosts {}",
        String::from_utf8_lossy(name)
    );
}

/// The addresses for IPv4, IPv6 and both.
type Answer = [Vec<IpAddr>; 3];

/// A resolver in a process of its own, which has read its settings.
struct Real {
    resolver: Resolver,
    multi: bool,
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Real {
    fn start(directory: &Path, resolver: Resolver, multi: bool) -> Self {
        let setting = if multi { "multi on\n" } else { "multi off\n" };
        std::fs::write("/etc/host.conf", setting).unwrap();
        assert_eq!(
            LintOptions::from_host_conf(setting.as_bytes()),
            LintOptions::new().multi(multi)
        );
        let compiler = if resolver == Resolver::Glibc {
            "gcc"
        } else {
            "musl-gcc"
        };
        let mut child = Command::new(program(directory, compiler))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut real = Real {
            resolver,
            multi,
            ask: child.stdin.take().unwrap(),
            answers: BufReader::new(child.stdout.take().unwrap()),
            child,
        };
        // The first lookup reads the settings.
        assert_eq!(real.ask(b"nothing"), Answer::default());
        real
    }

    fn ask(&mut self, name: &[u8]) -> Answer {
        self.ask.write_all(&[name, b"\n"].concat()).unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        let mut lists = answer
            .trim_end()
            .split('|')
            .map(|list| list.split_whitespace().map(|a| a.parse().unwrap()).collect());
        [(); 3].map(|()| lists.next().unwrap())
    }

    /// What the model says, as getaddrinfo(3) sorts it where there is no network.
    fn model(&self, document: &Document, name: &[u8]) -> Answer {
        let options = LintOptions::new().multi(self.multi);
        let resolved = document.resolved_by(self.resolver, &options, name).unwrap();
        let mut lists = [
            resolved.v4.into_iter().map(IpAddr::V4).collect(),
            resolved.v6.into_iter().map(IpAddr::V6).collect(),
            resolved.any,
        ];
        for list in &mut lists {
            match self.resolver {
                Resolver::Musl if list.iter().all(IpAddr::is_ipv4) => {}
                Resolver::Musl => list.sort_by_key(|a| (Reverse(musl_precedence(*a)), scope(*a, false))),
                _ => list.sort_by_key(|a| (Reverse(glibc_precedence(*a)), scope(*a, true))),
            }
        }
        lists
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        // It would also end with its standard input.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The rules of RFC 3484 and RFC 6724 that need no source address: a higher precedence and then a smaller scope comes first.
fn glibc_precedence(address: IpAddr) -> u8 {
    match octets(address) {
        o if o == Ipv6Addr::LOCALHOST.octets() => 50,
        o if o[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff] => 10,
        o if o[..12] == [0; 12] => 20,
        [0x20, 0x02, ..] => 30,
        _ => 40,
    }
}

fn musl_precedence(address: IpAddr) -> u8 {
    match octets(address) {
        o if o == Ipv6Addr::LOCALHOST.octets() => 50,
        o if o[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff] => 35,
        [0x20, 0x02, ..] => 30,
        [0x20, 0x01, 0, 0, ..] => 5,
        [0xfc | 0xfd, ..] => 3,
        _ => 40,
    }
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// glibc also gives IPv4 addresses scopes.
fn scope(address: IpAddr, of_v4: bool) -> u8 {
    match address {
        IpAddr::V4(address) if of_v4 && (address.is_loopback() || address.is_link_local()) => 2,
        IpAddr::V4(Ipv4Addr { .. }) => 14,
        IpAddr::V6(address) if address.is_multicast() => address.octets()[1] & 15,
        IpAddr::V6(address) if address.is_loopback() || address.is_unicast_link_local() => 2,
        IpAddr::V6(_) => 14,
    }
}
