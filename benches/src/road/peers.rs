//! The subjects: a direct connection, devbox, `ssh -L`, `socat`.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::subject::{Running, Subject, free_address};
use crate::{FLOOR, OURS};

pub(crate) fn direct(service: SocketAddr, scratch: &Path) -> Result<Subject> {
    Subject::start(FLOOR, None, ("localhost", service.port()), Vec::new(), scratch)
}

/// A real `devbox gateway serve`, and the load inside a real `devbox exec`.
pub(crate) fn devbox(service: SocketAddr, scratch: &Path) -> Result<Subject> {
    const NAME: &str = "road.bench";
    const PORT: u16 = 18080;
    let program = std::env::var_os("DEVBOX_BIN").map(PathBuf::from);
    let program = program.context("ours: DEVBOX_BIN is not set; use `cargo xtask bench road`")?;
    let (catalog, token) = (scratch.join("catalog.yaml"), scratch.join("token"));
    let home = scratch.join("home");
    fs::create_dir_all(&home)?;
    fs::write(
        &catalog,
        format!(
            "environment: bench\nservices:\n  - name: road\n    namespace: bench\n    \
             ports: [{{name: tcp, port: {PORT}, protocol: tcp, target: \"{service}\"}}]\n"
        ),
    )?;
    fs::write(&token, "only-for-this-bench\n")?;
    let listen = free_address()?;
    // Its own home, so that no running session of the user is found or joined.
    let alone = |command: &mut Command| {
        command
            .env("HOME", &home)
            .env_remove("XDG_RUNTIME_DIR")
            .env_remove("XDG_CONFIG_HOME")
            .current_dir(&home);
    };
    let mut gateway = Command::new(&program);
    gateway
        .args(["gateway", "serve", "--catalog"])
        .arg(&catalog)
        .args(["--listen", &listen.to_string()]);
    gateway
        .arg("--token-file")
        .arg(&token)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    alone(&mut gateway);
    let gateway = Running::start(&mut gateway, &scratch.join("gateway.log"))?
        .listening(listen)
        .context("ours: gateway")?;
    let mut exec = Command::new(&program);
    exec.args([
        "exec",
        "--gateway",
        &format!("ws://{listen}"),
        "--env",
        "bench",
        "--token-file",
    ])
    .arg(&token)
    .arg("--");
    alone(&mut exec);
    Subject::start(OURS, Some(exec), (NAME, PORT), vec![gateway], scratch)
}

/// OpenSSH with its defaults and its own keys, with both ends on this machine.
pub(crate) fn ssh(service: SocketAddr, scratch: &Path) -> Result<Subject> {
    const NAME: &str = "ssh -L";
    let (server, client, keygen) = (installed("sshd")?, installed("ssh")?, installed("ssh-keygen")?);
    let key = |name: &str| {
        let file = scratch.join(name);
        let mut command = Command::new(&keygen);
        command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&file);
        let made = command.status().context("ssh-keygen")?;
        if made.success() {
            Ok(file)
        } else {
            bail!("ssh-keygen ended with {made}")
        }
    };
    let (host_key, user_key) = (key("host_key")?, key("user_key")?);
    let authorized = scratch.join("authorized_keys");
    fs::copy(user_key.with_extension("pub"), &authorized)?;
    let (remote, local) = (free_address()?, free_address()?);
    // Debian's sshd needs this directory for privilege separation when it runs as root.
    drop(fs::create_dir_all("/run/sshd"));
    let mut sshd = Command::new(server);
    sshd.args([
        "-D",
        "-e",
        "-f",
        "/dev/null",
        "-p",
        &remote.port().to_string(),
        "-h",
    ])
    .arg(&host_key);
    for option in [
        "ListenAddress=127.0.0.1",
        "PidFile=none",
        "StrictModes=no",
        "UsePAM=no",
        "MaxStartups=100",
    ] {
        sshd.args(["-o", option]);
    }
    sshd.arg("-o")
        .arg(format!("AuthorizedKeysFile={}", authorized.display()));
    let sshd = Running::start(&mut sshd, &scratch.join("sshd.log"))?
        .listening(remote)
        .context("ssh -L: sshd")?;
    let mut forward = Command::new(client);
    forward.args([
        "-N",
        "-F",
        "/dev/null",
        "-L",
        &format!("{local}:{service}"),
        "-p",
        &remote.port().to_string(),
        "-i",
    ]);
    forward.arg(user_key).stdin(Stdio::null()).stdout(Stdio::null());
    for option in [
        "BatchMode=yes",
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "GlobalKnownHostsFile=/dev/null",
        "ExitOnForwardFailure=yes",
    ] {
        forward.args(["-o", option]);
    }
    forward.arg("127.0.0.1");
    let forward = Running::start(&mut forward, &scratch.join("ssh.log"))?
        .listening(local)
        .context("ssh -L: ssh")?;
    Subject::start(
        NAME,
        None,
        ("localhost", local.port()),
        vec![forward, sshd],
        scratch,
    )
}

/// A plain proxy with no tunnel and no multiplexer: one process per connection.
pub(crate) fn socat(service: SocketAddr, scratch: &Path) -> Result<Subject> {
    let local = free_address()?;
    let mut command = Command::new(installed("socat")?);
    command.arg(format!(
        "TCP-LISTEN:{},bind=127.0.0.1,reuseaddr,fork,nodelay,backlog=128",
        local.port()
    ));
    command
        .arg(format!("TCP:{service},nodelay"))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let running = Running::start(&mut command, &scratch.join("socat.log"))?
        .listening(local)
        .context("socat")?;
    Subject::start("socat", None, ("localhost", local.port()), vec![running], scratch)
}

fn installed(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let found = folders
        .map(|folder| folder.join(name))
        .find(|file| file.is_file());
    found.with_context(|| format!("{name} is not installed"))
}
