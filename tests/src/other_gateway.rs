//! A gateway that shares no code with devbox: tests/python/gateway.py.

use std::ffi::OsString;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::json;

use crate::caller::Caller;
use crate::devbox::{Service, TOKEN, Up, UpOptions};
use crate::process::Process;
use crate::scene::Scene;
use crate::skip::{Skip, need_program};
use crate::wait;

const PROGRAM: &str = include_str!("../python/gateway.py");

/// A running gateway in Python, with a catalog file of its own.
#[derive(Debug)]
pub struct OtherGateway<'a> {
    scene: &'a Scene,
    process: Option<Process>,
    catalog: PathBuf,
    listen: SocketAddr,
}

impl<'a> OtherGateway<'a> {
    /// Starts one for these services on an address of the scene, and waits until it accepts connections.
    ///
    /// # Errors
    /// [`Skip`] without Python; otherwise if it does not come up.
    pub fn start(scene: &'a Scene, services: &[Service]) -> crate::Result<OtherGateway<'a>> {
        let mut gateway = OtherGateway {
            scene,
            process: None,
            catalog: scene.write("catalog.json", render(scene, services))?,
            listen: scene.free_address()?,
        };
        gateway.start_again()?;
        Ok(gateway)
    }

    /// Starts one on the same address, once its former process has ended or has stopped listening.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start_again(&mut self) -> crate::Result {
        let python = need_python(self.scene)?;
        let program = self.scene.write("gateway.py", PROGRAM)?;
        let token = self.scene.write("gateway-token", format!("{TOKEN}\n"))?;
        let process = self
            .scene
            .command([OsString::from(python), program.into()])
            .args(["--listen".to_owned(), self.listen.to_string()])
            .args([OsString::from("--catalog"), self.catalog.clone().into()])
            .args([OsString::from("--token-file"), token.into()])
            .by(Caller::Ordinary)
            .start()?;
        let mut process = process.stop_with(crate::Signal::TERM);
        wait::until_ok("a gateway that accepts connections", wait::SOON, || {
            if let Some(exit) = process.ended()? {
                bail!("the gateway ended with {exit}");
            }
            Ok(TcpStream::connect_timeout(&self.listen, Duration::from_secs(1))?)
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Hands out the process, to signal it; another one may then be started in its place.
    ///
    /// # Errors
    /// If it is not running.
    pub fn take_process(&mut self) -> crate::Result<Process> {
        self.process.take().context("the gateway is not running")
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listen
    }

    /// Replaces the catalog by these services.
    ///
    /// # Errors
    /// If the file cannot be replaced.
    pub fn replace(&self, services: &[Service]) -> crate::Result {
        self.spoil(&render(self.scene, services))
    }

    /// Replaces the catalog's file by this text, valid or not.
    ///
    /// # Errors
    /// If the file cannot be replaced.
    pub fn spoil(&self, text: &str) -> crate::Result {
        let new = self.catalog.with_extension("new");
        std::fs::write(&new, text)?;
        Ok(std::fs::rename(&new, &self.catalog)?)
    }

    /// `--gateway … --token-file … --env …`, with these values.
    ///
    /// # Errors
    /// If the token file cannot be written.
    pub fn flags(&self, token: &str, environment: &str) -> crate::Result<Vec<OsString>> {
        let name = format!("token-{}", self.scene.unique());
        let file = self
            .scene
            .write_secret(&name, format!("{token}\n"), Caller::Ordinary)?;
        Ok(vec![
            "--gateway".into(),
            format!("ws://{}", self.listen).into(),
            "--token-file".into(),
            file.into(),
            "--env".into(),
            environment.into(),
        ])
    }

    /// Starts `devbox up` against it, and waits for its line `ready`.
    ///
    /// # Errors
    /// If it does not become ready.
    pub fn up(&self) -> crate::Result<Up<'a>> {
        let flags = self.flags(TOKEN, self.scene.environment())?;
        let options = UpOptions::new(Caller::Ordinary);
        let up = Up::launch_with(self.scene, self.scene.environment(), flags, &options)?;
        up.wait_until_ready()?;
        Ok(up)
    }
}

fn render(scene: &Scene, services: &[Service]) -> String {
    let services: Vec<_> = services.iter().map(Service::json).collect();
    json!({"environment": scene.environment(), "services": services}).to_string()
}

/// A Python that can run the programs in tests/python.
///
/// # Errors
/// [`Skip`] where none is installed, or only one before 3.9.
pub fn need_python(scene: &Scene) -> crate::Result<PathBuf> {
    let python = need_program("python3", "python3")?;
    let recent = "import sys; sys.exit(sys.version_info < (3, 9))";
    let asked = scene.command([python.clone().into(), OsString::from("-c"), recent.into()]);
    match asked.run(wait::SOON)?.expect_success() {
        Ok(_) => Ok(python),
        Err(_) => Err(Skip::new("python3 is older than 3.9").into()),
    }
}
