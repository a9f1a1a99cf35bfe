//! The helper as a service: sessions without sudo, of several users, undone when they or it are killed.
#![cfg(target_os = "linux")]

use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, ensure};
use devbox_tests::networks::Networks;
use devbox_tests::peers::Echo;
use devbox_tests::{
    Caller, CatalogFile, Gateway, Installed, Machine, Outcome, Process, Result, Scene, Signal, Up, UpOptions,
    hosts, need_program, scenario, wait,
};

/// As `devbox helper install` writes it, for the two users of the tests.
const POLICY: &str = "users = [\"nobody\", \"daemon\"]\npools = [\"127.0.0.0/8\"]\n";

/// A port that only root may bind.
const LOW_PORT: u16 = 82;

/// A machine with an installed helper, and one service far away.
struct Stage<'a> {
    machine: &'a Machine,
    installed: &'a Installed<'a>,
    gateway: &'a Gateway<'a>,
}

impl<'a> Stage<'a> {
    fn up(&self, caller: Caller) -> Result<Up<'a>> {
        Up::start_with(self.gateway, &UpOptions::new(caller).inside(self.machine))
    }
}

/// Runs a test on a stage with a helper that has been started.
fn on_stage(scene: &Scene, test: impl FnOnce(&Stage<'_>, Process) -> Result) -> Result {
    let echo = Echo::start(scene)?;
    let gateway = Gateway::of_echo(scene, &echo, LOW_PORT)?;
    let machine = Machine::start(scene)?;
    let installed = Installed::new(scene, &machine, POLICY)?;
    let stage = Stage {
        machine: &machine,
        installed: &installed,
        gateway: &gateway,
    };
    let helper = installed.start()?;
    test(&stage, helper)
}

fn echoes(up: &Up<'_>, name: &str) -> Result {
    let mut stream = up.connect(name, LOW_PORT)?;
    stream.write_all(b"low")?;
    let mut back = [0; 3];
    stream.read_exact(&mut back)?;
    ensure!(&back == b"low");
    Ok(())
}

fn restored(machine: &Machine) -> Result {
    wait::until("the hosts file as before", wait::SOON, || {
        hosts::is_original(&machine.hosts()).then_some(())
    })
}

#[test]
fn a_session_needs_no_sudo_and_a_kill_of_either_side_leaves_nothing() -> Outcome {
    scenario(|scene| {
        on_stage(scene, |stage, helper| {
            let mut up = stage.up(Caller::Ordinary)?;
            echoes(&up, "echo.demo")?;
            up.process().signal_group(Signal::KILL)?;
            up.process_mut().wait(wait::SOON)?;
            restored(stage.machine)?;

            // A helper that is killed leaves its block. The next one undoes it, and the session asks for the same again.
            let mut up = stage.up(Caller::Ordinary)?;
            let before = hosts::block_openings(&stage.machine.hosts());
            helper.signal_group(Signal::KILL)?;
            drop(helper);
            let helper = stage.installed.start()?;
            wait::until(
                "the names of the session, by the next helper",
                2 * wait::SOON,
                || {
                    let now = hosts::block_openings(&stage.machine.hosts());
                    (now.len() == 1 && now != before).then_some(())
                },
            )?;
            echoes(&up, "echo.demo")?;
            up.down()?.run(wait::SOON)?.expect_success()?;
            up.process_mut().wait(wait::SOON)?;
            restored(stage.machine)?;
            drop(helper);
            Ok(())
        })
    })
}

#[test]
fn a_session_that_is_killed_and_started_again_takes_its_claim_over() -> Outcome {
    scenario(|scene| {
        on_stage(scene, |stage, _helper| {
            let mut up = stage.up(Caller::Ordinary)?;
            let address = up.address_of("echo.demo")?;
            let claim = claim_of(stage.machine)?;
            up.process().signal_group(Signal::KILL)?;
            up.process_mut().wait(wait::SOON)?;
            ensure!(
                hosts::lookup(&stage.machine.hosts(), "echo.demo") == Some(address),
                "the name is gone before the grace is over"
            );
            let mut up = stage.up(Caller::Ordinary)?;
            ensure!(
                claim_of(stage.machine)? == claim,
                "another claim than the one that was left"
            );
            ensure!(up.address_of("echo.demo")? == address);
            echoes(&up, "echo.demo")?;
            // Who ends by itself leaves nothing, and has no grace.
            up.down()?.run(wait::SOON)?.expect_success()?;
            up.process_mut().wait(wait::SOON)?;
            ensure!(hosts::is_original(&stage.machine.hosts()));
            Ok(())
        })
    })
}

/// Whose the one block in the hosts file is: the helper's process and the number of the claim.
fn claim_of(machine: &Machine) -> Result<String> {
    let openings = hosts::block_openings(&machine.hosts());
    ensure!(openings.len() == 1, "{openings:?}");
    let owner = openings.first().and_then(|line| line.split("owner=").nth(1));
    Ok(owner.unwrap_or_default().to_owned())
}

#[test]
fn two_users_have_one_session_each_and_their_own_addresses() -> Outcome {
    scenario(|scene| {
        on_stage(scene, |stage, _helper| {
            let mut first = stage.up(Caller::Ordinary)?;
            let address = first.address_of("echo.demo")?;
            let mut second = stage.up(Caller::Other)?;
            let status = second
                .status(&["--output", "json"])?
                .run(wait::SOON)?
                .expect_success()?;
            ensure!(
                !status.output().contains(&format!("\"{address}\"")),
                "{address} is the first user's: {}",
                status.output()
            );
            ensure!(
                first.address_of("echo.demo")? == address,
                "the first user lost the name"
            );
            echoes(&first, "echo.demo")?;

            // The name goes over to the session that is left.
            first.down()?.run(wait::SOON)?.expect_success()?;
            first.process_mut().wait(wait::SOON)?;
            wait::until("the name, with the second user's address", 2 * wait::SOON, || {
                hosts::lookup(&stage.machine.hosts(), "echo.demo").filter(|now| *now != address)
            })?;
            echoes(&second, "echo.demo")?;
            second.process().signal_group(Signal::KILL)?;
            second.process_mut().wait(wait::SOON)?;
            restored(stage.machine)
        })
    })
}

#[test]
fn a_session_outlives_many_deaths_of_the_helper_and_tells_why_none_serves() -> Outcome {
    scenario(|scene| {
        on_stage(scene, |stage, mut helper| {
            let mut up = stage.up(Caller::Ordinary)?;
            // More often within a minute than a session starts helpers of its own.
            for _ in 0..6 {
                let before = hosts::block_openings(&stage.machine.hosts());
                helper.signal_group(Signal::KILL)?;
                helper = stage.installed.start()?;
                wait::until("the names, by the next helper", 2 * wait::SOON, || {
                    let now = hosts::block_openings(&stage.machine.hosts());
                    (now.len() == 1 && now != before).then_some(())
                })?;
            }
            echoes(&up, "echo.demo")?;

            helper.signal_group(Signal::KILL)?;
            let awaited = |up: &Up<'_>| -> Result<Option<String>> {
                let status = up.status(&["--output", "json"])?.run(wait::SOON)?.json()?;
                let status = status.get(0).unwrap_or(&status);
                Ok(status["helper_awaited"].as_str().map(str::to_owned))
            };
            wait::until_ok("the reason, in the status", 2 * wait::SOON, || {
                let reason = awaited(&up)?;
                ensure!(
                    reason.is_some_and(|reason| reason.contains("/run/devbox/helper.sock")),
                    "{}",
                    up.process().everything()
                );
                Ok(())
            })?;
            // What is open carries on meanwhile.
            echoes(&up, "echo.demo")?;
            let _helper = stage.installed.start()?;
            wait::until_ok("a session that is served again", 2 * wait::SOON, || {
                ensure!(awaited(&up)?.is_none());
                Ok(())
            })?;
            up.down()?.run(wait::SOON)?.expect_success()?;
            up.process_mut().wait(wait::SOON)?;
            restored(stage.machine)
        })
    })
}

/// The policy of an installation, which allows no resolver rules: names are answered, and the session says what it lacks.
#[test]
fn a_session_with_its_own_dns_server_says_which_permission_it_lacks() -> Outcome {
    scenario(|scene| {
        need_program("dig", "bind9-dnsutils")?;
        let networks = Networks::start(scene)?;
        let network = Path::new("/run/netns").join(networks.near());
        let machine = Machine::start(scene)?;
        let inside = |words: &[&str]| {
            let command = scene.command(words.iter().copied());
            command.inside(&machine).in_network(&network)
        };
        // As where systemd-resolved runs, which nobody comes to ask here.
        inside(&["mkdir", "-p", "/run/systemd/resolve"])
            .run(wait::SOON)?
            .expect_success()?;
        let uid = Caller::Ordinary.uid().to_string();
        let root = scene.folder().join("installation");
        let install = scene.devbox(["helper", "install", "--user", &uid, "--root"])?;
        let program = scene.devbox_program()?;
        let install = install.args([&root]).args(["--program"]).args([&program]);
        install.run(wait::SOON)?.expect_success()?;
        let policy = std::fs::read_to_string(root.join("etc/devbox/policy.toml"))?;
        ensure!(policy.contains("resolver = false"), "{policy}");
        let installed = Installed::new(scene, &machine, &policy)?.in_network(&network);
        let _helper = installed.start()?;

        let echo = Echo::start(scene)?;
        let service = devbox_tests::Service::new("orders", "backend", LOW_PORT, echo.address());
        let catalog = CatalogFile::of_environment(scene, "dev", &[service])?;
        let text = format!(
            "naming: dns\nproviders:\n  - {{name: local, kind: direct, catalog: {}, environment: dev}}\n",
            catalog.path().display()
        );
        let config = scene.write("dns.yaml", text)?;
        let up = scene.devbox(["up", "--config"])?.args([&config]);
        let up = up
            .by(Caller::Ordinary)
            .inside(&machine)
            .in_network(&network)
            .start()?;
        let mut up = up.stop_with(Signal::TERM);
        up.wait_for_line("the line `ready`", 2 * wait::SOON, |line| {
            line.trim_end() == "ready"
        })?;
        let said = up.everything();
        let note = said
            .lines()
            .find(|line| line.contains("does not ask the session's DNS server"));
        ensure!(
            note.is_some_and(|note| note.contains("devbox.test")
                && note.contains("the policy would need `resolver = true`")),
            "{said}"
        );
        // The name is answered to whoever asks, and nothing of the attempt is left.
        let (_, server) = said.split_once("are answered on ").context("no server")?;
        let server: std::net::SocketAddr = server
            .split([',', '\n', ' '])
            .next()
            .unwrap_or_default()
            .trim_end_matches(':')
            .parse()?;
        let asked = inside(&[
            "dig",
            "+short",
            &format!("@{}", server.ip()),
            "-p",
            &server.port().to_string(),
            "orders.backend.devbox.test",
        ]);
        let answer = asked.run(wait::SOON)?.expect_success()?.output();
        ensure!(answer.starts_with("127."), "{answer}");
        let links = inside(&["ip", "-brief", "link"]).run(wait::SOON)?.output();
        ensure!(!links.contains("devbox-"), "{links}");
        up.signal(Signal::TERM)?;
        up.wait(wait::SOON)?;
        Ok(())
    })
}
