//! Redis.

use std::ffi::OsString;
use std::net::SocketAddr;

use super::wait_for_port;
use crate::caller::Caller;
use crate::process::Process;
use crate::scene::Scene;
use crate::skip::need_program;

/// A Redis server that stores nothing on disk.
#[derive(Debug)]
pub struct Redis {
    _process: Process,
    address: SocketAddr,
}

impl Redis {
    /// Starts one as [`Caller::Ordinary`].
    ///
    /// # Errors
    /// [`crate::Skip`] if it is not installed.
    pub fn start(scene: &Scene) -> crate::Result<Redis> {
        let server = need_program("redis-server", "redis-server")?;
        need_program("redis-benchmark", "redis-tools")?;
        let address = scene.free_address()?;
        let mut process = scene
            .command([
                OsString::from(server),
                "--port".into(),
                address.port().to_string().into(),
            ])
            .args(["--bind".to_owned(), address.ip().to_string()])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
            .by(Caller::Ordinary)
            .start()?
            .stop_with(crate::Signal::TERM);
        wait_for_port(&mut process, address)?;
        Ok(Redis {
            _process: process,
            address,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
