//! A system that asks a session's DNS server for one suffix: systemd-resolved, told by the helper.
#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use devbox_tests::networks::Networks;
use devbox_tests::peers::Echo;
use devbox_tests::resolved::Resolved;
use devbox_tests::{
    CatalogFile, Exit, Finished, Machine, Outcome, Process, Result, Scene, Service, Signal, Skip, scenario,
    wait,
};

const PORT: u16 = 7820;

/// The usual pool.
const POOL: &str = "127.77.0.0/16";

/// One that systemd-resolved asks others about: of 127.0.0.0/8 it knows that all of it is `localhost`.
const OTHER_POOL: &str = "10.218.77.0/24";

/// A machine with a network and a systemd-resolved of its own.
struct System<'a> {
    scene: &'a Scene,
    machine: &'a Machine,
    network: PathBuf,
    _resolved: Resolved,
}

impl<'a> System<'a> {
    fn start(scene: &'a Scene, machine: &'a Machine, networks: &Networks) -> Result<Self> {
        let network = Path::new("/run/netns").join(networks.near());
        let dummy = "link add devbox-probe type dummy";
        if networks.change(dummy).is_err() && !Path::new("/dev/net/tun").exists() {
            return Err(Skip::new("the kernel has neither dummy nor TUN interfaces").into());
        }
        networks.change("link del devbox-probe").ok();
        Ok(Self {
            scene,
            machine,
            _resolved: Resolved::start(scene, machine, &network)?,
            network,
        })
    }

    fn run(&self, words: &[&str]) -> Result<Finished> {
        let command = self.scene.command(words.iter().copied());
        command
            .inside(self.machine)
            .in_network(&self.network)
            .run(wait::SOON)
    }

    /// `devbox up` as root for one service of an environment, whose names go to its DNS server.
    fn up(&self, environment: &str, service: &str, echo: &Echo) -> Result<Process> {
        self.up_in(POOL, environment, service, echo)
    }

    fn up_in(&self, pool: &str, environment: &str, service: &str, echo: &Echo) -> Result<Process> {
        let service = Service::new(service, "backend", PORT, echo.address());
        let catalog = CatalogFile::of_environment(self.scene, environment, &[service])?;
        let text = format!(
            "naming: dns\npool: {pool}\nproviders:\n  - {{name: local, kind: direct, catalog: {}, environment: {environment}}}\n",
            catalog.path().display()
        );
        let config = self.scene.write(&format!("{environment}.yaml"), text)?;
        let up = self.scene.devbox(["up", "--config"])?.args([&config]);
        let up = up.inside(self.machine).in_network(&self.network).start()?;
        let up = up.stop_with(Signal::TERM);
        up.wait_for_line("the line `ready`", 2 * wait::SOON, |line| {
            line.trim_end() == "ready"
        })?;
        Ok(up)
    }

    /// What the whole system makes of a name.
    fn getent(&self, name: &str) -> Result<String> {
        Ok(self.run(&["getent", "ahostsv4", name])?.output())
    }

    fn rules(&self) -> Result<String> {
        Ok(self.run(&["resolvectl", "domain"])?.expect_success()?.output())
    }

    /// Waits until nothing of any session is left.
    fn is_as_before(&self) -> Result {
        wait::until_ok("no rule and no interface", wait::SOON, || {
            let rules = self.rules()?;
            ensure!(!rules.contains("devbox"), "{rules}");
            let links = self.run(&["ip", "-brief", "link"])?.output();
            ensure!(!links.contains("devbox"), "{links}");
            Ok(())
        })
    }
}

/// Where a session's server answers, by what it printed.
fn server_of(up: &Process) -> Result<String> {
    let output = up.output();
    let (_, rest) = output.split_once("are answered on ").context("no server")?;
    ensure!(rest.contains("this system asks there"), "{output}{}", up.errors());
    Ok(rest.split(',').next().unwrap_or_default().to_owned())
}

#[test]
fn the_system_asks_a_session_for_its_suffix_and_for_nothing_else() -> Outcome {
    scenario(|scene| {
        let machine = Machine::start(scene)?;
        let networks = Networks::start(scene)?;
        let system = System::start(scene, &machine, &networks)?;
        let echo = Echo::start(scene)?;
        let name = "orders.backend.devbox.test";
        ensure!(!system.getent(name)?.contains("127.77."));

        let mut up = system.up("dev", "orders", &echo)?;
        server_of(&up)?;
        let found = system.getent(name)?;
        ensure!(found.contains("127.77."), "{found}");
        let asked = system.run(&["resolvectl", "query", name])?.expect_success()?;
        asked.expect_text(&["127.77.", "link: devbox-"])?;
        let none = system.run(&["resolvectl", "query", "nobody.devbox.test"])?;
        ensure!(none.everything().contains("not found"), "{}", none.everything());
        let rules = system.rules()?;
        ensure!(rules.contains("): ~devbox.test"), "{rules}");
        // The interface is not asked for names that nobody has a rule for.
        let routes = system
            .run(&["resolvectl", "default-route"])?
            .expect_success()?
            .output();
        let ours = routes.lines().find(|line| line.contains("devbox-"));
        ensure!(ours.is_some_and(|line| line.ends_with("no")), "{routes}");

        up.signal(Signal::TERM)?;
        ensure!(up.wait(wait::SOON)? == Exit::code(0));
        system.is_as_before()?;
        ensure!(!system.getent(name)?.contains("127.77."));
        Ok(())
    })
}

#[test]
fn the_system_finds_the_name_of_an_address() -> Outcome {
    scenario(|scene| {
        let machine = Machine::start(scene)?;
        let networks = Networks::start(scene)?;
        let system = System::start(scene, &machine, &networks)?;
        let echo = Echo::start(scene)?;
        let up = system.up_in(OTHER_POOL, "dev", "orders", &echo)?;
        server_of(&up)?;
        let rules = system.rules()?;
        ensure!(rules.contains("~77.218.10.in-addr.arpa"), "{rules}");
        let name = "orders.backend.devbox.test";
        let found = system.getent(name)?;
        let address = found.split_whitespace().next().unwrap_or_default();
        ensure!(address.starts_with("10.218.77."), "{found}");
        let back = system.run(&["getent", "hosts", address])?.output();
        ensure!(back.contains(name), "{address}: {back}");
        let nobody = if address == "10.218.77.1" {
            "10.218.77.2"
        } else {
            "10.218.77.1"
        };
        let none = system.run(&["resolvectl", "query", nobody])?;
        ensure!(none.everything().contains("not found"), "{}", none.everything());
        drop(up);
        system.is_as_before()
    })
}

#[test]
fn a_session_that_is_killed_leaves_no_rule() -> Outcome {
    scenario(|scene| {
        let machine = Machine::start(scene)?;
        let networks = Networks::start(scene)?;
        let system = System::start(scene, &machine, &networks)?;
        let echo = Echo::start(scene)?;
        let mut up = system.up("dev", "orders", &echo)?;
        ensure!(system.rules()?.contains("~devbox.test"));
        up.signal(Signal::KILL)?;
        up.wait(wait::SOON)?;
        system.is_as_before()
    })
}

#[test]
fn two_sessions_answer_for_the_same_suffix_each_on_a_port_of_its_own() -> Outcome {
    scenario(|scene| {
        let machine = Machine::start(scene)?;
        let networks = Networks::start(scene)?;
        let system = System::start(scene, &machine, &networks)?;
        let echo = Echo::start(scene)?;
        let first = system.up("dev", "orders", &echo)?;
        let second = system.up("test", "payments", &echo)?;
        let servers = [server_of(&first)?, server_of(&second)?];
        ensure!(
            servers[0] == "127.0.0.1:5453" && servers[1] != servers[0],
            "{servers:?}"
        );
        for name in ["orders.backend.devbox.test", "payments.backend.devbox.test"] {
            let found = system.getent(name)?;
            ensure!(found.contains("127.77."), "{name}: {found}");
        }
        drop(first);
        let found = system.getent("payments.backend.devbox.test")?;
        ensure!(found.contains("127.77."), "{found}");
        Ok(())
    })
}
