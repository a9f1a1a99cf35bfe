//! `devbox cleanup` where no helper runs any more: journals and blocks say all that is to be undone.
#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use devbox_tests::networks::Networks;
use devbox_tests::peers::Echo;
use devbox_tests::{
    Caller, CatalogFile, Installed, Invocation, Machine, Outcome, Process, Result, Scene, Service, Signal,
    hosts, proc, scenario, wait,
};

const PORT: u16 = 7940;

/// Prefixes that are a route each.
const ROUTED: [&str; 4] = ["--pool", "10.107.0.0/16", "--pool", "10.108.0.0/16"];

/// One whose addresses are added one by one.
const SINGLE: [&str; 2] = ["--pool", "fd77:107::/64"];

const POLICY: &str =
    "users = [\"nobody\"]\npools = [\"10.107.0.0/16\", \"10.108.0.0/16\"]\ninterfaces = true\n";

/// Where helpers keep their journals, which `cleanup` reads.
const JOURNALS: &str = "/var/lib/devbox";

/// A machine with a network and a `/var/lib` of its own, and one service far away.
struct Stage<'a> {
    scene: &'a Scene,
    machine: &'a Machine,
    network: PathBuf,
    catalog: &'a CatalogFile,
    echo: std::net::SocketAddr,
}

impl<'a> Stage<'a> {
    fn command(&self, words: &[&str]) -> Invocation<'a> {
        self.inside(self.scene.command(words.iter().copied()))
    }

    fn devbox(&self, words: &[&str]) -> Result<Invocation<'a>> {
        Ok(self.inside(self.scene.devbox(words.iter().copied())?))
    }

    fn inside(&self, invocation: Invocation<'a>) -> Invocation<'a> {
        invocation.inside(self.machine).in_network(&self.network)
    }

    fn up(&self, caller: Caller, pools: &[&str]) -> Result<Process> {
        let path = self.catalog.path().display().to_string();
        let up = self
            .devbox(&["up", "--catalog", &path])?
            .args(pools.iter().copied());
        let up = up.by(caller);
        let up = up.start()?.stop_with(Signal::TERM);
        up.wait_for_line("the line `ready`", 2 * wait::SOON, |line| {
            line.trim_end() == "ready"
        })?;
        Ok(up)
    }

    fn cleanup(&self) -> Result<Invocation<'a>> {
        self.devbox(&["cleanup"])
    }

    /// What sessions change, and what helpers keep.
    fn seen(&self) -> Result<String> {
        let mut seen = String::new();
        for question in [
            "ip -br link",
            "ip -br addr",
            "ip route show table all",
            "ip -6 route show table all",
        ] {
            let words: Vec<&str> = question.split(' ').collect();
            let told = self.command(&words).run(wait::SOON)?.expect_success()?.output();
            // The cable to the far side gets addresses of its own by and by.
            let lines = told.lines().filter(|line| !line.contains("cable"));
            seen.extend(lines.map(|line| format!("{line}\n")));
        }
        Ok(seen)
    }

    fn journals(&self) -> Result<Vec<String>> {
        let listed = self.command(&["sh", "-c", &format!("ls -A {JOURNALS} 2>/dev/null || true")]);
        let listed = listed.run(wait::SOON)?.expect_success()?.output();
        Ok(listed.lines().map(str::to_owned).collect())
    }

    fn expect_left(&self, left: &[&str]) -> Result {
        let seen = self.seen()?;
        for left in left {
            ensure!(seen.contains(left), "nothing is left of {left}: {seen}");
        }
        ensure!(hosts::block_openings(&self.machine.hosts()).len() == 1);
        ensure!(self.journals()?.len() == 1, "{:?}", self.journals()?);
        Ok(())
    }
}

/// Ends processes at once, so that none of them can undo anything.
fn kill_together(processes: &[u32]) -> Result {
    use rustix::process::{Pid, Signal, kill_process};
    for signal in [Signal::STOP, Signal::KILL] {
        for pid in processes {
            let pid = i32::try_from(*pid).ok().and_then(Pid::from_raw);
            kill_process(pid.context("no process id")?, signal)?;
        }
    }
    proc::wait_until_gone(processes, wait::SOON)
}

fn on_stage(scene: &Scene, test: impl FnOnce(&Stage<'_>) -> Result) -> Result {
    let machine = Machine::start(scene)?;
    let networks = Networks::start(scene)?;
    let echo = Echo::start(scene)?;
    let service = Service::new("echo", "demo", PORT, echo.address());
    let catalog = CatalogFile::of_environment(scene, "dev", &[service])?;
    let stage = Stage {
        scene,
        machine: &machine,
        network: Path::new("/run/netns").join(networks.near()),
        catalog: &catalog,
        echo: echo.address(),
    };
    let mounted = stage.command(&["mount", "-t", "tmpfs", "none", "/var/lib"]);
    mounted.run(wait::SOON)?.expect_success()?;
    test(&stage)
}

#[test]
fn what_an_installed_helper_left_is_undone_without_one() -> Outcome {
    scenario(|scene| {
        on_stage(scene, |stage| {
            let before = stage.seen()?;
            let installed = Installed::new(scene, stage.machine, POLICY)?
                .in_network(&stage.network)
                .state(JOURNALS);
            let helper = installed.start()?;
            let up = stage.up(Caller::Ordinary, &ROUTED)?;
            kill_together(&[up.pid(), helper.pid()])?;
            let left = ["local 10.107.0.0/16 dev lo", "local 10.108.0.0/16 dev lo"];
            // Uninstalled by hand.
            let gone = ["rm", "-r", "/run/devbox", "/etc/devbox"];
            stage.command(&gone).run(wait::SOON)?.expect_success()?;
            stage.expect_left(&left)?;

            // Who may not undo it says so, and changes nothing.
            let refused = stage.cleanup()?.by(Caller::Ordinary).run(wait::SOON)?;
            refused.expect_code(1)?.expect_text(&["sudo devbox cleanup"])?;
            stage.expect_left(&left)?;

            // As sudo calls it.
            let uid = Caller::Ordinary.uid().to_string();
            let cleanup = stage.cleanup()?.env("SUDO_UID", uid.clone()).env("SUDO_GID", uid);
            let cleaned = cleanup.run(wait::SOON)?.expect_success()?;
            ensure!(
                cleaned
                    .everything()
                    .contains("network: undid 2 changes of sessions"),
                "{}",
                cleaned.everything()
            );
            hosts::expect_original(&stage.machine.hosts())?;
            ensure!(
                stage.seen()? == before,
                "before:\n{before}now:\n{}",
                stage.seen()?
            );
            ensure!(stage.journals()?.is_empty(), "{:?}", stage.journals()?);

            let again = stage.cleanup()?.run(wait::SOON)?.expect_success()?;
            ensure!(
                again.everything().contains("nothing to clean up"),
                "{}",
                again.everything()
            );
            Ok(())
        })
    })
}

#[test]
fn what_a_session_of_root_left_is_undone() -> Outcome {
    scenario(|scene| {
        on_stage(scene, |stage| {
            let before = stage.seen()?;
            let up = stage.up(Caller::Root, &SINGLE)?;
            let mut processes = proc::descendants(up.pid());
            processes.push(up.pid());
            kill_together(&processes)?;
            stage.expect_left(&["local fd77:107:"])?;
            let report = stage.cleanup()?.args(["--output", "json"]).run(wait::SOON)?;
            let report = report.expect_success()?.json()?;
            ensure!(report["network"]["removed"] == 1, "{report}");
            hosts::expect_original(&stage.machine.hosts())?;
            ensure!(
                stage.seen()? == before,
                "before:\n{before}now:\n{}",
                stage.seen()?
            );
            ensure!(stage.journals()?.is_empty(), "{:?}", stage.journals()?);
            Ok(())
        })
    })
}

/// Each has a helper of its own, and what they share goes with the last of them.
#[test]
fn a_prefix_of_two_sessions_stays_until_the_last_of_them_has_ended() -> Outcome {
    scenario(|scene| {
        on_stage(scene, |stage| {
            let before = stage.seen()?;
            let route = "local 10.107.0.0/16 dev lo";
            let mut first = stage.up(Caller::Root, &ROUTED)?;
            let other = Service::new("other", "demo", PORT, stage.echo);
            let other = CatalogFile::of_environment(scene, "staging", &[other])?;
            let path = other.path().display().to_string();
            let second = stage.devbox(&["up", "--catalog", &path])?.args(ROUTED);
            let mut second = second.start()?.stop_with(Signal::TERM);
            second.wait_for_line("the line `ready`", 2 * wait::SOON, |line| {
                line.trim_end() == "ready"
            })?;

            first.signal(Signal::INT)?;
            first.wait(wait::SOON)?;
            ensure!(
                stage.seen()?.contains(route),
                "the second session lost its prefix"
            );
            // A third one that was killed takes nothing from it either.
            let third = stage.up(Caller::Root, &ROUTED)?;
            let mut processes = proc::descendants(third.pid());
            processes.push(third.pid());
            kill_together(&processes)?;
            stage.cleanup()?.run(wait::SOON)?.expect_success()?;
            ensure!(
                stage.seen()?.contains(route),
                "the second session lost its prefix"
            );

            second.signal(Signal::INT)?;
            second.wait(wait::SOON)?;
            wait::until_ok("the network as before", wait::SOON, || {
                let now = stage.seen()?;
                ensure!(now == before, "before:\n{before}now:\n{now}");
                Ok(())
            })?;
            ensure!(hosts::is_original(&stage.machine.hosts()));
            Ok(())
        })
    })
}
