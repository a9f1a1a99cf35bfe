//! The servers, each with the same names.

use std::fmt::Write;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{NAMES, name};

/// A server that runs until it is dropped.
pub(super) struct Server {
    child: Child,
    pub(super) port: u16,
}

impl Server {
    fn start(command: &mut Command, port: u16) -> Result<Self> {
        let command = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().with_context(|| format!("{command:?}"))?;
        let mut server = Self { child, port };
        server.answers()?;
        Ok(server)
    }

    /// Waits until it does.
    fn answers(&mut self) -> Result<()> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect((Ipv4Addr::LOCALHOST, self.port))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let query = nameserver::query(1, &name(1).parse()?, "A")?;
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(60) {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended: {status}");
            }
            let mut reply = [0; 512];
            // Refused as long as nobody listens.
            if socket.send(&query).is_ok() && socket.recv(&mut reply).is_ok() && reply.get(7) == Some(&1) {
                return Ok(());
            }
        }
        bail!("it does not answer");
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn free_port() -> Result<u16> {
    Ok(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x7F4D_0000 + number)
}

/// A text with a line for each name.
fn lines(head: &str, line: impl Fn(String, Ipv4Addr) -> String) -> Result<String> {
    let mut text = head.to_owned();
    for number in 0..NAMES {
        writeln!(text, "{}", line(name(number), address(number)))?;
    }
    Ok(text)
}

pub(super) fn ours(scratch: &Path) -> Result<Server> {
    let program =
        std::env::var_os("DEVBOX_BIN").context("DEVBOX_BIN is not set; use `cargo xtask bench dns`")?;
    let file = scratch.join("registry.yaml");
    std::fs::write(
        &file,
        lines("records:\n", |name, address| {
            format!("- {{names: [{name}], addresses: [{address}]}}")
        })?,
    )?;
    let port = free_port()?;
    let mut command = Command::new(program);
    command.args([
        "dns",
        "serve",
        "--listen",
        &format!("127.0.0.1:{port}"),
        "--registry",
    ]);
    Server::start(command.arg(file), port)
}

pub(super) fn dnsmasq(scratch: &Path) -> Result<Server> {
    let hosts = scratch.join("hosts");
    std::fs::write(&hosts, lines("", |name, address| format!("{address} {name}"))?)?;
    let port = free_port()?;
    let mut command = Command::new("/usr/sbin/dnsmasq");
    command.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--pid-file=",
    ]);
    command.args([
        "--bind-interfaces",
        "--listen-address=127.0.0.1",
        "--local=/devbox.test/",
        "--user=root",
    ]);
    command
        .arg(format!("--port={port}"))
        .arg(format!("--addn-hosts={}", hosts.display()));
    Server::start(&mut command, port)
}

pub(super) fn unbound(scratch: &Path) -> Result<Server> {
    let port = free_port()?;
    let head = format!(
        "server:\n interface: 127.0.0.1@{port}\n do-daemonize: no\n username: \"\"\n chroot: \"\"\n pidfile: \"\"\n use-syslog: no\n \
         directory: \"{}\"\n module-config: \"iterator\"\n local-zone: \"devbox.test.\" static\n",
        scratch.display()
    );
    let mut text = lines(&head, |name, address| {
        format!(" local-data: \"{name}. 5 A {address}\"")
    })?;
    text.push_str("remote-control:\n control-enable: no\n");
    let file = scratch.join("unbound.conf");
    std::fs::write(&file, text)?;
    Server::start(
        Command::new("/usr/sbin/unbound").arg("-d").arg("-c").arg(&file),
        port,
    )
}

pub(super) fn knot(scratch: &Path) -> Result<Server> {
    let port = free_port()?;
    let folder = scratch.join("knot");
    std::fs::create_dir_all(&folder)?;
    let head = "$ORIGIN devbox.test.\n@ 5 SOA devbox.test. nobody.invalid. 1 3600 1200 604800 5\n@ 5 NS ns\nns 5 A 127.0.0.1\n";
    std::fs::write(
        folder.join("devbox.test.zone"),
        lines(head, |name, address| format!("{name}. 5 A {address}"))?,
    )?;
    let folder = folder.display();
    let text = format!(
        "server:\n  rundir: \"{folder}\"\n  listen: 127.0.0.1@{port}\ndatabase:\n  storage: \"{folder}\"\n\
         zone:\n  - domain: devbox.test\n    storage: \"{folder}\"\n    file: devbox.test.zone\n    zonefile-sync: -1\n    \
         journal-content: none\n"
    );
    let file = scratch.join("knot.conf");
    std::fs::write(&file, text)?;
    Server::start(Command::new("/usr/sbin/knotd").arg("-c").arg(&file), port)
}
