//! Which address a service has, and why it keeps it: the hash of its name, a pin, the team's lock file.
#![cfg(target_os = "linux")]

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, ensure};
use devbox_tests::peers::Echo;
use devbox_tests::{
    Caller, Gateway, Invocation, Outcome, Result, Scene, Service, Signal, Up, files_below, hosts, scenario,
    wait,
};

const PORT: u16 = 7900;

/// `devbox ip …` as the user whose sessions these are.
fn ip<'a>(scene: &'a Scene, arguments: &[&str]) -> Result<Invocation<'a>> {
    Ok(scene
        .devbox(["ip"])?
        .args(arguments.iter().copied())
        .by(Caller::Ordinary))
}

fn key(scene: &Scene) -> String {
    format!("{}/demo/echo", scene.environment())
}

/// The address of `echo.demo` in a session that is started in `folder`, used for an echo, and ended.
fn address_in_session(gateway: &Gateway<'_>, folder: &std::path::Path) -> Result<IpAddr> {
    let scene = gateway.scene();
    let file = scene.hosts_file(Caller::Ordinary)?;
    let up = gateway
        .devbox("up", Caller::Ordinary)?
        .args(["--hosts-file"])
        .args([&file])
        .in_folder(folder)
        .start()?;
    let mut up = up.stop_with(Signal::TERM);
    up.wait_for_line("the line `ready`", 2 * wait::SOON, |line| line == "ready")?;
    let address = hosts::address_of(&file, "echo.demo")?;
    Echo::ask(SocketAddr::new(address, PORT))?;
    up.signal(Signal::TERM)?;
    up.wait(wait::SOON)?;
    Ok(address)
}

#[test]
fn the_address_is_known_before_the_first_session() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let told = ip(scene, &["get", &key(scene)])?
            .run(wait::SOON)?
            .expect_success()?
            .output();
        let folder = scene.working_directory(Caller::Ordinary)?;
        let address = address_in_session(&gateway, &folder)?;
        ensure!(told.contains(&address.to_string()), "{told:?} is not {address}");
        Ok(())
    })
}

#[test]
fn a_pin_is_kept() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let folder = scene.working_directory(Caller::Ordinary)?;
        let drawn = || format!("127.77.{}.{}", fastrand::u8(..), fastrand::u8(2..=250));
        let (first, second) = (drawn(), drawn());
        ip(scene, &["pin", &key(scene), &first])?
            .run(wait::SOON)?
            .expect_success()?;
        let address = address_in_session(&gateway, &folder)?;
        ensure!(address.to_string() == first, "{address} in place of {first}");
        // A key keeps its address for those who know it, unless it is told to release it.
        let refused = ip(scene, &["pin", &key(scene), &second])?
            .run(wait::SOON)?
            .expect_code(1)?;
        refused.expect_text(&[&first, "release"])?;
        ip(scene, &["release", &key(scene)])?
            .run(wait::SOON)?
            .expect_success()?;
        ip(scene, &["pin", &key(scene), &second])?
            .run(wait::SOON)?
            .expect_success()?;
        let address = address_in_session(&gateway, &folder)?;
        ensure!(address.to_string() == second, "{address} in place of {second}");
        Ok(())
    })
}

#[test]
fn a_service_that_goes_rests_and_holds_its_address_again_when_it_comes_back() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let catalog = |names: &[&str]| -> Vec<Service> {
            let service = |name: &&str| Service::new(name, "demo", PORT, echo.address());
            names.iter().map(service).collect()
        };
        let gateway = Gateway::start(scene, &scene.catalog(&catalog(&["echo", "same"]))?)?;
        // Known from an earlier session.
        address_in_session(&gateway, &scene.working_directory(Caller::Ordinary)?)?;
        let up = Up::start(&gateway, Caller::Ordinary)?;
        let address = up.address_of("echo.demo")?;
        let becomes = |state: &str| {
            wait::until(&format!("the key {state}"), wait::SOON, || {
                let list = ip(scene, &["list"])
                    .and_then(|ip| ip.run(wait::SOON))
                    .ok()?
                    .output();
                let mut lines = list.lines().filter(|line| line.contains(&key(scene)));
                lines.find(|line| line.contains(&address.to_string()) && line.contains(state))?;
                Some(())
            })
        };
        becomes("live")?;
        gateway.catalog().edit_in_place(&catalog(&["same"]))?;
        becomes("resting")?;
        gateway.catalog().edit_in_place(&catalog(&["echo", "same"]))?;
        becomes("live")?;
        ensure!(
            up.address_of("echo.demo")? == address,
            "the service came back elsewhere"
        );
        Ok(())
    })
}

#[test]
fn each_pool_keeps_what_is_its_own() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let project = scene.folder_of("project", Caller::Ordinary)?;
        let folder = scene.working_directory(Caller::Ordinary)?;
        std::fs::write(project.join("devbox.yaml"), "pool: [127.88.4.0/24]\n")?;
        let small = |arguments: &[&str]| -> Result<String> {
            let run = ip(scene, arguments)?.in_folder(&project).run(wait::SOON)?;
            Ok(run.expect_success()?.output())
        };
        let large = |arguments: &[&str]| -> Result<String> {
            Ok(ip(scene, arguments)?.run(wait::SOON)?.expect_success()?.output())
        };

        let pinned = format!("127.88.4.{}", fastrand::u8(2..=250));
        small(&["pin", &key(scene), &pinned])?;
        let address = address_in_session(&gateway, &project)?;
        ensure!(address.to_string() == pinned, "{address} in place of {pinned}");
        let address = address_in_session(&gateway, &folder)?;
        ensure!(address.to_string().starts_with("127.77."), "{address}");

        // Both are kept, each with its own address.
        let (small, large) = (small(&["list"])?, large(&["list"])?);
        ensure!(
            small.contains(&pinned) && small.contains("live, pinned"),
            "{small}"
        );
        ensure!(
            large.contains(&address.to_string()) && !large.contains("pinned"),
            "{large}"
        );
        Ok(())
    })
}

#[test]
fn the_teams_lock_file_decides() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let project = scene.folder_of("project", Caller::Ordinary)?;
        std::fs::write(project.join("devbox.yaml"), "names: {}\n")?;
        let own = address_in_session(&gateway, &project)?;
        ensure!(
            files_below(&project).len() == 1,
            "a session wrote into the project: {:?}",
            files_below(&project)
        );
        ip(scene, &["lock"])?
            .in_folder(&project)
            .run(wait::SOON)?
            .expect_success()?;
        let file = project.join("devbox.lock");
        let text = std::fs::read_to_string(&file).context("`devbox ip lock` wrote no devbox.lock")?;
        ensure!(
            text.contains(&key(scene)) && text.contains(&own.to_string()),
            "{text}"
        );
        // A colleague's choice, as it arrives through git, for someone without any state.
        let theirs = format!("127.77.{}.{}", fastrand::u8(..), fastrand::u8(2..=250));
        std::fs::write(&file, text.replace(&own.to_string(), &theirs))?;
        let home = scene.home(Caller::Ordinary)?;
        std::fs::remove_dir_all(&home)?;
        let address = address_in_session(&gateway, &project)?;
        ensure!(address.to_string() == theirs, "{address} in place of {theirs}");
        Ok(())
    })
}

#[test]
fn a_merge_conflict_in_the_lock_file_is_named_and_nothing_is_renumbered() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let project = scene.folder_of("project", Caller::Ordinary)?;
        std::fs::write(project.join("devbox.yaml"), "names: {}\n")?;
        address_in_session(&gateway, &project)?;
        ip(scene, &["lock"])?
            .in_folder(&project)
            .run(wait::SOON)?
            .expect_success()?;
        let file = project.join("devbox.lock");
        let text = std::fs::read_to_string(&file)?;
        std::fs::write(
            &file,
            format!("<<<<<<< ours\n{text}=======\n{text}>>>>>>> theirs\n"),
        )?;
        let up = gateway
            .devbox("up", Caller::Ordinary)?
            .args(["--no-hosts"])
            .in_folder(&project);
        let out = up.run(2 * wait::SOON)?.expect_code(1)?;
        out.expect_text(&["devbox.lock", "conflict"])?;
        Ok(())
    })
}
