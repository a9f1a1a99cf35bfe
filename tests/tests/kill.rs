//! kill -9: nothing is left behind.
#![cfg(target_os = "linux")]

use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use devbox_tests::peers::Echo;
use devbox_tests::{
    Caller, Exit, Gateway, Machine, Outcome, Result, Service, Signal, Up, UpOptions, files_below, hosts,
    proc, scenario, wait,
};
use rustix::process::{Pid, kill_process};

const PORT: u16 = 7200;

/// How soon after a `kill -9` the file is promised to be as before.
const LIMIT: Duration = Duration::from_secs(2);

/// Kills a process that this test started, a helper for example, by its id.
fn kill(pid: u32) -> Result {
    let id = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .context("no process id")?;
    kill_process(id, Signal::KILL).with_context(|| format!("kill {pid} ({})", proc::command_line(pid)))
}

/// Checks that there is something to restore.
fn expect_block(file: &Path) -> Result {
    let blocks = hosts::block_openings(file);
    ensure!(
        blocks.len() == 1,
        "one block should stand before the kill: {blocks:?}"
    );
    Ok(())
}

fn restored_within_limit(file: &Path) -> Result {
    wait::until("the hosts file as before", LIMIT, || {
        hosts::is_original(file).then_some(())
    })
    .or_else(|late| hosts::expect_original(file).context(late))
}

#[test]
fn killed_alone_it_leaves_the_hosts_file_as_before() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        for caller in Caller::possible() {
            let mut up = Up::start(&gateway, caller)?;
            let below = proc::descendants(up.process().pid());
            expect_block(up.hosts())?;
            up.process().signal(Signal::KILL)?;
            up.process_mut().wait(wait::SOON)?;
            restored_within_limit(up.hosts())?;
            proc::wait_until_gone(&below, wait::SOON)?;
        }
        Ok(())
    })
}

#[test]
fn killed_with_its_process_group_it_leaves_the_hosts_file_as_before() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        for caller in Caller::possible() {
            let mut up = Up::start(&gateway, caller)?;
            let below = proc::descendants(up.process().pid());
            expect_block(up.hosts())?;
            up.process().signal_group(Signal::KILL)?;
            up.process_mut().wait(wait::SOON)?;
            restored_within_limit(up.hosts())?;
            proc::wait_until_gone(&below, wait::SOON)?;
        }
        Ok(())
    })
}

#[test]
fn killed_the_moment_its_block_stands_it_leaves_the_hosts_file_as_before() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        for _ in 0..6 {
            let mut up = Up::launch(&gateway, &UpOptions::new(Caller::own()))?;
            let file = up.hosts().to_owned();
            wait::until("a block in the hosts file", wait::SOON, || {
                expect_block(&file).ok()
            })?;
            let below = proc::descendants(up.process().pid());
            up.process().signal_group(Signal::KILL)?;
            up.process_mut().wait(wait::SOON)?;
            restored_within_limit(up.hosts())?;
            proc::wait_until_gone(&below, wait::SOON)?;
        }
        Ok(())
    })
}

/// Mostly before its block stands: that a block which does stand goes is for the test above.
#[test]
fn killed_in_the_middle_of_its_start_it_leaves_the_hosts_file_as_before() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        // How long a start takes here, up to the block.
        let usual = {
            let up = Up::launch(&gateway, &UpOptions::new(Caller::own()))?;
            let started = Instant::now();
            wait::until("a block in the hosts file", wait::SOON, || {
                expect_block(up.hosts()).ok()
            })?;
            started.elapsed()
        };
        let mut without_a_block = 0;
        for _ in 0..12 {
            let mut up = Up::launch(&gateway, &UpOptions::new(Caller::own()))?;
            // Not a wait for something, but a moment of its own.
            let moment = usual.mul_f64(random.f64() * 1.2);
            std::thread::sleep(moment);
            let stood = !hosts::is_original(up.hosts());
            let below = proc::descendants(up.process().pid());
            up.process().signal_group(Signal::KILL)?;
            up.process_mut().wait(wait::SOON)?;
            proc::wait_until_gone(&below, wait::SOON)?;
            restored_within_limit(up.hosts())
                .with_context(|| format!("seed {seed}, killed after {moment:?}, a block stood: {stood}"))?;
            without_a_block += u8::from(!stood);
        }
        ensure!(
            without_a_block > 0,
            "seed {seed}: no kill came before the block, although it takes {usual:?}"
        );
        Ok(())
    })
}

/// The process of `devbox up` itself at or below `pid`: not sudo's, not the helper's.
fn session_process(pid: u32) -> Result<u32> {
    wait::until("the session's process below sudo", wait::SOON, || {
        std::iter::once(pid).chain(proc::descendants(pid)).find(|pid| {
            let line = proc::command_line(*pid);
            line.contains(" up ") && !line.starts_with("sudo") && !line.contains("__helper")
        })
    })
}

#[test]
fn under_sudo_only_the_helper_stays_root() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        // The low port is bound by the helper and handed over.
        let catalog = scene.catalog(&[Service::new("echo", "demo", 82, echo.address())])?;
        let gateway = Gateway::start(scene, &catalog)?;
        let machine = Machine::with_sudo(scene)?;
        let mut up = Up::start_with(
            &gateway,
            &UpOptions::new(Caller::Ordinary).inside(&machine).sudo(),
        )?;
        let session = session_process(up.process().pid())?;
        let helper = proc::helper_of(session)?;
        let uid = Caller::Ordinary.uid();
        ensure!(
            proc::users(session) == [uid; 4],
            "the session runs as {:?}",
            proc::users(session)
        );
        ensure!(
            proc::users(helper) == [0; 4],
            "the helper runs as {:?}",
            proc::users(helper)
        );
        let mut stream = up.connect("echo.demo", 82)?;
        stream.write_all(b"low")?;
        let mut back = [0; 3];
        stream.read_exact(&mut back)?;
        ensure!(&back == b"low");
        // The session is the caller's: they see it and end it without sudo.
        up.status(&[])?
            .run(wait::SOON)?
            .expect_success()?
            .expect_text(&["echo.demo"])?;
        up.down()?.run(wait::SOON)?.expect_success()?;
        hosts::expect_original(&machine.hosts())?;
        up.process_mut().wait(wait::SOON)?;
        let foreign = files_below(&scene.home(Caller::Ordinary)?)
            .into_iter()
            .find(|file| std::fs::symlink_metadata(file).is_ok_and(|meta| meta.uid() != uid));
        ensure!(
            foreign.is_none(),
            "in the caller's home, and not theirs: {foreign:?}"
        );
        Ok(())
    })
}

#[test]
fn killed_under_sudo_it_leaves_the_hosts_file_as_before() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let machine = Machine::with_sudo(scene)?;
        let options = UpOptions::new(Caller::Ordinary).inside(&machine).sudo();
        for whole_group in [false, true] {
            let mut up = Up::start_with(&gateway, &options)?;
            let session = session_process(up.process().pid())?;
            let below = proc::descendants(session);
            expect_block(&machine.hosts())?;
            if whole_group {
                up.process().signal_group(Signal::KILL)?;
            } else {
                kill(session)?;
            }
            proc::wait_until_gone(&[session], wait::SOON)?;
            restored_within_limit(&machine.hosts())?;
            proc::wait_until_gone(&below, wait::SOON)?;
            up.process_mut().wait(wait::SOON)?;
        }
        Ok(())
    })
}

/// The process that a session's block names: the helper that serves it.
fn owner_of_block(file: &Path) -> Result<u32> {
    let opening = hosts::block_openings(file).pop().context("no block")?;
    let owner = opening.split_once(" owner=").context("no owner")?.1;
    Ok(owner.split('.').next().unwrap_or_default().parse()?)
}

#[test]
fn a_helper_killed_under_sudo_is_replaced_with_its_rights() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let low = |name: &str, port| Service::new(name, "demo", port, echo.address());
        let catalog = scene.catalog(&[low("echo", 82)])?;
        let gateway = Gateway::start(scene, &catalog)?;
        let machine = Machine::with_sudo(scene)?;
        let mut up = Up::start_with(
            &gateway,
            &UpOptions::new(Caller::Ordinary).inside(&machine).sudo(),
        )?;
        let session = session_process(up.process().pid())?;
        let helper = owner_of_block(&machine.hosts())?;
        kill(helper)?;
        let other = wait::until("another helper with the block", wait::SOON, || {
            let owner = owner_of_block(&machine.hosts()).ok()?;
            (owner != helper).then_some(owner)
        })?;
        ensure!(
            proc::users(other) == [0; 4] && proc::users(session) == [Caller::Ordinary.uid(); 4],
            "the new helper runs as {:?}, the session as {:?}",
            proc::users(other),
            proc::users(session)
        );
        // It may still do what only root may: the system's file, and a low port.
        gateway.catalog().replace(&[low("echo", 82), low("late", 83)])?;
        wait::until_ok("the late name", wait::SOON, || up.address_of("late.demo"))?;
        for (name, port) in [("echo.demo", 82), ("late.demo", 83)] {
            let mut stream = up.connect(name, port)?;
            stream.write_all(b"low")?;
            let mut back = [0; 3];
            stream.read_exact(&mut back)?;
            ensure!(&back == b"low");
        }
        let below = proc::descendants(session);
        up.down()?.run(wait::SOON)?.expect_success()?;
        up.process_mut().wait(wait::SOON)?;
        hosts::expect_original(&machine.hosts())?;
        proc::wait_until_gone(&below, wait::SOON)
    })
}

#[test]
fn helpers_killed_under_sudo_with_their_keeper_end_the_session_with_the_command_that_cleans_up() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let machine = Machine::with_sudo(scene)?;
        let mut up = Up::start_with(
            &gateway,
            &UpOptions::new(Caller::Ordinary).inside(&machine).sudo(),
        )?;
        let session = session_process(up.process().pid())?;
        // The keeper first: it cannot answer its helper's end then.
        for process in proc::descendants(session) {
            kill(process)?;
        }
        let exit = up.process_mut().wait(wait::SOON)?;
        ensure!(exit == Exit::Code(1), "{exit}");
        let errors = up.process().errors();
        ensure!(
            errors.contains("this removes it: sudo devbox cleanup --hosts-file /etc/hosts"),
            "{errors}"
        );
        Ok(())
    })
}

#[test]
fn killed_with_its_helper_the_next_cleanup_sweeps() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        for caller in Caller::possible() {
            let mut up = Up::start(&gateway, caller)?;
            kill_with_helper(&mut up)?;
            let file = up.hosts().display().to_string();
            up.devbox(&["cleanup", "--hosts-file", &file])?
                .run(wait::SOON)?
                .expect_success()?;
            hosts::expect_original(up.hosts())?;
            // Nothing left to do is no error.
            up.devbox(&["cleanup", "--hosts-file", &file])?
                .run(wait::SOON)?
                .expect_success()?;
            hosts::expect_original(up.hosts())?;
        }
        Ok(())
    })
}

#[test]
fn killed_with_its_helper_the_next_up_sweeps() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        for caller in Caller::possible() {
            let mut up = Up::start(&gateway, caller)?;
            kill_with_helper(&mut up)?;
            let next = Up::start_with(&gateway, &UpOptions::new(caller).hosts(up.hosts()))?;
            expect_block(up.hosts())?;
            drop(next);
            hosts::expect_original(up.hosts())?;
        }
        Ok(())
    })
}

/// Kills the helper, then its session, before either can undo anything. The block is left.
fn kill_with_helper(up: &mut Up<'_>) -> Result {
    let session = up.process().pid();
    let helper = proc::helper_of(session)?;
    // Stopped first: so the session cannot answer its helper's end, nor the helper the session's.
    up.process().signal(Signal::STOP)?;
    kill(helper)?;
    up.process().signal(Signal::KILL)?;
    up.process_mut().wait(wait::SOON)?;
    proc::wait_until_gone(&[helper], wait::SOON)?;
    expect_block(up.hosts())
}

/// How often a helper may be killed within a minute before its session ends.
const RESTARTS: usize = 3;

/// Kills the helper alone and waits until another one has taken its block over. No lookup in between may fail.
fn replace_helper(up: &Up<'_>) -> Result<u32> {
    let session = up.process().pid();
    let helper = proc::helper_of(session)?;
    let before = hosts::block_openings(up.hosts());
    kill(helper)?;
    let deadline = Instant::now() + wait::SOON;
    while hosts::block_openings(up.hosts()) == before {
        up.address_of("echo.demo")?;
        ensure!(
            Instant::now() < deadline,
            "nobody takes the block over: {}",
            up.process().everything()
        );
    }
    up.address_of("echo.demo")?;
    expect_block(up.hosts())?;
    proc::helper_of(session)
}

#[test]
fn a_helper_killed_alone_is_replaced_and_its_block_taken_over() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        for caller in Caller::possible() {
            let mut up = Up::start(&gateway, caller)?;
            let mut stream = up.connect("echo.demo", PORT)?;
            let helper = replace_helper(&up)?;
            up.process().wait_for_line("another one", wait::SOON, |line| {
                line.contains("the helper process was killed; started another one")
            })?;
            let status = up
                .status(&["--output", "json"])?
                .run(wait::SOON)?
                .expect_success()?
                .json()?;
            ensure!(
                status.to_string().contains(&format!("\"helper_pid\":{helper}")),
                "not {helper}: {status}"
            );
            // What was open goes on, and what comes later is published by the new one.
            stream.write_all(b"open")?;
            let mut back = [0; 4];
            stream.read_exact(&mut back)?;
            ensure!(&back == b"open");
            gateway.catalog().replace(&[
                Service::new("echo", "demo", PORT, echo.address()),
                Service::new("late", "demo", PORT, echo.address()),
            ])?;
            wait::until_ok("the late name", wait::SOON, || up.address_of("late.demo"))?;
            up.process().signal(Signal::TERM)?;
            let exit = up.process_mut().wait(wait::SOON)?;
            ensure!(exit == Exit::Code(0), "{exit}");
            hosts::expect_original(up.hosts())?;
            gateway
                .catalog()
                .replace(&[Service::new("echo", "demo", PORT, echo.address())])?;
        }
        Ok(())
    })
}

#[test]
fn killed_after_its_helper_was_replaced_it_leaves_the_hosts_file_as_before() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let mut up = Up::start(&gateway, Caller::Ordinary)?;
        replace_helper(&up)?;
        up.process().signal_group(Signal::KILL)?;
        up.process_mut().wait(wait::SOON)?;
        restored_within_limit(up.hosts())
    })
}

#[test]
fn a_helper_killed_while_it_takes_the_block_over_is_replaced_as_well() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let up = Up::start(&gateway, Caller::Ordinary)?;
        let session = up.process().pid();
        let first = proc::helper_of(session)?;
        kill(first)?;
        let second = wait::until("another helper", wait::SOON, || {
            proc::helper_of(session).ok().filter(|helper| *helper != first)
        })?;
        kill(second)?;
        let third = wait::until("one more helper", wait::SOON, || {
            proc::helper_of(session).ok().filter(|helper| *helper != second)
        })?;
        up.process().wait_for_line("another one", wait::SOON, |line| {
            line.contains("the helper process was killed; started another one")
        })?;
        up.address_of("echo.demo")?;
        expect_block(up.hosts())?;
        ensure!(proc::helper_of(session)? == third);
        Ok(())
    })
}

#[test]
fn a_helper_killed_again_and_again_ends_its_session_and_the_next_cleanup_sweeps() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let mut up = Up::start(&gateway, Caller::Ordinary)?;
        for _ in 0..RESTARTS {
            replace_helper(&up)?;
        }
        kill(proc::helper_of(up.process().pid())?)?;
        // It ends by itself: without a helper it could undo nothing.
        let exit = up.process_mut().wait(wait::SOON)?;
        ensure!(exit == Exit::Code(1), "{exit}");
        let errors = up.process().errors();
        ensure!(errors.contains("the helper process ended"), "{errors}");
        expect_block(up.hosts())?;
        let file = up.hosts().display().to_string();
        ensure!(
            errors.contains(&format!("this removes it: devbox cleanup --hosts-file {file}")),
            "{errors}"
        );
        up.devbox(&["cleanup", "--hosts-file", &file])?
            .run(wait::SOON)?
            .expect_success()?;
        hosts::expect_original(up.hosts())
    })
}

/// Kills a session with its helper, removes the marker lines of its block that begin so, and returns its hosts file.
fn killed_without_markers(up: &mut Up<'_>, markers: &[&str]) -> Result {
    kill_with_helper(up)?;
    let bytes = std::fs::read(up.hosts())?;
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    let kept = lines.filter(|line| !markers.iter().any(|marker| line.starts_with(marker.as_bytes())));
    std::fs::write(up.hosts(), kept.flatten().copied().collect::<Vec<u8>>())?;
    Ok(())
}

const MARKERS: [&[&str]; 3] = [&["# END"], &["# BEGIN"], &["# BEGIN", "# END"]];

#[test]
fn cleanup_removes_a_dead_session_s_lines_that_lost_their_markers() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        for markers in MARKERS {
            let mut up = Up::start(&gateway, Caller::Ordinary)?;
            killed_without_markers(&mut up, markers)?;
            let file = up.hosts().display().to_string();
            up.devbox(&["cleanup", "--hosts-file", &file])?
                .run(wait::SOON)?
                .expect_success()?
                .expect_text(&["removed"])?;
            hosts::expect_original(up.hosts())?;
        }
        Ok(())
    })
}

#[test]
fn hosts_repair_removes_a_dead_session_s_lines_and_gives_the_user_none() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        for markers in MARKERS {
            let mut up = Up::start(&gateway, Caller::Ordinary)?;
            killed_without_markers(&mut up, markers)?;
            let file = up.hosts().display().to_string();
            up.devbox(&["hosts", "repair", "--file", &file])?
                .run(wait::SOON)?
                .expect_success()?;
            hosts::expect_original(up.hosts())?;
        }
        Ok(())
    })
}

#[test]
fn cleanup_reports_a_dead_session_s_lines_that_were_edited() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let mut up = Up::start(&gateway, Caller::Ordinary)?;
        killed_without_markers(&mut up, &["# END"])?;
        let bytes = std::fs::read(up.hosts())?;
        let at = bytes.len() - hosts::ORIGINAL.len();
        let (before, block) = bytes.split_at(bytes.len() - at);
        let block = String::from_utf8_lossy(block).replacen(" echo.demo", " echo.demo mine.lan", 1);
        std::fs::write(up.hosts(), [before, block.as_bytes()].concat())?;
        let file = up.hosts().display().to_string();
        for _ in 0..2 {
            up.devbox(&["cleanup", "--hosts-file", &file])?
                .run(wait::SOON)?
                .expect_code(1)?
                .expect_text(&["edited since"])?;
            hosts::address_of(up.hosts(), "mine.lan")?;
            hosts::address_of(up.hosts(), "last.lan")?;
        }
        Ok(())
    })
}

#[test]
fn cleanup_leaves_the_blocks_of_the_living() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let up = Up::start(&gateway, Caller::Ordinary)?;
        let before = std::fs::read(up.hosts())?;
        let file = up.hosts().display().to_string();
        // By another user too, who cannot see whose process it is.
        for caller in Caller::possible() {
            scene
                .devbox(["cleanup", "--hosts-file", &file])?
                .by(caller)
                .run(wait::SOON)?
                .expect_success()?;
            ensure!(std::fs::read(up.hosts())? == before, "swept by {}", caller.name());
        }
        Ok(())
    })
}
