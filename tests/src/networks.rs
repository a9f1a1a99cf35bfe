//! Two machines with a cable between them: network namespaces.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::{Context, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{Scene, Skip, need_program};

/// Two network namespaces, joined by a cable. They and all in them are gone when this is dropped.
#[derive(Debug)]
pub struct Networks {
    id: String,
}

/// The network of the far side, and of the client.
pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 201, 0, 1);
/// The address that the client has at first.
pub const NEAR: Ipv4Addr = Ipv4Addr::new(10, 201, 0, 2);

impl Networks {
    /// Makes them.
    ///
    /// # Errors
    /// [`Skip`] where the tests are not run by root, where there is no ip(8), or where the system forbids it.
    pub fn start(scene: &Scene) -> crate::Result<Networks> {
        scene.need_root()?;
        need_program("ip", "iproute2")?;
        let networks = Networks {
            id: format!("dbx{:08x}", fastrand::u32(..)),
        };
        if let Err(error) = ip(&["netns", "add", &networks.near()]) {
            return Err(Skip::new(format!("no network namespace can be made: {error}")).into());
        }
        ip(&["netns", "add", &networks.far()])?;
        for (namespace, address, peer) in [
            (networks.near(), NEAR, Some(networks.far())),
            (networks.far(), FAR, None),
        ] {
            let inside =
                |line: &str| ip(&[&["-n", &namespace], &line.split(' ').collect::<Vec<_>>()[..]].concat());
            inside("link set lo up")?;
            if let Some(peer) = peer {
                inside(&format!("link add cable type veth peer name cable netns {peer}"))?;
            }
            inside(&format!("addr add {address}/24 dev cable"))?;
            inside("link set cable up")?;
        }
        Ok(networks)
    }

    /// The name of the client's namespace, for ip(8).
    pub fn near(&self) -> String {
        format!("{}n", self.id)
    }

    /// The name of the far side's namespace, for ip(8).
    pub fn far(&self) -> String {
        format!("{}f", self.id)
    }

    /// Runs `ip` with this line in the client's namespace.
    ///
    /// # Errors
    /// If it fails.
    pub fn change(&self, line: &str) -> crate::Result {
        ip(&[&["-n", &self.near()], &line.split(' ').collect::<Vec<_>>()[..]].concat())
    }

    /// Runs `work` in the far side's namespace: the sockets that it makes belong there.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn at_the_far_side<T: Send>(
        &self,
        work: impl FnOnce() -> crate::Result<T> + Send,
    ) -> crate::Result<T> {
        inside(Path::new(&format!("/run/netns/{}", self.far())), work)
    }
}

/// Runs `work` in a network namespace, on a thread of its own, which does not come back from there.
pub(crate) fn inside<T: Send>(
    namespace: &Path,
    work: impl FnOnce() -> crate::Result<T> + Send,
) -> crate::Result<T> {
    let namespace = File::open(namespace)?;
    let done = std::thread::scope(|scope| {
        let working = scope.spawn(|| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            work()
        });
        working.join()
    });
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

impl Drop for Networks {
    fn drop(&mut self) {
        for name in [self.near(), self.far()] {
            // It is not there where it could not be made.
            ip(&["netns", "del", &name]).ok();
        }
    }
}

fn ip(arguments: &[&str]) -> crate::Result {
    let output = std::process::Command::new("ip")
        .args(arguments)
        .output()
        .context("run ip(8)")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("ip {}: {}", arguments.join(" "), said.trim());
    }
    Ok(())
}
