//! Other people's programs.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Says on the process's own standard error that a test does not run here, and why.
pub(crate) fn skip(test: &str, why: &str) {
    // A closed standard error leaves nobody to tell.
    drop(std::io::stderr().write_all(format!("SKIP {test}: {why}\n").as_bytes()));
}

/// The path of a program, an administrator's included.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/go/bin".into()])
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// A port that was free a moment ago, for programs that cannot choose one themselves.
fn free_port() -> u16 {
    let free = |_| {
        let over_tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = over_tcp.local_addr().unwrap();
        UdpSocket::bind(address).is_ok().then_some(address.port())
    };
    (0..100).find_map(free).unwrap()
}

/// A name server that is asked one packet after the other, and ends when this is dropped.
pub(crate) struct Server {
    process: Child,
    socket: UdpSocket,
}

impl Server {
    /// Starts it with a port of this machine, and waits until it answers this packet. If it ends instead, another program may have taken
    /// the port, and it gets another one.
    pub(crate) fn start(first: &[u8], command: impl Fn(u16) -> Command) -> Self {
        let start_one = || {
            let port = free_port();
            Self::on(port, &mut command(port), first)
        };
        let mut server = start_one();
        for _ in 0..4 {
            server = server.or_else(|_| start_one());
        }
        // A failure is what the program said.
        server.unwrap()
    }

    fn on(port: u16, command: &mut Command, first: &[u8]) -> Result<Self, String> {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null());
        let process = command.stderr(Stdio::piped()).spawn().unwrap();
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut server = Self { process, socket };
        let begun = Instant::now();
        while server.try_ask(first).is_none() {
            if let Some(status) = server.process.try_wait().unwrap() {
                return Err(format!("{status}: {}", server.errors()));
            }
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "it does not answer at port {port}"
            );
        }
        Ok(server)
    }

    /// What it said, once it has ended.
    fn errors(&mut self) -> String {
        let mut said = String::new();
        self.process
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        said
    }

    fn try_ask(&self, packet: &[u8]) -> Option<Vec<u8>> {
        let mut reply = [0; 4096];
        // Refused as long as nobody listens.
        self.socket.send(packet).ok()?;
        let len = self.socket.recv(&mut reply).ok()?;
        (reply[..2] == packet[..2]).then(|| reply[..len].to_vec())
    }

    pub(crate) fn ask(&self, packet: &[u8]) -> Vec<u8> {
        (0..25).find_map(|_| self.try_ask(packet)).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
