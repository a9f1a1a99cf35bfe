//! Hosts files as they are in practice: links, mounts, owners, and users who edit them during a session.
#![cfg(target_os = "linux")]

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use devbox_tests::peers::Echo;
use devbox_tests::{
    Caller, Exit, Gateway, Machine, Outcome, Result, Service, Signal, Up, UpOptions, files_below, hosts,
    scenario, wait,
};

const PORT: u16 = 7160;

#[test]
fn the_hosts_files_owner_mode_and_name_stay() -> Outcome {
    use std::os::unix::fs::PermissionsExt;
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let real = scene.hosts_file(Caller::Ordinary)?;
        std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o640))?;
        let link = scene.folder_of("linked", Caller::Ordinary)?.join("hosts");
        std::os::unix::fs::symlink(&real, &link)?;
        let before = std::fs::metadata(&real)?;
        let same = |at: &str| -> Result {
            let now = std::fs::metadata(&real)?;
            let attributes = |meta: &std::fs::Metadata| (meta.uid(), meta.gid(), meta.mode());
            ensure!(
                attributes(&now) == attributes(&before),
                "{at}: {:?}",
                attributes(&now)
            );
            ensure!(
                std::fs::symlink_metadata(&link)?.is_symlink(),
                "{at}: no link any more"
            );
            Ok(())
        };
        // As root if possible, so that the owner is not the user who writes.
        let caller = Caller::own();
        let mut up = Up::start_with(&gateway, &UpOptions::new(caller).hosts(&link))?;
        ensure!(
            hosts::lookup(&real, "echo.demo").is_some(),
            "the file behind the link has no names"
        );
        same("while it runs")?;
        up.process().signal(Signal::TERM)?;
        up.process_mut().wait(wait::SOON)?;
        same("afterwards")?;
        hosts::expect_original(&real)?;
        let beside = files_below(real.parent().context("no folder")?);
        ensure!(beside == [real.clone()], "left beside the hosts file: {beside:?}");
        Ok(())
    })
}

#[test]
fn the_systems_own_hosts_file_is_edited_and_restored() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let machine = Machine::start(scene)?;
        let mut up = Up::start_with(&gateway, &UpOptions::new(Caller::Root).inside(&machine))?;
        let address = up.address_of("echo.demo")?;
        Echo::ask(SocketAddr::new(address, PORT))?;
        let out = up
            .client(["getent", "hosts", "echo.demo.svc.cluster.local"])
            .run(wait::SOON)?
            .expect_success()?;
        ensure!(out.output().starts_with(&address.to_string()), "{}", out.output());
        up.process().signal(Signal::TERM)?;
        up.process_mut().wait(wait::SOON)?;
        hosts::expect_original(&machine.hosts())
    })
}

#[test]
fn a_bind_mounted_hosts_file_is_edited_in_place() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        scene.need_root()?;
        let file = scene.hosts_file(Caller::Root)?;
        let inode = std::fs::metadata(&file)?.ino();
        // As Docker mounts it: the file is a mount point, and a rename onto it fails with EBUSY.
        let mut up = gateway.devbox("up", Caller::Root)?.seeing_hosts(&file).start()?;
        up.wait_for_line("the line `ready`", 2 * wait::SOON, |line| line == "ready")?;
        Echo::ask(SocketAddr::new(hosts::address_of(&file, "echo.demo")?, PORT))?;
        // What is mounted there belongs to another folder, and is watched all the same.
        std::fs::write(&file, hosts::ORIGINAL)?;
        wait::until("the name in the file that was rewritten", wait::SOON, || {
            hosts::lookup(&file, "echo.demo")
        })?;
        up.signal(Signal::TERM)?;
        ensure!(up.wait(wait::SOON)? == Exit::Code(0));
        hosts::expect_original(&file)?;
        ensure!(std::fs::metadata(&file)?.ino() == inode, "it is another file");
        Ok(())
    })
}

#[test]
fn a_name_in_the_users_own_line_stays_theirs() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let file = scene.hosts_file(Caller::Ordinary)?;
        let own = [hosts::ORIGINAL, b"\n10.2.3.4 echo.demo # mine"].concat();
        std::fs::write(&file, &own)?;
        let mut up = Up::start_with(&gateway, &UpOptions::new(Caller::Ordinary).hosts(&file))?;
        ensure!(
            up.address_of("echo.demo")? == IpAddr::from([10, 2, 3, 4]),
            "the user's name was taken"
        );
        Echo::ask(SocketAddr::new(up.address_of("echo.demo.svc")?, PORT))?;
        ensure!(
            up.process().everything().contains("echo.demo"),
            "it does not mention the name"
        );
        up.process().signal(Signal::TERM)?;
        up.process_mut().wait(wait::SOON)?;
        ensure!(std::fs::read(&file)? == own);
        Ok(())
    })
}

/// Applies `edit` to the current bytes of the session's file.
fn edited(file: &Path, edit: impl Fn(&str) -> String) -> Result {
    // The original is not UTF-8, so map each byte to a character (Latin-1).
    let latin: String = std::fs::read(file)?.into_iter().map(char::from).collect();
    let bytes: Vec<u8> = edit(&latin)
        .chars()
        .map(|letter| u8::try_from(letter).unwrap_or(b'?'))
        .collect();
    Ok(std::fs::write(file, bytes)?)
}

#[test]
fn what_the_user_edits_meanwhile_stays() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let mut up = Up::start(&gateway, Caller::Ordinary)?;
        edited(up.hosts(), |text| {
            format!("10.0.0.1 first.lan\n{text}\n10.0.0.2 behind.lan\n")
        })?;
        // After a change of the catalog the block is rewritten around the user's edit.
        gateway
            .catalog()
            .replace(&[Service::new("late", "demo", PORT, echo.address())])?;
        wait::until_ok("the late name", wait::SOON, || up.address_of("late.demo"))?;
        up.process().signal(Signal::TERM)?;
        let exit = up.process_mut().wait(wait::SOON)?;
        ensure!(exit == Exit::Code(0), "{exit}");
        for (name, address) in [
            ("first.lan", "10.0.0.1"),
            ("behind.lan", "10.0.0.2"),
            ("printer.lan", "10.9.8.7"),
        ] {
            ensure!(hosts::address_of(up.hosts(), name)?.to_string() == address);
        }
        ensure!(
            hosts::lookup(up.hosts(), "late.demo").is_none() && hosts::block_openings(up.hosts()).is_empty()
        );
        Ok(())
    })
}

#[test]
fn names_that_another_program_removes_are_put_back() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let real = scene.hosts_file(Caller::Ordinary)?;
        let link = scene.folder_of("linked", Caller::Ordinary)?.join("hosts");
        std::os::unix::fs::symlink(&real, &link)?;
        let mut up = Up::start_with(&gateway, &UpOptions::new(Caller::Ordinary).hosts(&link))?;
        let address = up.address_of("echo.demo")?;
        let theirs = b"127.0.0.1 localhost\n10.1.2.3 vpn.corp\n";
        let replaced = || -> Result {
            let new = real.with_extension("vpn");
            std::fs::write(&new, theirs)?;
            scene.give(&new, Caller::Ordinary)?;
            Ok(std::fs::rename(&new, &real)?)
        };
        let in_place = || -> Result { Ok(std::fs::write(&real, theirs)?) };
        let removed = || -> Result {
            std::fs::remove_file(&real)?;
            replaced()
        };
        let ways: [(&str, &dyn Fn() -> Result); 3] = [
            ("replaced", &replaced),
            ("written in place", &in_place),
            ("removed and made again", &removed),
        ];
        for (number, (way, rewrite)) in ways.into_iter().enumerate() {
            rewrite()?;
            // At once, and after that every five seconds at most.
            let within = if number == 0 {
                Duration::from_secs(4)
            } else {
                wait::SOON
            };
            wait::until(&format!("the name in a file that was {way}"), within, || {
                hosts::lookup(&real, "echo.demo")
            })?;
            ensure!(up.address_of("echo.demo")? == address);
            ensure!(
                hosts::lookup(&real, "vpn.corp").is_some(),
                "the other program's line is gone"
            );
        }
        Echo::ask(SocketAddr::new(address, PORT))?;
        let told = |count| {
            let said = up.process().errors();
            ensure!(said.matches("another program").count() == count, "{said}");
            Ok(())
        };
        // Said at the first time, and once more when it is plain that two programs work against each other.
        wait::until_ok("both lines", wait::SOON, || told(2))?;
        let status = up.status(&[])?.run(wait::SOON)?.expect_success()?;
        status.expect_text(&[
            "another program keeps rewriting",
            &link.display().to_string(),
            "put back 3 times",
        ])?;
        up.process().signal(Signal::TERM)?;
        let exit = up.process_mut().wait(wait::SOON)?;
        ensure!(exit == Exit::Code(0), "{exit}");
        ensure!(
            std::fs::read(&real)? == theirs,
            "it is not as the other program left it"
        );
        Ok(())
    })
}

#[test]
fn a_program_that_reads_or_touches_the_hosts_file_causes_no_write() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let up = Up::start(&gateway, Caller::Ordinary)?;
        let before = std::fs::read(up.hosts())?;
        let inode = std::fs::metadata(up.hosts())?.ino();
        // The same bytes in the same file, with a later date.
        std::fs::write(up.hosts(), &before)?;
        let touched = std::fs::metadata(up.hosts())?.modified()?;
        wait::stays("the file", Duration::from_secs(2), || {
            std::fs::metadata(up.hosts()).is_ok_and(|file| {
                file.ino() == inode && file.modified().is_ok_and(|modified| modified == touched)
            })
        })?;
        ensure!(
            !up.process().errors().contains("another program"),
            "{}",
            up.process().errors()
        );
        Ok(())
    })
}

#[test]
fn a_block_that_the_user_took_out_stays_out() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let mut up = Up::start(&gateway, Caller::Ordinary)?;
        std::fs::write(up.hosts(), "127.0.0.1 localhost\n")?;
        up.process().signal(Signal::TERM)?;
        let exit = up.process_mut().wait(wait::SOON)?;
        ensure!(exit == Exit::Code(0), "{exit}");
        ensure!(std::fs::read(up.hosts())? == b"127.0.0.1 localhost\n");
        Ok(())
    })
}

/// What somebody does by hand to the block of a session.
fn without(text: &str, markers: &[&str]) -> String {
    let lines = text.split_inclusive('\n');
    lines
        .filter(|line| !markers.iter().any(|marker| line.starts_with(marker)))
        .collect()
}

const BEGIN: &str = "# BEGIN devbox-";
const END: &str = "# END devbox-";

/// The hosts file of a session that ends after its block was edited by hand, how it ended, and what it said.
fn ended_after(gateway: &Gateway<'_>, edit: impl Fn(&str) -> String) -> Result<(Vec<u8>, Exit, String)> {
    let mut up = Up::start(gateway, Caller::Ordinary)?;
    edited(up.hosts(), edit)?;
    up.process().signal(Signal::TERM)?;
    let exit = up.process_mut().wait(wait::SOON)?;
    Ok((std::fs::read(up.hosts())?, exit, up.process().errors()))
}

fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string().replace("\\n", "\n")
}

#[test]
fn a_block_that_lost_its_markers_is_removed_at_the_end() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        for markers in [&[END][..], &[BEGIN], &[BEGIN, END]] {
            let (left, exit, said) = ended_after(&gateway, |text| without(text, markers))?;
            ensure!(left == hosts::ORIGINAL, "{markers:?}: {}", shown(&left));
            ensure!(exit == Exit::Code(0), "{markers:?}: {exit}: {said}");
        }
        Ok(())
    })
}

#[test]
fn a_block_without_its_end_costs_the_user_no_line() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let other = |attribute: &str| {
            format!("# BEGIN devbox-other{attribute} owner=1.1.other\n127.77.9.9 other\n# END devbox-other\n")
        };
        let line = "10.0.0.2 behind.lan\n".to_owned();
        for (what, own, kept) in [
            ("a line behind it", line.clone(), line),
            // It takes over the line end that the file did not have.
            ("another block behind it", other(""), other(" eol=0")),
        ] {
            let (left, exit, said) = ended_after(&gateway, |text| without(text, &[END]) + &own)?;
            let expected = [hosts::ORIGINAL, b"\n", kept.as_bytes()].concat();
            ensure!(left == expected, "{what}: {}", shown(&left));
            ensure!(exit == Exit::Code(0), "{what}: {exit}: {said}");
        }
        let own = "10.0.0.2 within.lan\n127.77.0.3 within.demo\n";
        let (left, exit, said) = ended_after(&gateway, |text| {
            let (before, block) = text.split_once(BEGIN).unwrap_or_default();
            let (begin, rest) = block.split_once('\n').unwrap_or_default();
            format!("{before}{BEGIN}{begin}\n{own}{}", without(rest, &[END]))
        })?;
        ensure!(
            left == [hosts::ORIGINAL, b"\n", own.as_bytes()].concat(),
            "{}",
            shown(&left)
        );
        ensure!(exit == Exit::Code(0), "{exit}: {said}");
        Ok(())
    })
}

#[test]
fn a_line_of_a_damaged_block_that_was_edited_stays_and_is_reported() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let edit = |text: &str| without(text, &[END]).replacen(" echo.demo", " echo.demo mine.lan", 1);
        let (left, exit, said) = ended_after(&gateway, edit)?;
        let text = left.strip_prefix(hosts::ORIGINAL).unwrap_or_default();
        let text = String::from_utf8_lossy(text);
        ensure!(
            text.lines().count() == 2 && text.contains(" echo.demo mine.lan"),
            "{}",
            shown(&left)
        );
        ensure!(exit == Exit::Code(1), "{exit}: {said}");
        let number = hosts::ORIGINAL.split(|byte| *byte == b'\n').count() + 1;
        ensure!(
            said.contains(&format!(
                "line {number} was written by a session and has been edited since"
            )),
            "{said}"
        );
        Ok(())
    })
}

#[test]
fn a_damaged_block_is_whole_again_after_the_next_change_of_the_catalog() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        for markers in [&[END][..], &[BEGIN], &[BEGIN, END]] {
            let gateway = Gateway::of_echo(scene, &echo, PORT)?;
            let mut up = Up::start(&gateway, Caller::Ordinary)?;
            edited(up.hosts(), |text| without(text, markers))?;
            gateway.catalog().replace(&[
                Service::new("echo", "demo", PORT, echo.address()),
                Service::new("late", "demo", PORT, echo.address()),
            ])?;
            wait::until_ok("the late name", wait::SOON, || up.address_of("late.demo"))?;
            let bytes = std::fs::read(up.hosts())?;
            let text = String::from_utf8_lossy(&bytes);
            for once in [BEGIN, END, " echo.demo "] {
                ensure!(
                    text.matches(once).count() == 1,
                    "{once} after {markers:?}: {}",
                    shown(&bytes)
                );
            }
            up.process().signal(Signal::TERM)?;
            let exit = up.process_mut().wait(wait::SOON)?;
            ensure!(exit == Exit::Code(0), "{exit}");
            hosts::expect_original(up.hosts())?;
        }
        Ok(())
    })
}
