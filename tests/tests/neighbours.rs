//! Several sessions with the same names on one machine: a name leads to one of them.
#![cfg(target_os = "linux")]

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, ensure};
use devbox_tests::peers::Echo;
use devbox_tests::{
    Caller, CatalogFile, Gateway, Outcome, Result, Scene, Service, Signal, Skip, Up, UpOptions, hosts, proc,
    scenario, wait,
};
use rustix::process::{Pid, kill_process};

const PORT: u16 = 7480;

/// Two gateways that serve `echo.demo` in an environment each.
fn two_environments<'a>(scene: &'a Scene, echo: &Echo) -> Result<[Gateway<'a>; 2]> {
    let services = [
        Service::new("echo", "demo", PORT, echo.address()),
        Service::new("web", "demo", PORT, echo.address()),
    ];
    let other = format!("{}-b", scene.environment());
    let other = CatalogFile::of_environment(scene, &other, &services)?;
    Ok([
        Gateway::start(scene, &scene.catalog(&services)?)?,
        Gateway::start(scene, &other)?,
    ])
}

/// Runs `body` while `name` is looked up in the file over and over: it must never have two addresses.
fn with_one_address(file: &Path, name: &str, body: impl FnOnce() -> Result) -> Result {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let found = hosts::lookup_all(file, name);
                ensure!(found.len() <= 1, "{name} leads to {found:?}");
            }
            Ok(())
        });
        let outcome = body();
        done.store(true, Ordering::Relaxed);
        let read = reader
            .join()
            .map_err(|_| anyhow::anyhow!("the reader panicked"))?;
        outcome.and(read)
    })
}

fn wait_for_address(file: &Path, name: &str, address: IpAddr) -> Result {
    wait::until(&format!("{name} at {address}"), 2 * wait::SOON, || {
        (hosts::lookup_all(file, name) == [address]).then_some(())
    })
}

fn wait_for_word(up: &Up<'_>, words: &str) -> Result {
    wait::until_ok(words, wait::SOON, || {
        let said = up.process().errors();
        ensure!(said.contains(words), "{said}");
        Ok(())
    })
}

/// The address of the service in the environment of this session, which only its qualified name always tells.
fn own_address(up: &Up<'_>, service: &str) -> Result<IpAddr> {
    up.address_of(&format!("{service}.demo.{}", up.environment()))
}

#[test]
fn a_name_stays_with_the_session_that_came_first_and_passes_on_when_that_ends() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let [gateway, other_gateway] = two_environments(scene, &echo)?;
        let file = scene.hosts_file(Caller::Ordinary)?;
        let options = UpOptions::new(Caller::Ordinary).hosts(&file);
        with_one_address(&file, "echo.demo", || {
            let first = Up::start_with(&gateway, &options)?;
            let firsts = own_address(&first, "echo")?;
            let mut second = Up::start_with(&other_gateway, &options)?;
            let seconds = own_address(&second, "echo")?;
            ensure!(firsts != seconds);
            wait_for_address(&file, "echo.demo", firsts)?;
            for service in ["echo", "web"] {
                Echo::ask(SocketAddr::new(own_address(&second, service)?, PORT))?;
            }
            let said = second.process().everything();
            let qualified = format!("echo.demo.{}", second.environment());
            for words in [
                " holds 6 names that this session wants: web.demo, echo.demo, ",
                "2 other names lead to this session",
                &qualified,
            ] {
                ensure!(said.contains(words), "{words:?} is not in {said}");
            }
            let held = ["holds 6 names that this session wants", &qualified];
            second
                .status(&[])?
                .run(wait::SOON)?
                .expect_success()?
                .expect_text(&held)?;
            let dry = other_gateway.devbox("up", Caller::Ordinary)?;
            let dry = dry.args(["--dry-run", "--hosts-file"]).args([&file]);
            dry.run(wait::SOON)?.expect_success()?.expect_text(&held)?;

            // Another program removes both blocks: each gets back what it had.
            std::fs::write(&file, hosts::ORIGINAL)?;
            wait_for_address(&file, "echo.demo", firsts)?;
            wait::until_ok("the second's names", wait::SOON, || own_address(&second, "echo"))?;
            ensure!(hosts::lookup_all(&file, "echo.demo") == [firsts]);
            ensure!(!second.process().errors().contains("from now on"), "it got names");

            first.down()?.run(wait::SOON)?.expect_success()?;
            wait_for_address(&file, "echo.demo", seconds)?;
            wait_for_word(&second, "6 names lead here from now on: web.demo, echo.demo, ")?;
            // One that comes later is the second again, whichever environment it is for.
            let later = Up::start_with(&gateway, &options)?;
            ensure!(own_address(&later, "echo")? == firsts);
            wait_for_address(&file, "echo.demo", seconds)?;
            drop(later);
            second.process().signal(Signal::TERM)?;
            second.process_mut().wait(wait::SOON)?;
            Ok(())
        })?;
        hosts::expect_original(&file)
    })
}

#[test]
fn a_command_beside_a_session_has_its_names_even_where_another_session_holds_them() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let [gateway, other_gateway] = two_environments(scene, &echo)?;
        let trial = scene.command(["unshare", "--user", "--map-root-user", "--mount", "true"]);
        if trial
            .by(Caller::Ordinary)
            .run(wait::SOON)?
            .expect_success()
            .is_err()
        {
            return Err(Skip::new("this system forbids user namespaces").into());
        }
        let file = scene.hosts_file(Caller::Ordinary)?;
        let options = UpOptions::new(Caller::Ordinary).hosts(&file);
        let first = Up::start_with(&gateway, &options)?;
        let second = Up::start_with(&other_gateway, &options)?;
        for (gateway, up) in [(&gateway, &first), (&other_gateway, &second)] {
            let exec = gateway.exec(Caller::Ordinary, ["getent", "hosts", "echo.demo"])?;
            let found = exec.run(2 * wait::SOON)?.expect_success()?;
            let address = own_address(up, "echo")?;
            ensure!(
                found.output().starts_with(&format!("{address} ")),
                "{}",
                found.output()
            );
        }
        Ok(())
    })
}

#[test]
fn names_are_taken_with_the_flag_and_come_back_when_the_taker_is_killed() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let [gateway, other_gateway] = two_environments(scene, &echo)?;
        let file = scene.hosts_file(Caller::Ordinary)?;
        let options = UpOptions::new(Caller::Ordinary)
            .hosts(&file)
            .arguments(["--take-names"]);
        with_one_address(&file, "echo.demo", || {
            let mut first = Up::start_with(&gateway, &options)?;
            let firsts = own_address(&first, "echo")?;
            let second = Up::start_with(&other_gateway, &options)?;
            let seconds = own_address(&second, "echo")?;
            wait_for_address(&file, "echo.demo", seconds)?;
            wait_for_word(&first, " took 6 names: web.demo, echo.demo, ")?;
            let held = ["holds 6 names that this session wants"];
            first
                .status(&[])?
                .run(wait::SOON)?
                .expect_success()?
                .expect_text(&held)?;
            // It was told to take names as well, and does not take them back.
            ensure!(hosts::lookup_all(&file, "echo.demo") == [seconds]);
            kill_with_helper(second)?;
            wait_for_address(&file, "echo.demo", firsts)?;
            wait_for_word(&first, "6 names lead here from now on")?;
            first.process().signal(Signal::TERM)?;
            first.process_mut().wait(wait::SOON)?;
            Ok(())
        })?;
        hosts::expect_original(&file)
    })
}

#[test]
fn two_users_of_one_environment_are_told_whose_the_names_are() -> Outcome {
    scenario(|scene| {
        scene.need_root()?;
        let echo = Echo::start(scene)?;
        let [gateway, _] = two_environments(scene, &echo)?;
        let file = scene.hosts_file(Caller::Root)?;
        let folder = file.parent().context("no folder")?;
        for path in [folder, file.as_path()] {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))?;
        }
        let first = Up::start_with(&gateway, &UpOptions::new(Caller::Ordinary).hosts(&file))?;
        let firsts = first.address_of("echo.demo")?;
        let mut second = Up::start_with(&gateway, &UpOptions::new(Caller::Other).hosts(&file))?;
        wait_for_word(&second, "no name leads to this session")?;
        let table = second.process().output();
        ensure!(table.contains("echo.demo (no name)"), "{table}");
        first.down()?.run(wait::SOON)?.expect_success()?;
        wait_for_word(&second, "8 names lead here from now on")?;
        ensure!(
            second.address_of("echo.demo")? != firsts,
            "the address was taken by the first"
        );
        second.process().signal(Signal::TERM)?;
        second.process_mut().wait(wait::SOON)?;
        hosts::expect_original(&file)
    })
}

/// Kills a session and its helper before either can undo anything. The block is left.
fn kill_with_helper(mut up: Up<'_>) -> Result {
    let helper = proc::helper_of(up.process().pid())?;
    // Stopped first, so that the session cannot answer its helper's end.
    up.process().signal(Signal::STOP)?;
    let id = i32::try_from(helper)
        .ok()
        .and_then(Pid::from_raw)
        .context("no pid")?;
    kill_process(id, Signal::KILL)?;
    up.process().signal(Signal::KILL)?;
    up.process_mut().wait(wait::SOON)?;
    proc::wait_until_gone(&[helper], wait::SOON)
}
