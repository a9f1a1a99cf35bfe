//! The README's first command.
#![cfg(target_os = "linux")]

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use devbox_tests::{
    Caller, Exit, Finished, Machine, Outcome, Result, Signal, files_below, hosts, proc, scenario, wait,
};

/// What the demo's table must contain.
fn expect_table(out: &Finished) -> Result {
    let text = out.output();
    let row = text
        .lines()
        .find(|line| line.contains("web.demo") && line.contains("8080") && line.contains("127.77."));
    ensure!(row.is_some(), "no row for web.demo:\n{}", out.everything());
    ensure!(text.contains("ms") || text.contains("µs"), "no time:\n{text}");
    Ok(())
}

#[test]
fn once_as_root_uses_the_hosts_file_and_leaves_nothing() -> Outcome {
    scenario(|scene| {
        let machine = Machine::start(scene)?;
        let before = files_below(&machine.etc().join(".."));
        let demo = scene
            .devbox(["demo", "--once"])?
            .by(Caller::Root)
            .inside(&machine);
        let out = demo.run(Duration::from_secs(60))?.expect_success()?;
        expect_table(&out)?;
        hosts::expect_original(&machine.hosts())?;
        let after = files_below(&machine.etc().join(".."));
        ensure!(after == before, "files came or went");
        Ok(())
    })
}

#[test]
fn once_as_an_ordinary_user_leaves_nothing() -> Outcome {
    scenario(|scene| {
        let outside = std::fs::read("/etc/hosts")?;
        let demo = scene.devbox(["demo", "--once"])?.by(Caller::Ordinary);
        let out = demo.run(Duration::from_secs(60))?.expect_success()?;
        expect_table(&out)?;
        ensure!(std::fs::read("/etc/hosts")? == outside);
        let left: Vec<PathBuf> = files_below(scene.folder());
        ensure!(
            left.iter().all(|file| file.ends_with("devbox")),
            "left behind: {left:?}"
        );
        Ok(())
    })
}

#[test]
fn copied_alone_elsewhere_it_works() -> Outcome {
    scenario(|scene| {
        let folder = scene.folder_of("else where", Caller::Ordinary)?;
        let copy = folder.join("dbx");
        std::fs::copy(devbox_tests::program()?, &copy)?;
        scene.give(&copy, Caller::Ordinary)?;
        let demo = scene
            .command([copy])
            .args(["demo", "--once"])
            .by(Caller::Ordinary)
            .in_folder(&folder);
        let demo = demo.env_remove("HOME").env_remove("USER");
        expect_table(&demo.run(Duration::from_secs(60))?.expect_success()?)?;
        ensure!(files_below(&folder).len() == 1, "{:?}", files_below(&folder));
        Ok(())
    })
}

#[test]
fn where_namespaces_are_forbidden_it_proves_the_tunnel_and_says_what_it_could_not_do() -> Outcome {
    scenario(|scene| {
        let demo = scene
            .devbox(["demo", "--once"])?
            .by(Caller::Ordinary)
            .without_user_namespaces();
        let out = demo.run(Duration::from_secs(60))?.expect_success()?;
        expect_table(&out)?;
        out.expect_text(&["user namespace", "sudo"])?;
        Ok(())
    })
}

#[test]
fn it_keeps_running_until_it_is_interrupted() -> Outcome {
    scenario(|scene| {
        for caller in Caller::possible() {
            let machine = if caller == Caller::Root {
                Some(Machine::start(scene)?)
            } else {
                None
            };
            let mut demo = scene.devbox(["demo"])?.by(caller);
            if let Some(machine) = &machine {
                demo = demo.inside(machine);
            }
            let mut demo = demo.start()?;
            demo.wait_for_line("the row of the fetch", 2 * wait::SOON, |line| {
                line.contains("web.demo") && line.contains("8080")
            })?;
            wait::stays("a running demo", Duration::from_millis(500), || {
                matches!(demo.ended(), Ok(None))
            })?;
            if let Some(machine) = &machine {
                ensure!(hosts::lookup(&machine.hosts(), "web.demo").is_some());
            }
            let mut below = proc::descendants(demo.pid());
            below.push(demo.pid());
            demo.signal(Signal::INT)?;
            let exit = demo.wait(wait::SOON)?;
            ensure!(exit == Exit::Code(0), "{exit}");
            proc::wait_until_gone(&below, wait::SOON)?;
            if let Some(machine) = &machine {
                hosts::expect_original(&machine.hosts())?;
            }
        }
        Ok(())
    })
}
