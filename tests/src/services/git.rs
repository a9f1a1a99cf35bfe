//! git: a repository to clone, and `git daemon`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::wait_for_port;
use crate::caller::Caller;
use crate::process::Process;
use crate::scene::Scene;
use crate::skip::need_program;
use crate::wait;

/// A bare repository `<folder>/things.git` of `caller` with one commit: a file `README` and a binary of 3 MiB.
/// Returns its folder.
///
/// # Errors
/// [`crate::Skip`] if git is not installed.
pub fn bare_repository(scene: &Scene, caller: Caller) -> crate::Result<PathBuf> {
    need_program("git", "git")?;
    let folder = scene.folder_of("git", caller)?;
    let source = scene.folder_of("git/source", caller)?;
    std::fs::write(source.join("README"), "things\n")?;
    let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..))
        .take(3 << 20)
        .collect();
    std::fs::write(source.join("noise"), noise)?;
    let script = "git init -q -b main && git add . && git -c user.name=dev -c user.email=dev@localhost commit -q -m things \
                  && git clone -q --bare . ../things.git";
    scene
        .command(["sh", "-c", script])
        .in_folder(source)
        .by(caller)
        .run(2 * wait::SOON)?
        .expect_success()?;
    Ok(folder)
}

/// A `git daemon` that serves every repository below a folder.
#[derive(Debug)]
pub struct GitDaemon {
    _process: Process,
    address: SocketAddr,
}

impl GitDaemon {
    /// Starts one for `folder`, as [`Caller::Ordinary`].
    ///
    /// # Errors
    /// [`crate::Skip`] if it is not installed.
    pub fn start(scene: &Scene, folder: &Path) -> crate::Result<GitDaemon> {
        need_program("git", "git")?;
        let address = scene.free_address()?;
        let mut process = scene
            .command(["git", "daemon", "--export-all", "--reuseaddr"])
            .args([
                format!("--listen={}", address.ip()),
                format!("--port={}", address.port()),
                format!("--base-path={}", folder.display()),
            ])
            .by(Caller::Ordinary)
            .start()?;
        wait_for_port(&mut process, address)?;
        Ok(GitDaemon {
            _process: process,
            address,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
