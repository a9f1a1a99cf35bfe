//! What is in the hosts file: which names, on which lines, and how often it is written.
#![cfg(target_os = "linux")]

use std::collections::BTreeSet;

use anyhow::ensure;
use devbox_tests::peers::Echo;
use devbox_tests::{Caller, Gateway, Outcome, Result, Service, Signal, Up, UpOptions, hosts, scenario, wait};

const PORT: u16 = 7800;

/// The lines between our markers, split into words, without comments.
fn block(up: &Up<'_>) -> Result<Vec<Vec<String>>> {
    let bytes = std::fs::read(up.hosts())?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let lines = text
        .lines()
        .skip_while(|line| !line.starts_with("# BEGIN devbox-"))
        .skip(1);
    let lines = lines
        .take_while(|line| !line.starts_with("# END devbox-"))
        .filter(|line| !line.starts_with('#'));
    Ok(lines
        .map(|line| line.split_ascii_whitespace().map(str::to_owned).collect())
        .collect())
}

#[test]
fn a_hundred_services_are_few_writes_and_short_lines() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let services: Vec<Service> = (0..100)
            .map(|number| Service::new(&format!("s{number}"), "many", PORT, echo.address()))
            .collect();
        let catalog = scene.catalog(&services)?;
        let gateway = Gateway::start(scene, &catalog)?;
        let file = scene.hosts_file(Caller::Ordinary)?;
        let watch = hosts::Watch::start(&file)?;
        let mut up = Up::start_with(&gateway, &UpOptions::new(Caller::Ordinary).hosts(&file))?;
        let writes = watch.changes()?;
        // One write per batch of about ten milliseconds. A slow machine may need several, but never one per name.
        ensure!((1..=6).contains(&writes), "{writes} writes for one catalog");
        let lines = block(&up)?;
        let addresses: BTreeSet<&String> = lines.iter().filter_map(|line| line.first()).collect();
        ensure!(addresses.len() == 100, "{} addresses", addresses.len());
        for line in &lines {
            // Windows reads nine names per line, and old resolvers 512 bytes.
            ensure!(line.len() <= 1 + 9 && line.join(" ").len() <= 510, "{line:?}");
        }
        for number in [0, 57, 99] {
            up.connect(&format!("s{number}.many"), PORT)?;
        }
        up.process().signal(Signal::TERM)?;
        up.process_mut().wait(wait::SOON)?;
        let writes = watch.changes()?;
        ensure!((1..=6).contains(&writes), "{writes} writes to undo it");
        hosts::expect_original(&file)
    })
}

#[test]
fn a_catalog_cannot_take_names_that_are_somebodys() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let at = echo.address();
        let catalog = scene.catalog(&[
            Service::new("localhost", "demo", PORT, at),
            Service::new("web", "localhost", PORT, at),
            Service::new("web", "local", PORT, at),
            Service::new("github", "com", PORT, at),
            Service::new("last", "lan", PORT, at),
            Service::new("wpad", "lan", PORT, at),
        ])?;
        let gateway = Gateway::start(scene, &catalog)?;
        let up = Up::start_with(
            &gateway,
            &UpOptions::new(Caller::Ordinary).arguments(["--namespace", "demo"]),
        )?;
        let lines = block(&up)?;
        let names: BTreeSet<&str> = lines
            .iter()
            .flat_map(|line| &line[1..])
            .map(String::as_str)
            .collect();
        for taken in [
            "localhost",
            "web.localhost",
            "web.local",
            "github.com",
            "last.lan",
        ] {
            ensure!(!names.contains(taken), "{taken} was taken: {names:?}");
        }
        for ours in ["github.com.svc", "web.localhost.svc.cluster.local"] {
            ensure!(names.contains(ours), "{ours} is not there: {names:?}");
        }
        ensure!(hosts::address_of(up.hosts(), "localhost")?.to_string() == "127.0.0.1");
        // Where a name is missing, it is told that it is, and why: in a line, in the table and in the status.
        let said = up.process().everything();
        let why = [
            "localhost.demo has no name here: it is a name of the machine itself",
            "wpad.lan has no name here: programs look it up by themselves",
            "web.localhost is not published: it is a name of the machine itself",
            "web.local is not published: ",
            "github.com is not published: ",
        ];
        for line in why {
            ensure!(
                said.matches(line).count() == 1,
                "{line:?} is not said once: {said}"
            );
        }
        ensure!(said.contains("wpad.lan (no name)"), "{said}");
        up.status(&[])?
            .run(wait::SOON)?
            .expect_success()?
            .expect_text(&why)?;
        Ok(())
    })
}

#[test]
fn the_active_namespace_owns_the_short_names() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let at = echo.address();
        let catalog = scene.catalog(&[
            Service::new("web", "north", PORT, at),
            Service::new("web", "south", PORT, at),
        ])?;
        let gateway = Gateway::start(scene, &catalog)?;
        let up = Up::start_with(
            &gateway,
            &UpOptions::new(Caller::Ordinary).arguments(["--namespace", "south"]),
        )?;
        ensure!(up.address_of("web")? == up.address_of("web.south")?);
        ensure!(up.address_of("web.north")? != up.address_of("web.south")?);
        drop(up);
        let up = Up::start(&gateway, Caller::Ordinary)?;
        ensure!(
            hosts::lookup(up.hosts(), "web").is_none(),
            "a short name without an active namespace"
        );
        Ok(())
    })
}

#[test]
fn ports_of_one_service_share_its_address_and_services_do_not() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let at = echo.address();
        let catalog = scene.catalog(&[
            Service::new("both", "demo", PORT, at).port(PORT + 1, at),
            Service::new("other", "demo", PORT, at),
        ])?;
        let gateway = Gateway::start(scene, &catalog)?;
        let up = Up::start(&gateway, Caller::Ordinary)?;
        up.connect("both.demo", PORT)?;
        up.connect("both.demo", PORT + 1)?;
        ensure!(up.address_of("both.demo")? != up.address_of("other.demo")?);
        ensure!(
            up.connect("other.demo", PORT + 1).is_err(),
            "a port that the service does not have"
        );
        Ok(())
    })
}

#[test]
fn nothing_is_dialled_before_a_program_connects() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let catalog = scene.catalog(&[Service::new("echo", "demo", PORT, echo.address())])?;
        let gateway = Gateway::start(scene, &catalog)?;
        let up = Up::start(&gateway, Caller::Ordinary)?;
        up.status(&[])?.run(wait::SOON)?.expect_success()?;
        ensure!(
            echo.accepted() == 0,
            "the service was connected to by nobody's wish"
        );
        Ok(())
    })
}
