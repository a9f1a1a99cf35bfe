//! rsync's own daemon.

use std::net::SocketAddr;
use std::path::Path;

use super::wait_for_port;
use crate::caller::Caller;
use crate::process::Process;
use crate::scene::Scene;
use crate::skip::need_program;

/// An `rsync --daemon` with one module, `things`, that can be read.
#[derive(Debug)]
pub struct Rsyncd {
    _process: Process,
    address: SocketAddr,
}

impl Rsyncd {
    /// Starts one for `folder`, as [`Caller::Ordinary`].
    ///
    /// # Errors
    /// [`crate::Skip`] if it is not installed.
    pub fn start(scene: &Scene, folder: &Path) -> crate::Result<Rsyncd> {
        need_program("rsync", "rsync")?;
        let address = scene.free_address()?;
        let own = scene.folder_of("rsyncd", Caller::Ordinary)?;
        let text = format!(
            "use chroot = no\nlog file = /dev/stderr\npid file = {}/pid\n[things]\n  path = {}\n  read only = yes\n",
            own.display(),
            folder.display()
        );
        let config = scene.write("rsyncd.conf", text)?;
        let mut process = scene
            .command(["rsync", "--daemon", "--no-detach"])
            .args([
                format!("--address={}", address.ip()),
                format!("--port={}", address.port()),
                format!("--config={}", config.display()),
            ])
            .by(Caller::Ordinary)
            .start()?
            .stop_with(crate::Signal::TERM);
        wait_for_port(&mut process, address)?;
        Ok(Rsyncd {
            _process: process,
            address,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
