//! PostgreSQL.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::time::Duration;

use super::wait_for_port;
use crate::caller::Caller;
use crate::process::Process;
use crate::scene::Scene;
use crate::skip::need_program;
use crate::wait;

/// A PostgreSQL server with the database and superuser `dev`, no password, and its Unix socket only in the scene.
#[derive(Debug)]
pub struct Postgres {
    process: Process,
    address: SocketAddr,
}

impl Postgres {
    /// Creates a cluster and starts it as [`Caller::Ordinary`]: `initdb` refuses root.
    ///
    /// # Errors
    /// [`crate::Skip`] if it is not installed.
    pub fn start(scene: &Scene) -> crate::Result<Postgres> {
        const PACKAGE: &str = "postgresql";
        let initdb = need_program("initdb", PACKAGE)?;
        let server = need_program("postgres", PACKAGE)?;
        need_program("psql", PACKAGE)?;
        let folder = scene.folder_of("postgres", Caller::Ordinary)?;
        let data = folder.join("data");
        let options = [
            "--username=dev",
            "--auth=trust",
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C",
            "--pgdata",
        ];
        scene
            .command([OsString::from(initdb)])
            .args(options)
            .args([&data])
            .by(Caller::Ordinary)
            .run(Duration::from_secs(90))?
            .expect_success()?;
        let address = scene.free_address()?;
        let process = scene
            .command([
                OsString::from(&server),
                "-D".into(),
                data.into(),
                "-k".into(),
                folder.into(),
            ])
            .args([
                "-h".to_owned(),
                address.ip().to_string(),
                "-p".to_owned(),
                address.port().to_string(),
            ])
            .args([
                "-c",
                "fsync=off",
                "-c",
                "shared_buffers=16MB",
                "-c",
                "max_connections=40",
            ])
            .by(Caller::Ordinary)
            .start()?;
        // Immediate shutdown: the server ends its own children, then itself.
        let mut process = process.stop_with(crate::Signal::QUIT);
        wait_for_port(&mut process, address)?;
        let postgres = Postgres { process, address };
        wait::until("a server that is ready for queries", 2 * wait::SOON, || {
            postgres
                .process
                .errors()
                .contains("ready to accept connections")
                .then_some(())
        })?;
        Ok(postgres)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
