//! The helper as a service, as an installation has it, in a machine of its own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::{Machine, Process, Scene, Signal, wait};

/// Where `devbox` looks for it, in the machine's `/run`.
const SOCKET: &str = "/run/devbox/helper.sock";

/// An installation: a policy, and how the program is started.
#[derive(Debug)]
pub struct Installed<'a> {
    scene: &'a Scene,
    machine: &'a Machine,
    network: Option<PathBuf>,
    state: PathBuf,
    environment: Vec<(String, String)>,
    program: Vec<OsString>,
}

impl<'a> Installed<'a> {
    /// Writes the policy. The helper is part of the `devbox` under test.
    ///
    /// # Errors
    /// If the policy cannot be written, or there is no `devbox`.
    pub fn new(scene: &'a Scene, machine: &'a Machine, policy: &str) -> crate::Result<Self> {
        let folder = machine.etc().join("devbox");
        std::fs::create_dir(&folder)?;
        std::fs::write(folder.join("policy.toml"), policy)?;
        Ok(Self {
            scene,
            machine,
            network: None,
            state: "/run/devbox-state".into(),
            environment: Vec::new(),
            program: vec![scene.devbox_program()?.into(), "__helper".into()],
        })
    }

    /// In another network namespace, by the file of it.
    #[must_use]
    pub fn in_network(mut self, network: impl Into<PathBuf>) -> Self {
        self.network = Some(network.into());
        self
    }

    /// With its journals in this folder of the machine.
    #[must_use]
    pub fn state(mut self, folder: impl Into<PathBuf>) -> Self {
        self.state = folder.into();
        self
    }

    /// With the environment that the unit of an installation has.
    ///
    /// # Errors
    /// If `devbox` does not show it.
    pub fn environment_of_the_unit(mut self) -> crate::Result<Self> {
        let shown = self
            .scene
            .devbox(["helper", "install", "--user", "0", "--dry-run"])?;
        let shown = shown.run(wait::SOON)?.expect_success()?.output();
        let lines = shown
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Environment=")?.split_once('='));
        self.environment = lines
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        Ok(self)
    }

    /// The program `devbox-helper` itself, in place of the one that `devbox` can be.
    #[must_use]
    pub fn program(mut self, program: &Path) -> Self {
        self.program = vec![program.into()];
        self
    }

    /// Starts it as the system would, and waits for its socket. What its predecessor left is undone before anybody is served.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(&self) -> crate::Result<Process> {
        let script = "install -d -m 755 /run/devbox && exec \"$@\"";
        let words = ["sh", "-c", script, "sh"].map(OsString::from);
        let words = words.into_iter().chain(self.program.iter().cloned());
        let words = words.chain(["serve", "--socket", SOCKET, "--state"].map(OsString::from));
        let words = words.chain([self.state.clone().into()]);
        let mut command = self.scene.command(words).inside(self.machine);
        if let Some(network) = &self.network {
            command = command.in_network(network);
        }
        for (key, value) in &self.environment {
            command = command.env(key, value);
        }
        let helper = command.start()?;
        let socket = Self::socket(&helper);
        wait::until("the helper's socket", wait::SOON, || {
            socket.exists().then_some(())
        })?;
        Ok(helper.stop_with(Signal::TERM))
    }

    /// Where a running one listens, by a path that works outside its machine.
    pub fn socket(helper: &Process) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{SOCKET}", helper.pid()))
    }
}
