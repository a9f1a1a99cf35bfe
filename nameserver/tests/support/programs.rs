//! Other people's programs.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
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

/// A program that runs until this is dropped.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let command = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A port that was free a moment ago, for programs that cannot choose one themselves.
pub(crate) fn free_port() -> u16 {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.local_addr().unwrap().port()
}

/// A server that is asked one packet after the other.
pub(crate) struct Asked(UdpSocket);

impl Asked {
    /// Waits until the server answers this packet.
    pub(crate) fn at(server: SocketAddr, first: &[u8]) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let asked = Self(socket);
        let begun = Instant::now();
        while asked.try_ask(first).is_none() {
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "{server} does not answer"
            );
        }
        asked
    }

    fn try_ask(&self, packet: &[u8]) -> Option<Vec<u8>> {
        let mut reply = [0; 4096];
        // Refused as long as nobody listens.
        self.0.send(packet).ok()?;
        let len = self.0.recv(&mut reply).ok()?;
        (reply[..2] == packet[..2]).then(|| reply[..len].to_vec())
    }

    pub(crate) fn ask(&self, packet: &[u8]) -> Vec<u8> {
        (0..25).find_map(|_| self.try_ask(packet)).unwrap()
    }
}
