//! Several far sides in one session: gateways, and catalogs whose targets are dialed from this machine.
#![cfg(target_os = "linux")]

use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, ensure};
use devbox_tests::peers::{Echo, Greeter, is_closed};
use devbox_tests::{
    Caller, CatalogFile, Exit, Gateway, Outcome, Process, Result, Scene, Service, Signal, Up, UpOptions,
    hosts, scenario, wait,
};

const PORT: u16 = 7250;

/// A catalog of an environment of its own, beside the scene's.
fn local_catalog(scene: &Scene, services: &[Service]) -> Result<CatalogFile> {
    CatalogFile::of_environment(scene, &format!("{}-local", scene.environment()), services)
}

/// What `name` says first.
fn greeting(up: &Up<'_>, name: &str) -> Result<String> {
    let mut text = String::new();
    up.connect(name, PORT)?.read_to_string(&mut text)?;
    Ok(text.trim_end().to_owned())
}

/// A session with a gateway and a catalog. Each has a service of its own, and both have `same.demo`.
fn with_both(
    body: impl FnOnce(&Scene, &mut Gateway<'_>, &CatalogFile, &mut Up<'_>) -> Result,
    scene: &Scene,
) -> Result {
    let far = Greeter::start(scene, "from the gateway")?;
    let near = Greeter::start(scene, "from the catalog")?;
    let service = |name: &str, greeter: &Greeter| Service::new(name, "demo", PORT, greeter.address());
    let catalog = scene.catalog(&[service("far", &far), service("same", &far)])?;
    let mut gateway = Gateway::start(scene, &catalog)?;
    let local = local_catalog(scene, &[service("near", &near), service("same", &near)])?;
    let options =
        UpOptions::new(Caller::Ordinary).arguments(["--catalog".into(), local.path().as_os_str().to_owned()]);
    let mut up = Up::start_with(&gateway, &options)?;
    body(scene, &mut gateway, &local, &mut up)
}

#[test]
fn a_gateway_and_a_catalog_are_reached_by_name_in_one_session() -> Outcome {
    scenario(|scene| {
        with_both(
            |_, gateway, local, up| {
                ensure!(greeting(up, "far.demo")? == "from the gateway");
                ensure!(greeting(up, "near.demo")? == "from the catalog");
                ensure!(
                    hosts::block_openings(up.hosts()).len() == 1,
                    "one session has one block"
                );
                let status = up.status(&[])?.run(wait::SOON)?.expect_success()?;
                status.expect_text(&[
                    &gateway.address().to_string(),
                    &local.path().display().to_string(),
                    local.environment(),
                ])?;
                up.process().signal(Signal::TERM)?;
                ensure!(up.process_mut().wait(wait::SOON)? == Exit::Code(0));
                hosts::expect_original(up.hosts())
            },
            scene,
        )
    })
}

#[test]
fn a_name_that_both_provide_goes_to_the_first_and_is_reported() -> Outcome {
    scenario(|scene| {
        with_both(
            |_, _, _, up| {
                ensure!(greeting(up, "same.demo")? == "from the gateway");
                let clash = |line: &str| {
                    line.contains("same.demo") && line.contains("gateway") && line.contains("catalog")
                };
                ensure!(
                    up.process().errors().lines().any(clash),
                    "{}",
                    up.process().errors()
                );
                let status = up.status(&[])?.run(wait::SOON)?.expect_success()?;
                ensure!(status.output().lines().any(clash), "{}", status.output());
                let json = up.status(&["--output", "json"])?.run(wait::SOON)?.json()?;
                let clashes = json["clashes"].as_array().context("no clashes")?;
                ensure!(
                    clashes.iter().any(|found| found["name"] == "same.demo"),
                    "{clashes:?}"
                );
                // The other one is still reached by the name that its environment is part of.
                let own = format!("same.demo.{}-local", up.environment());
                ensure!(greeting(up, &own)? == "from the catalog");
                Ok(())
            },
            scene,
        )
    })
}

#[test]
fn a_catalog_keeps_working_while_the_gateway_is_gone() -> Outcome {
    scenario(|scene| {
        with_both(
            |_, gateway, _, up| {
                gateway.kill()?;
                up.process()
                    .wait_for_line("word of the lost link", wait::SOON, |line| {
                        line.to_lowercase().contains("lost")
                    })?;
                ensure!(greeting(up, "near.demo")? == "from the catalog");
                ensure!(hosts::lookup(up.hosts(), "far.demo").is_some(), "its name went");
                gateway.start_again()?;
                wait::until_ok("the gateway's service again", 2 * wait::SOON, || {
                    let said = greeting(up, "far.demo")?;
                    ensure!(said == "from the gateway", "{said}");
                    Ok(())
                })
            },
            scene,
        )
    })
}

/// `up` with catalogs alone; no token anywhere.
fn up_with_catalog(scene: &Scene, catalog: &CatalogFile, file: &Path) -> Result<Process> {
    let arguments: [&std::ffi::OsStr; 4] = [
        "--catalog".as_ref(),
        catalog.path().as_ref(),
        "--hosts-file".as_ref(),
        file.as_ref(),
    ];
    let up = scene
        .devbox(["up"])?
        .args(arguments)
        .by(Caller::Ordinary)
        .start()?;
    let up = up.stop_with(Signal::TERM);
    up.wait_for_line("the line `ready`", 2 * wait::SOON, |line| {
        line.trim_end() == "ready"
    })?;
    Ok(up)
}

#[test]
fn a_catalog_alone_needs_no_gateway_and_no_token() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let service = |name: &str| Service::new(name, "demo", PORT, echo.address());
        let catalog = scene.catalog(&[service("echo")])?;
        let file = scene.hosts_file(Caller::Ordinary)?;
        let mut up = up_with_catalog(scene, &catalog, &file)?;
        let address = SocketAddr::new(hosts::address_of(&file, "echo.demo")?, PORT);
        Echo::ask(address)?;
        // It is followed as a gateway follows its own.
        catalog.replace(&[service("late")])?;
        wait::until_ok("the late service", wait::SOON, || {
            Echo::ask(SocketAddr::new(hosts::address_of(&file, "late.demo")?, PORT))
        })?;
        wait::until("the removed service's port closed", wait::SOON, || {
            is_closed(address).then_some(())
        })?;
        // A mistake in it changes nothing, and is reported.
        catalog.spoil("environment: [\n")?;
        up.wait_for_line("word of the mistake", wait::SOON, |line| {
            line.contains("not fresh") && line.contains("catalog")
        })?;
        Echo::ask(SocketAddr::new(hosts::address_of(&file, "late.demo")?, PORT))?;
        up.signal(Signal::TERM)?;
        ensure!(up.wait(wait::SOON)? == Exit::Code(0));
        hosts::expect_original(&file)
    })
}

#[test]
fn a_catalog_that_cannot_be_read_is_named_with_the_place() -> Outcome {
    scenario(|scene| {
        let bad = scene.write("bad.yaml", "environment: dev\nservices:\n  - name: NOT-A-LABEL\n")?;
        let missing = scene.folder().join("missing.yaml");
        for (file, place) in [(&bad, ":3:"), (&missing, "")] {
            let out = scene
                .devbox(["up", "--no-hosts", "--catalog"])?
                .args([file])
                .by(Caller::Ordinary)
                .run(wait::SOON)?
                .expect_code(1)?;
            out.expect_text(&[&format!("{}{place}", file.display())])?;
        }
        Ok(())
    })
}

#[test]
fn exec_sees_the_names_of_a_catalog() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let catalog = scene.catalog(&[Service::new("echo", "demo", PORT, echo.address())])?;
        let out = scene
            .devbox(["exec", "--catalog"])?
            .args([catalog.path()])
            .args(["--", "getent", "hosts", "echo.demo"])
            .by(Caller::Ordinary)
            .run(2 * wait::SOON)?
            .expect_success()?;
        out.expect_text(&["127.77.", "echo.demo"])?;
        Ok(())
    })
}

#[test]
fn the_list_of_providers_in_the_configuration_is_one_session() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let local = local_catalog(scene, &[Service::new("near", "demo", PORT, echo.address())])?;
        let text = format!(
            "providers:\n  - {{name: cluster, kind: gateway, url: \"{}\", token_file: {}, environment: {}}}\n  \
             - {{name: local, kind: direct, catalog: {}}}\n",
            gateway.url(),
            gateway.token_file(Caller::Ordinary)?.display(),
            scene.environment(),
            local.path().display()
        );
        let config = scene.write("devbox.yaml", text)?;
        let up = scene
            .devbox(["up", "--no-hosts", "--config"])?
            .args([&config])
            .by(Caller::Ordinary);
        let up = up.start()?.stop_with(Signal::TERM);
        up.wait_for_line("the line `ready`", 2 * wait::SOON, |line| {
            line.trim_end() == "ready"
        })?;
        let row = |name: &str, provider: &str| {
            let text = up.output();
            let found = text
                .lines()
                .any(|line| line.starts_with(name) && line.ends_with(provider));
            ensure!(found, "no {name} of {provider}:\n{text}");
            Ok(())
        };
        row("echo.demo", "cluster")?;
        row("near.demo", "local")
    })
}
