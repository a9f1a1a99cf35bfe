//! Several sessions: queried from another terminal, displaced, side by side.
#![cfg(target_os = "linux")]

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use anyhow::{Context, ensure};
use devbox_tests::peers::{Echo, is_closed};
use devbox_tests::{
    Caller, CatalogFile, Exit, Gateway, Outcome, Service, Signal, Up, UpOptions, files_below, hosts,
    scenario, wait,
};

const PORT: u16 = 7150;

#[test]
fn status_and_down_with_no_session_say_so() -> Outcome {
    scenario(|scene| {
        for verb in ["status", "down"] {
            let out = scene
                .devbox([verb, "--env", scene.environment()])?
                .by(Caller::Ordinary)
                .run(wait::SOON)?
                .expect_code(1)?;
            out.expect_text(&["no session", scene.environment()])?;
        }
        Ok(())
    })
}

#[test]
fn status_shows_the_session_and_down_ends_it() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        for caller in Caller::possible() {
            let mut up = Up::start(&gateway, caller)?;
            let address = up.address_of("echo.demo")?;
            Echo::ask(SocketAddr::new(address, PORT))?;
            let file = up.hosts().display().to_string();
            up.status(&[])?.run(wait::SOON)?.expect_success()?.expect_text(&[
                scene.environment(),
                &gateway.address().to_string(),
                "echo.demo",
                &address.to_string(),
                &PORT.to_string(),
                &file,
            ])?;
            let json = up
                .status(&["--output", "json"])?
                .run(wait::SOON)?
                .expect_success()?
                .json()?;
            let text = json.to_string();
            ensure!(
                text.contains("\"echo.demo\"") && text.contains(&format!("\"{address}\"")),
                "{text}"
            );
            up.down()?.run(wait::SOON)?.expect_success()?;
            // Everything is undone when `down` returns, not some time later.
            hosts::expect_original(up.hosts())?;
            ensure!(is_closed(SocketAddr::new(address, PORT)));
            let exit = up.process_mut().wait(wait::SOON)?;
            ensure!(exit == Exit::Code(0), "{exit}");
        }
        Ok(())
    })
}

#[test]
fn the_control_socket_is_its_users_alone() -> Outcome {
    use std::os::unix::fs::FileTypeExt;
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let up = Up::start(&gateway, Caller::Ordinary)?;
        let is_socket = |path: &std::path::PathBuf| {
            std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
        };
        let sockets: Vec<_> = files_below(scene.folder())
            .into_iter()
            .filter(is_socket)
            .collect();
        ensure!(!sockets.is_empty(), "no control socket below XDG_RUNTIME_DIR");
        for socket in &sockets {
            let meta = std::fs::metadata(socket)?;
            ensure!(
                meta.mode() & 0o777 == 0o600,
                "{} has mode {:o}",
                socket.display(),
                meta.mode()
            );
            ensure!(meta.uid() == Caller::Ordinary.uid());
        }
        // Another user sees no session, even if they know where the sockets are.
        let runtime = sockets[0]
            .parent()
            .and_then(std::path::Path::parent)
            .context("no folder")?;
        let other = scene
            .devbox(["status", "--env", scene.environment()])?
            .by(Caller::Other)
            .env("XDG_RUNTIME_DIR", runtime);
        other.run(wait::SOON)?.expect_code(1)?;
        drop(up);
        let left: Vec<_> = files_below(scene.folder())
            .into_iter()
            .filter(is_socket)
            .collect();
        ensure!(left.is_empty(), "left behind: {left:?}");
        Ok(())
    })
}

#[test]
fn a_newer_session_of_the_same_user_displaces_the_older() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let file = scene.hosts_file(Caller::Ordinary)?;
        let options = UpOptions::new(Caller::Ordinary).hosts(&file);
        let mut first = Up::start_with(&gateway, &options)?;
        let address = first.address_of("echo.demo")?;
        let mut second = Up::start_with(&gateway, &options)?;
        let exit = first.process_mut().wait(wait::SOON)?;
        ensure!(exit == Exit::Code(3), "{exit}");
        ensure!(
            first.process().errors().to_lowercase().contains("displaced"),
            "{}",
            first.process().errors()
        );
        ensure!(
            hosts::block_openings(&file).len() == 1,
            "{:?}",
            hosts::block_openings(&file)
        );
        ensure!(second.address_of("echo.demo")? == address, "the address changed");
        // The first does not come back, and the second stays.
        wait::stays("the second session", Duration::from_millis(700), || {
            matches!(second.process_mut().ended(), Ok(None)) && hosts::block_openings(&file).len() == 1
        })?;
        Echo::ask(SocketAddr::new(address, PORT))?;
        second.process().signal(Signal::TERM)?;
        ensure!(second.process_mut().wait(wait::SOON)? == Exit::Code(0));
        hosts::expect_original(&file)
    })
}

#[test]
fn two_sessions_side_by_side_end_each_for_itself() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let other = CatalogFile::of_environment(
            scene,
            &format!("{}-b", scene.environment()),
            &[Service::new("echo", "other", PORT, echo.address())],
        )?;
        let other_gateway = Gateway::start(scene, &other)?;
        let file = scene.hosts_file(Caller::Ordinary)?;
        let options = UpOptions::new(Caller::Ordinary).hosts(&file);
        let mut first = Up::start_with(&gateway, &options)?;
        let alone = std::fs::read(&file)?;
        let mut second = Up::start_with(&other_gateway, &options)?;
        ensure!(hosts::block_openings(&file).len() == 2);
        Echo::ask(SocketAddr::new(hosts::address_of(&file, "echo.demo")?, PORT))?;
        Echo::ask(SocketAddr::new(hosts::address_of(&file, "echo.other")?, PORT))?;
        second.process().signal(Signal::TERM)?;
        second.process_mut().wait(wait::SOON)?;
        ensure!(
            std::fs::read(&file)? == alone,
            "the first session's block is not as it was"
        );
        Echo::ask(SocketAddr::new(hosts::address_of(&file, "echo.demo")?, PORT))?;
        let second = Up::start_with(&other_gateway, &options)?;
        first.process().signal(Signal::TERM)?;
        first.process_mut().wait(wait::SOON)?;
        ensure!(hosts::lookup(&file, "echo.demo").is_none());
        Echo::ask(SocketAddr::new(second.address_of("echo.other")?, PORT))?;
        drop(second);
        hosts::expect_original(&file)
    })
}

#[test]
fn the_same_name_has_the_same_address_in_every_session() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let first = Up::start(&gateway, Caller::Ordinary)?;
        let address = first.address_of("echo.demo")?;
        drop(first);
        let more: Vec<Service> = (0..20)
            .map(|number| Service::new(&format!("s{number}"), "more", PORT, echo.address()))
            .collect();
        let all = [more, vec![Service::new("echo", "demo", PORT, echo.address())]].concat();
        gateway.catalog().replace(&all)?;
        // A different user, a different hosts file, and other services before it in the catalog.
        let caller = Caller::own();
        let second = wait::until_ok("a session with all services", wait::SOON, || {
            let up = Up::start(&gateway, caller)?;
            up.address_of("s19.more").map(|_| up)
        })?;
        ensure!(second.address_of("echo.demo")? == address, "it was {address}");
        Ok(())
    })
}

#[test]
fn of_five_started_at_once_one_stays() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let file = scene.hosts_file(Caller::Ordinary)?;
        let options = UpOptions::new(Caller::Ordinary).hosts(&file);
        let mut all = Vec::new();
        for _ in 0..5 {
            all.push(Up::launch(&gateway, &options)?);
        }
        wait::until_ok("four of five displaced", 2 * wait::SOON, || {
            let mut running = 0;
            for up in &mut all {
                match up.process_mut().ended()? {
                    None => running += 1,
                    Some(exit) => ensure!(exit == Exit::Code(3), "{exit}: {}", up.process().errors()),
                }
            }
            ensure!(running == 1, "{running} are running");
            Ok(())
        })?;
        let mut last = None;
        for mut up in all {
            if up.process_mut().ended()?.is_none() {
                last = Some(up);
            }
        }
        let last = last.context("none is left")?;
        last.wait_until_ready()?;
        ensure!(
            hosts::block_openings(&file).len() == 1,
            "{:?}",
            hosts::block_openings(&file)
        );
        Echo::ask(SocketAddr::new(last.address_of("echo.demo")?, PORT))?;
        drop(last);
        hosts::expect_original(&file)
    })
}

#[test]
fn sessions_with_different_hosts_files_do_not_displace_each_other() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let mut first = Up::start(&gateway, Caller::Ordinary)?;
        let mut second = Up::start(&gateway, Caller::Ordinary)?;
        for up in [&mut first, &mut second] {
            ensure!(up.process_mut().ended()?.is_none());
            Echo::ask(SocketAddr::new(up.address_of("echo.demo")?, PORT))?;
        }
        // The address is taken by the first, so the second has another.
        ensure!(first.address_of("echo.demo")? != second.address_of("echo.demo")?);
        // It does not guess which of the two is meant.
        let out = first.down()?.run(wait::SOON)?.expect_code(1)?;
        out.expect_text(&[
            "2 sessions",
            &first.process().pid().to_string(),
            &second.process().pid().to_string(),
        ])?;
        for up in [&mut first, &mut second] {
            up.process().signal(Signal::TERM)?;
            up.process_mut().wait(wait::SOON)?;
        }
        hosts::expect_original(first.hosts())?;
        hosts::expect_original(second.hosts())
    })
}

#[test]
fn two_users_have_each_their_own_session() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let mut first = Up::start(&gateway, Caller::Ordinary)?;
        let mut second = Up::start(&gateway, Caller::Other)?;
        for up in [&mut first, &mut second] {
            ensure!(up.process_mut().ended()?.is_none(), "one displaced the other");
            Echo::ask(SocketAddr::new(up.address_of("echo.demo")?, PORT))?;
        }
        second.down()?.run(2 * wait::SOON)?.expect_success()?;
        ensure!(first.process_mut().ended()?.is_none());
        hosts::expect_original(second.hosts())?;
        Echo::ask(SocketAddr::new(first.address_of("echo.demo")?, PORT))
    })
}

#[test]
fn a_dry_run_and_a_cleanup_leave_a_running_session_alone() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let file = scene.hosts_file(Caller::Ordinary)?;
        let mut up = Up::start_with(&gateway, &UpOptions::new(Caller::Ordinary).hosts(&file))?;
        let before = std::fs::read(&file)?;
        let dry = gateway
            .devbox("up", Caller::Ordinary)?
            .args(["--dry-run", "--hosts-file"])
            .args([&file]);
        dry.run(2 * wait::SOON)?.expect_success()?;
        up.devbox(&["cleanup", "--hosts-file"])?
            .args([&file])
            .run(wait::SOON)?
            .expect_success()?;
        ensure!(up.process_mut().ended()?.is_none(), "it was displaced");
        ensure!(std::fs::read(&file)? == before);
        Echo::ask(SocketAddr::new(up.address_of("echo.demo")?, PORT))
    })
}
