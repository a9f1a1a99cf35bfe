//! nginx.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::wait_for_port;
use crate::caller::Caller;
use crate::process::Process;
use crate::scene::Scene;
use crate::skip::need_program;

/// An nginx that serves a folder of the scene.
#[derive(Debug)]
pub struct Nginx {
    _process: Process,
    address: SocketAddr,
    root: PathBuf,
}

impl Nginx {
    /// Starts one as [`Caller::Ordinary`], with an `index.html` that says `hello from nginx`.
    ///
    /// # Errors
    /// [`crate::Skip`] if it is not installed.
    pub fn start(scene: &Scene) -> crate::Result<Nginx> {
        let server = need_program("nginx", "nginx")?;
        let address = scene.free_address()?;
        let folder = scene.folder_of("nginx", Caller::Ordinary)?;
        let root = scene.folder_of("www", Caller::Ordinary)?;
        std::fs::write(root.join("index.html"), "hello from nginx\n")?;
        let at = folder.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("  {kind}_temp_path {at}/{kind};\n"))
            .concat();
        let text = format!(
            "daemon off;\nmaster_process off;\npid {at}/pid;\nerror_log stderr;\nevents {{ worker_connections 512; }}\n\
             http {{\n  access_log off;\n  sendfile on;\n{temporary}  server {{ listen {address}; root {}; }}\n}}\n",
            root.display()
        );
        let config = scene.write("nginx.conf", text)?;
        let mut process = scene
            .command([
                OsString::from(server),
                "-e".into(),
                "stderr".into(),
                "-p".into(),
                folder.into(),
            ])
            .args([OsString::from("-c"), config.into()])
            .by(Caller::Ordinary)
            .start()?
            .stop_with(crate::Signal::TERM);
        wait_for_port(&mut process, address)?;
        Ok(Nginx {
            _process: process,
            address,
            root,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The folder that it serves.
    pub fn root(&self) -> &Path {
        &self.root
    }
}
