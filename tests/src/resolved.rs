//! systemd-resolved with a bus of its own, in a machine's `/run` and a network namespace: the system's own is not asked.

use std::path::{Path, PathBuf};

use crate::Signal;
use crate::machine::Machine;
use crate::process::Process;
use crate::scene::Scene;
use crate::skip::{Skip, need_program};
use crate::wait;

/// A running systemd-resolved, which the programs of its machine and network reach as on any other system: by `resolvectl`, and by
/// getaddrinfo(3) through its stub at 127.0.0.53.
#[derive(Debug)]
pub struct Resolved {
    _service: Process,
    _bus: Process,
}

/// Where distributions have it. It is in no `PATH`.
const PROGRAMS: [&str; 2] = [
    "/usr/lib/systemd/systemd-resolved",
    "/lib/systemd/systemd-resolved",
];

impl Resolved {
    /// Starts it, and waits until it answers. `network` is the file of the network namespace.
    ///
    /// # Errors
    /// [`Skip`] where it or dbus-daemon(1) is not installed. Debian's package of it also takes over `/etc/resolv.conf`, so no list of ours
    /// asks for it.
    pub fn start(scene: &Scene, machine: &Machine, network: &Path) -> crate::Result<Resolved> {
        let program = PROGRAMS.iter().map(PathBuf::from).find(|file| file.exists());
        let program = program.ok_or_else(|| Skip::new("systemd-resolved is not installed"))?;
        need_program("resolvectl", "systemd-resolved")?;
        need_program("dbus-daemon", "dbus-daemon")?;
        let etc = machine.etc();
        add_line(
            &etc.join("passwd"),
            "systemd-resolve:x:991:991::/:/usr/sbin/nologin",
        )?;
        add_line(&etc.join("group"), "systemd-resolve:x:991:")?;
        std::fs::remove_file(etc.join("resolv.conf")).ok();
        std::fs::write(etc.join("resolv.conf"), "nameserver 127.0.0.53\n")?;
        let inside = |words: &[&str]| {
            scene
                .command(words.iter().copied())
                .inside(machine)
                .in_network(network)
        };
        inside(&[
            "mkdir",
            "-p",
            "/run/dbus",
            "/run/systemd/resolve",
            "/run/systemd/netif",
        ])
        .run(wait::SOON)?
        .expect_success()?;
        inside(&["chown", "991:991", "/run/systemd/resolve"])
            .run(wait::SOON)?
            .expect_success()?;
        let bus = inside(&["dbus-daemon", "--system", "--nofork", "--nopidfile"]).start()?;
        let service = scene
            .command([&program])
            .inside(machine)
            .in_network(network)
            .start()?;
        let resolved = Resolved {
            _bus: bus.stop_with(Signal::TERM),
            _service: service.stop_with(Signal::TERM),
        };
        wait::until_ok("systemd-resolved", wait::SOON, || {
            let asked = inside(&["resolvectl", "status"]).run(wait::SOON)?;
            asked.expect_success().map(drop)
        })?;
        Ok(resolved)
    }
}

fn add_line(file: &Path, line: &str) -> crate::Result {
    let text = std::fs::read_to_string(file)?;
    let name = line.split(':').next().unwrap_or_default();
    if !text.lines().any(|known| known.split(':').next() == Some(name)) {
        std::fs::write(file, format!("{text}{line}\n"))?;
    }
    Ok(())
}
