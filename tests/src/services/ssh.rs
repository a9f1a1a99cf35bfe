//! OpenSSH's server.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::wait_for_port;
use crate::caller::Caller;
use crate::machine::Machine;
use crate::process::{Exit, Process};
use crate::scene::Scene;
use crate::skip::{Skip, need_program};
use crate::wait;

/// An `sshd` that lets in one user by a key: the user who runs the tests.
///
/// As root it runs inside a [`Machine`], because it needs `/run/sshd`.
#[derive(Debug)]
pub struct Sshd {
    process: Process,
    _machine: Option<Machine>,
    address: SocketAddr,
    host_key: String,
    folder: PathBuf,
}

impl Sshd {
    /// Starts one.
    ///
    /// # Errors
    /// [`Skip`] if it is not installed, or does not let this user in with a key.
    pub fn start(scene: &Scene) -> crate::Result<Sshd> {
        let server = need_program("sshd", "openssh-server")?;
        need_program("ssh", "openssh-client")?;
        let user = Caller::own();
        let machine = match user {
            Caller::Root => Some(Machine::start(scene)?),
            _ => None,
        };
        let folder = scene.folder_of("ssh", user)?;
        for key in ["host_key", "user_key"] {
            scene
                .command(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f"])
                .args([folder.join(key)])
                .run(wait::SOON)?
                .expect_success()?;
        }
        std::fs::copy(folder.join("user_key.pub"), folder.join("authorized_keys"))?;
        let address = scene.free_address()?;
        let at = folder.display();
        let text = format!(
            "ListenAddress {address}\nHostKey {at}/host_key\nAuthorizedKeysFile {at}/authorized_keys\nPidFile none\n\
             UsePAM no\nStrictModes no\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nAcceptEnv NOTHING\nMaxStartups 100\n"
        );
        let config = scene.write("ssh/sshd_config", text)?;
        let mut command = scene
            .command([server])
            .args(["-D", "-e", "-f"])
            .args([config])
            .by(user);
        if let Some(machine) = &machine {
            command = command.inside(machine);
        }
        let mut process = command.start()?.stop_with(crate::Signal::TERM);
        wait_for_port(&mut process, address)?;
        let host_key = std::fs::read_to_string(folder.join("host_key.pub"))?;
        let sshd = Sshd {
            process,
            _machine: machine,
            address,
            host_key,
            folder,
        };
        sshd.let_in(scene)?;
        Ok(sshd)
    }

    /// Logs in once, directly. If the system's accounts do not allow that, the test is skipped, since devbox is not at fault.
    fn let_in(&self, scene: &Scene) -> crate::Result {
        let name = self.address.ip().to_string();
        let ssh = self.client(scene, Caller::own(), &name, self.address.port())?;
        let out = scene.command(ssh).args([&name, "true"]).run(2 * wait::SOON)?;
        let told = self.process.errors();
        match told.lines().find(|line| line.contains(" not allowed because ")) {
            Some(why) if out.exit != Exit::Code(0) => Err(Skip::new(format!("sshd: {why}")).into()),
            _ => out.expect_success().map(|_| ()),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The user to log in as.
    pub fn user(&self) -> String {
        Caller::own().name()
    }

    /// The words of an `ssh` command with the options that let `caller` in as `name` at `port`, without the host's name. Options
    /// and not a file for `-F`, which would hide the system's own configuration that every user's ssh reads.
    ///
    /// # Errors
    /// If the key cannot be written.
    pub fn client(&self, scene: &Scene, caller: Caller, name: &str, port: u16) -> crate::Result<Vec<String>> {
        let key = std::fs::read(self.folder.join("user_key"))?;
        let key = scene.write_secret(&format!("ssh/key-{}", caller.uid()), key, caller)?;
        let mut words = self.host_key.split_ascii_whitespace();
        let (kind, data) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let known = scene.write(
            &format!("ssh/known-{}", scene.unique()),
            format!("[{name}]:{port} {kind} {data}\n"),
        )?;
        let options = [
            format!("Port={port}"),
            format!("User={}", self.user()),
            format!("IdentityFile={}", key.display()),
            format!("UserKnownHostsFile={}", known.display()),
            "GlobalKnownHostsFile=/dev/null".to_owned(),
            "IdentitiesOnly=yes".to_owned(),
            "BatchMode=yes".to_owned(),
            "StrictHostKeyChecking=yes".to_owned(),
            "ConnectTimeout=10".to_owned(),
            "LogLevel=ERROR".to_owned(),
        ];
        let words = options.into_iter().flat_map(|option| ["-o".to_owned(), option]);
        Ok(std::iter::once("ssh".to_owned()).chain(words).collect())
    }
}
