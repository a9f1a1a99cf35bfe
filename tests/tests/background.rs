//! A session in the background: it outlives its terminal, and is seen and ended from another one.
#![cfg(target_os = "linux")]

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use devbox_tests::peers::Echo;
use devbox_tests::{
    Caller, Exit, Finished, Gateway, Invocation, Machine, Outcome, Result, Scene, Signal, files_below, hosts,
    proc, scenario, wait,
};
use rustix::process::{Pid, kill_process};

const PORT: u16 = 7220;

/// `devbox up --detach`, with a hosts file of its own.
fn up_detached<'a>(gateway: &Gateway<'a>, caller: Caller, file: &Path) -> Result<Invocation<'a>> {
    let hosts_file = ["--hosts-file".into(), file.as_os_str().to_owned()];
    Ok(gateway.devbox("up", caller)?.args(["--detach"]).args(hosts_file))
}

/// Another command for the environment of the scene, as `caller`.
fn devbox<'a>(scene: &'a Scene, verb: &str, caller: Caller, more: &[&str]) -> Result<Invocation<'a>> {
    let words = [verb, "--env", scene.environment()];
    Ok(scene.devbox(words)?.args(more.iter().copied()).by(caller))
}

/// The process of the session that `status` shows.
fn session_pid(scene: &Scene, caller: Caller) -> Result<u32> {
    let status = devbox(scene, "status", caller, &["--json"])?.run(wait::SOON)?;
    let pid = status.expect_success()?.json()?["pid"].as_u64();
    Ok(u32::try_from(pid.context("no pid")?)?)
}

fn down(scene: &Scene, caller: Caller) -> Result<Finished> {
    devbox(scene, "down", caller, &[])?
        .run(wait::SOON)?
        .expect_success()
}

/// The log, whose lines all begin with a time.
fn log(scene: &Scene, caller: Caller, more: &[&str]) -> Result<String> {
    let log = devbox(scene, "logs", caller, more)?.run(wait::SOON)?;
    let log = log.expect_success()?.output();
    for line in log.lines() {
        ensure!(begins_with_a_time(line), "{line:?} of:\n{log}");
    }
    Ok(log)
}

/// `2026-01-31T23:59:59.123Z `
fn begins_with_a_time(line: &str) -> bool {
    let digits = |byte: u8| if byte.is_ascii_digit() { b'0' } else { byte };
    let shape: Vec<u8> = line.bytes().take(25).map(digits).collect();
    shape == b"0000-00-00T00:00:00.000Z "
}

#[test]
fn it_returns_when_the_session_is_ready_and_the_session_goes_on() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        for caller in Caller::possible() {
            let file = scene.hosts_file(caller)?;
            let started = up_detached(&gateway, caller, &file)?.run(2 * wait::SOON)?;
            let started = started.expect_success()?;
            let pid = session_pid(scene, caller)?;
            let told = [
                "echo.demo",
                "ready\n",
                &format!("running in the background as process {pid}\n"),
                &format!("devbox logs --env {}\n", scene.environment()),
                &format!("devbox down --env {}\n", scene.environment()),
            ];
            for part in told {
                ensure!(started.output().contains(part), "{part:?}: {}", started.output());
            }
            Echo::ask((hosts::address_of(&file, "echo.demo")?, PORT).into())?;
            let kept = log(scene, caller, &[])?;
            ensure!(kept.contains("echo.demo") && kept.contains("Z ready\n"), "{kept}");
            down(scene, caller)?;
            hosts::expect_original(&file)?;
            proc::wait_until_gone(&[pid], wait::SOON)?;
            // It is there after the session, too.
            let last = log(scene, caller, &["--lines", "1"])?;
            ensure!(last.ends_with("the session has ended: devbox down\n"), "{last}");
            let logs: Vec<_> = files_below(&scene.home(caller)?)
                .into_iter()
                .filter(|file| file.extension().is_some_and(|extension| extension == "log"))
                .collect();
            ensure!(logs.len() == 1, "{logs:?}");
            for log in logs {
                let meta = std::fs::metadata(&log)?;
                ensure!(meta.mode() & 0o777 == 0o600, "{:o}", meta.mode());
            }
        }
        Ok(())
    })
}

#[test]
fn the_end_of_the_terminal_is_not_its_end() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let caller = Caller::own();
        let file = scene.hosts_file(caller)?;
        let bash = scene.command(["bash", "--norc", "--noprofile", "-i"]);
        let mut terminal = bash.env("PS1", "prompt> ").start_on_terminal()?;
        let at = terminal.wait_for("prompt> ", 0)?;
        let words = up_detached(&gateway, caller, &file)?;
        let words: Vec<_> = words
            .words()
            .iter()
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        terminal.line(&words.join(" "))?;
        let at = terminal.wait_for("running in the background", at)?;
        terminal.wait_for("prompt> ", at)?;
        let pid = session_pid(scene, caller)?;
        // As a terminal's window that is closed does it.
        terminal.process().signal(Signal::HUP)?;
        terminal.wait(wait::SOON)?;
        drop(terminal);
        ensure!(session_pid(scene, caller)? == pid);
        Echo::ask((hosts::address_of(&file, "echo.demo")?, PORT).into())?;
        down(scene, caller)?;
        hosts::expect_original(&file)
    })
}

#[test]
fn killed_it_leaves_the_hosts_file_as_before() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        for caller in Caller::possible() {
            let file = scene.hosts_file(caller)?;
            up_detached(&gateway, caller, &file)?
                .run(2 * wait::SOON)?
                .expect_success()?;
            ensure!(!hosts::is_original(&file), "nothing to restore");
            let pid = session_pid(scene, caller)?;
            let below = proc::descendants(pid);
            let id = Pid::from_raw(i32::try_from(pid)?).context("no process id")?;
            kill_process(id, rustix::process::Signal::KILL)?;
            proc::wait_until_gone(&[pid], wait::SOON)?;
            wait::until("the hosts file as before", wait::SOON, || {
                hosts::is_original(&file).then_some(())
            })?;
            proc::wait_until_gone(&below, wait::SOON)?;
        }
        Ok(())
    })
}

#[test]
fn a_start_that_fails_says_what_it_says_in_the_foreground() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let mut gateway = Gateway::of_echo(scene, &echo, PORT)?;
        gateway.kill()?;
        let caller = Caller::Ordinary;
        let file = scene.hosts_file(caller)?;
        let detached = up_detached(&gateway, caller, &file)?.run(3 * wait::SOON)?;
        let detached = detached.expect_code(2)?;
        detached.expect_text(&["is it running, and is this its address"])?;
        hosts::expect_original(&file)?;
        // What it said is no log of a session.
        devbox(scene, "logs", caller, &[])?
            .run(wait::SOON)?
            .expect_code(1)?
            .expect_text(&["there is no log"])?;
        Ok(())
    })
}

#[test]
fn a_start_that_is_interrupted_leaves_no_process() -> Outcome {
    scenario(|scene| {
        // It accepts, and never answers.
        let silent = std::net::TcpListener::bind((scene.address(), 0))?;
        let url = format!("ws://{}", silent.local_addr()?);
        let token = scene.write_secret("token", devbox_tests::TOKEN, Caller::Ordinary)?;
        let words: [OsString; 6] = [
            "up".into(),
            "--detach".into(),
            "--no-hosts".into(),
            format!("--gateway={url}").into(),
            "--token-file".into(),
            token.into(),
        ];
        let mut up = scene
            .devbox(words)?
            .args(["--insecure"])
            .by(Caller::Ordinary)
            .start()?;
        let background = wait::until("the process in the background", wait::SOON, || {
            let below = proc::descendants(up.pid());
            below
                .into_iter()
                .find(|pid| proc::command_line(*pid).contains("__background"))
        })?;
        silent.accept()?;
        up.signal(Signal::INT)?;
        ensure!(up.wait(wait::SOON)? == Exit::Signal(2));
        ensure!(!up.errors().contains("has ended"), "{}", up.errors());
        proc::wait_until_gone(&[background], wait::SOON)
    })
}

#[test]
fn what_is_said_later_is_followed() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let caller = Caller::Ordinary;
        let file = scene.hosts_file(caller)?;
        up_detached(&gateway, caller, &file)?
            .run(2 * wait::SOON)?
            .expect_success()?;
        let following = devbox(scene, "logs", caller, &["--follow"])?.start()?;
        let mut following = following.stop_with(Signal::INT);
        following.wait_for_line("what was said before", wait::SOON, |line| {
            line.ends_with("Z ready")
        })?;
        gateway.catalog().edit_in_place(&[])?;
        following.wait_for_line("a service that left", wait::SOON, |line| {
            begins_with_a_time(line) && line.ends_with(" gone: echo.demo")
        })?;
        down(scene, caller)?;
        following.wait_for_line("the end", wait::SOON, |line| {
            line.contains("the session has ended")
        })?;
        following.signal(Signal::INT)?;
        ensure!(following.wait(wait::SOON)? == Exit::Code(0));
        Ok(())
    })
}

#[test]
fn under_sudo_it_and_its_log_are_the_callers() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let machine = Machine::with_sudo(scene)?;
        let caller = Caller::Ordinary;
        let mut words: Vec<OsString> = ["sudo", "--non-interactive", "--"].map(Into::into).to_vec();
        words.push(scene.devbox_program()?.into());
        words.extend(["up".into(), "--detach".into()]);
        words.extend(gateway.flags(caller)?);
        let up = scene.command(words).by(caller).inside(&machine);
        up.run(2 * wait::SOON)?.expect_success()?;
        ensure!(!hosts::is_original(&machine.hosts()), "no names");
        let status = devbox(scene, "status", caller, &["--json"])?.inside(&machine);
        let status = status.run(wait::SOON)?.expect_success()?.json()?;
        let pid = |key: &str| -> Result<u32> { Ok(u32::try_from(status[key].as_u64().context("no pid")?)?) };
        let (session, helper) = (pid("pid")?, pid("helper_pid")?);
        ensure!(
            proc::users(session) == [caller.uid(); 4],
            "{:?}",
            proc::users(session)
        );
        ensure!(proc::users(helper) == [0; 4], "{:?}", proc::users(helper));
        let of_others = |file: &PathBuf| std::fs::metadata(file).is_ok_and(|meta| meta.uid() != caller.uid());
        let foreign: Vec<_> = files_below(&scene.home(caller)?)
            .into_iter()
            .filter(of_others)
            .collect();
        ensure!(foreign.is_empty(), "{foreign:?}");
        let logs = devbox(scene, "logs", caller, &[])?.inside(&machine);
        logs.run(wait::SOON)?.expect_success()?.expect_text(&["ready"])?;
        let down = devbox(scene, "down", caller, &[])?.inside(&machine);
        down.run(wait::SOON)?.expect_success()?;
        proc::wait_until_gone(&[session, helper], wait::SOON)?;
        hosts::expect_original(&machine.hosts())
    })
}

#[test]
fn lines_of_a_gateways_log_begin_with_the_time() -> Outcome {
    scenario(|scene| {
        let catalog = scene.catalog(&[])?;
        let token = scene.write_secret("token", devbox_tests::TOKEN, Caller::Ordinary)?;
        let gateway = scene
            .devbox(["gateway", "serve", "--verbose", "--listen"])?
            .args([format!("{}:0", scene.address())])
            .args(["--catalog".into(), catalog.path().as_os_str().to_owned()])
            .args(["--token-file".into(), token.into_os_string()])
            .by(Caller::Ordinary);
        let gateway = gateway.start()?.stop_with(Signal::TERM);
        gateway.wait_for_line("its log", wait::SOON, |line| {
            begins_with_a_time(line) && line.contains("listening")
        })?;
        let logged = gateway.errors();
        ensure!(logged.lines().all(begins_with_a_time), "{logged}");
        Ok(())
    })
}

#[test]
fn lines_of_every_log_begin_with_the_time_and_messages_on_a_terminal_do_not() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let catalog = scene.catalog(&[])?;
        let gateway = Gateway::start(scene, &catalog)?;
        let caller = Caller::Ordinary;
        let file = scene.hosts_file(caller)?;
        let verbose = gateway.devbox("up", caller)?.args(["--verbose", "--hosts-file"]);
        let mut up = verbose.args([file]).start()?.stop_with(Signal::TERM);
        up.wait_for_line("the line `ready`", 2 * wait::SOON, |line| line == "ready")?;
        catalog.edit_in_place(&[devbox_tests::Service::new("echo", "demo", PORT, echo.address())])?;
        let told = up.wait_for_line("a service that came", wait::SOON, |line| {
            line.contains("new: echo.demo")
        });
        told?;
        up.signal(Signal::TERM)?;
        up.wait(wait::SOON)?;
        let (messages, logged): (Vec<_>, Vec<_>) = up
            .errors()
            .lines()
            .map(str::to_owned)
            .partition(|line| !begins_with_a_time(line));
        ensure!(
            messages.iter().any(|line| line.starts_with("new: echo.demo")),
            "{messages:?}"
        );
        ensure!(
            !messages.iter().any(|line| line.contains("DEBUG")),
            "{messages:?}"
        );
        ensure!(
            logged.iter().any(|line| line.contains("DEBUG devbox_session")),
            "{logged:?}"
        );
        Ok(())
    })
}
