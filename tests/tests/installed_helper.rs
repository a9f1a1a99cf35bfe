//! The helper as a service: sessions without sudo, of several users, undone when they or it are killed.
#![cfg(target_os = "linux")]

use std::io::{Read, Write};
use std::path::Path;

use anyhow::ensure;
use devbox_tests::peers::Echo;
use devbox_tests::{
    Caller, Gateway, Machine, Outcome, Process, Result, Scene, Service, Signal, Up, UpOptions, hosts,
    scenario, wait,
};

/// As `devbox helper install` writes it, for the two users of the tests.
const POLICY: &str = "users = [\"nobody\", \"daemon\"]\npools = [\"127.0.0.0/8\"]\n";

/// A port that only root may bind.
const LOW_PORT: u16 = 82;

/// Where `devbox` looks for it, in the machine's own `/run`.
const SOCKET: &str = "/run/devbox/helper.sock";

struct Installed<'a> {
    scene: &'a Scene,
    machine: &'a Machine,
}

impl<'a> Installed<'a> {
    fn new(scene: &'a Scene, machine: &'a Machine) -> Result<Self> {
        let folder = machine.etc().join("devbox");
        std::fs::create_dir(&folder)?;
        std::fs::write(folder.join("policy.toml"), POLICY)?;
        Ok(Self { scene, machine })
    }

    /// Starts it as the system would. What its predecessor left is undone before anybody is served.
    fn start(&self) -> Result<Process> {
        let script = "install -d -m 755 /run/devbox && exec \"$0\" __helper serve --socket \"$1\" --state /run/devbox-state";
        let program = self.scene.devbox_program()?;
        let words = [
            "sh".into(),
            "-c".into(),
            script.into(),
            program.into_os_string(),
            SOCKET.into(),
        ];
        let helper = self.scene.command(words).inside(self.machine).start()?;
        let socket = format!("/proc/{}/root{SOCKET}", helper.pid());
        wait::until("the helper's socket", wait::SOON, || {
            Path::new(&socket).exists().then_some(())
        })?;
        Ok(helper.stop_with(Signal::TERM))
    }

    fn up(&self, gateway: &Gateway<'a>, caller: Caller) -> Result<Up<'a>> {
        Up::start_with(gateway, &UpOptions::new(caller).inside(self.machine))
    }
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
        let echo = Echo::start(scene)?;
        let catalog = scene.catalog(&[Service::new("echo", "demo", LOW_PORT, echo.address())])?;
        let gateway = Gateway::start(scene, &catalog)?;
        let machine = Machine::start(scene)?;
        let installed = Installed::new(scene, &machine)?;
        let helper = installed.start()?;

        let mut up = installed.up(&gateway, Caller::Ordinary)?;
        echoes(&up, "echo.demo")?;
        up.process().signal_group(Signal::KILL)?;
        up.process_mut().wait(wait::SOON)?;
        restored(&machine)?;

        // A helper that is killed leaves its block. The next one undoes it, and the session asks for the same again.
        let mut up = installed.up(&gateway, Caller::Ordinary)?;
        let before = hosts::block_openings(&machine.hosts());
        helper.signal_group(Signal::KILL)?;
        drop(helper);
        let helper = installed.start()?;
        wait::until(
            "the names of the session, by the next helper",
            2 * wait::SOON,
            || {
                let now = hosts::block_openings(&machine.hosts());
                (now.len() == 1 && now != before).then_some(())
            },
        )?;
        echoes(&up, "echo.demo")?;
        up.down()?.run(wait::SOON)?.expect_success()?;
        up.process_mut().wait(wait::SOON)?;
        restored(&machine)?;
        drop(helper);
        Ok(())
    })
}

#[test]
fn a_session_that_is_killed_and_started_again_takes_its_claim_over() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let catalog = scene.catalog(&[Service::new("echo", "demo", LOW_PORT, echo.address())])?;
        let gateway = Gateway::start(scene, &catalog)?;
        let machine = Machine::start(scene)?;
        let installed = Installed::new(scene, &machine)?;
        let _helper = installed.start()?;

        let mut up = installed.up(&gateway, Caller::Ordinary)?;
        let address = up.address_of("echo.demo")?;
        let claim = claim_of(&machine)?;
        up.process().signal_group(Signal::KILL)?;
        up.process_mut().wait(wait::SOON)?;
        ensure!(
            hosts::lookup(&machine.hosts(), "echo.demo") == Some(address),
            "the name is gone before the grace is over"
        );
        let mut up = installed.up(&gateway, Caller::Ordinary)?;
        ensure!(
            claim_of(&machine)? == claim,
            "another claim than the one that was left"
        );
        ensure!(up.address_of("echo.demo")? == address);
        echoes(&up, "echo.demo")?;
        // Who ends by itself leaves nothing, and has no grace.
        up.down()?.run(wait::SOON)?.expect_success()?;
        up.process_mut().wait(wait::SOON)?;
        ensure!(hosts::is_original(&machine.hosts()));
        Ok(())
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
        let echo = Echo::start(scene)?;
        let catalog = scene.catalog(&[Service::new("echo", "demo", LOW_PORT, echo.address())])?;
        let gateway = Gateway::start(scene, &catalog)?;
        let machine = Machine::start(scene)?;
        let installed = Installed::new(scene, &machine)?;
        let _helper = installed.start()?;

        let mut first = installed.up(&gateway, Caller::Ordinary)?;
        let address = first.address_of("echo.demo")?;
        let mut second = installed.up(&gateway, Caller::Other)?;
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
            hosts::lookup(&machine.hosts(), "echo.demo").filter(|now| *now != address)
        })?;
        echoes(&second, "echo.demo")?;
        second.process().signal_group(Signal::KILL)?;
        second.process_mut().wait(wait::SOON)?;
        restored(&machine)
    })
}
