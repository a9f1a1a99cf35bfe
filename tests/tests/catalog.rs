//! The far side changes while a session runs: services come and go, the catalog breaks, the gateway goes away.
#![cfg(target_os = "linux")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use devbox_tests::peers::Echo;
use devbox_tests::{Caller, Gateway, Outcome, Result, Scene, Service, Signal, Up, hosts, scenario, wait};

const PORT: u16 = 7300;

/// The time from editing the catalog's file until the service can be reached by name.
const LIMIT: Duration = Duration::from_secs(1);

fn service(name: &str, echo: &Echo) -> Service {
    Service::new(name, "demo", PORT, echo.address())
}

fn ask(stream: &mut TcpStream) -> Result {
    stream.write_all(b"hello")?;
    let mut back = [0; 5];
    stream.read_exact(&mut back)?;
    ensure!(&back == b"hello");
    Ok(())
}

fn with_session(
    body: impl FnOnce(&Scene, &Echo, &mut Gateway<'_>, &mut Up<'_>) -> Result,
    scene: &Scene,
) -> Result {
    let echo = Echo::start(scene)?;
    let catalog = scene.catalog(&[service("old", &echo), service("same", &echo)])?;
    let mut gateway = Gateway::start(scene, &catalog)?;
    let mut up = Up::start(&gateway, Caller::Ordinary)?;
    body(scene, &echo, &mut gateway, &mut up)
}

/// One edit that removes `old` and adds `new`, by one of the ways in which files are edited.
fn edited_by(scene: &Scene, edit: impl Fn(&Gateway<'_>, &[Service]) -> Result) -> Result {
    with_session(
        |_, echo, gateway, up| {
            let mut kept = up.connect("same.demo", PORT)?;
            ask(&mut kept)?;
            let old = SocketAddr::new(up.address_of("old.demo")?, PORT);
            let same = up.address_of("same.demo")?;
            let edited = Instant::now();
            edit(gateway, &[service("new", echo), service("same", echo)])?;
            let mut stream = wait::until_ok("the new service by name", wait::SOON, || {
                up.connect("new.demo", PORT)
            })?;
            ask(&mut stream)?;
            let took = edited.elapsed();
            ensure!(took <= LIMIT, "the new service was reachable after {took:?}");
            let limit = Duration::from_secs(1);
            wait::until("the removed name gone", limit, || {
                hosts::lookup(up.hosts(), "old.demo").is_none().then_some(())
            })?;
            wait::until("the removed service's port closed", limit, || {
                TcpStream::connect(old).is_err().then_some(())
            })?;
            ensure!(up.address_of("same.demo")? == same, "the unchanged service moved");
            ask(&mut kept).context("the unchanged service's live connection")?;
            Ok(())
        },
        scene,
    )
}

#[test]
fn an_edit_in_place_arrives() -> Outcome {
    scenario(|scene| {
        edited_by(scene, |gateway, services| {
            gateway.catalog().edit_in_place(services)
        })
    })
}

#[test]
fn a_replaced_file_arrives() -> Outcome {
    scenario(|scene| edited_by(scene, |gateway, services| gateway.catalog().replace(services)))
}

#[test]
fn a_replaced_file_with_an_old_time_arrives() -> Outcome {
    scenario(|scene| {
        edited_by(scene, |gateway, services| {
            gateway.catalog().replace_by_older(services)
        })
    })
}

#[test]
fn a_changed_port_moves_only_that_service() -> Outcome {
    scenario(|scene| {
        with_session(
            |_, echo, gateway, up| {
                let mut kept = up.connect("same.demo", PORT)?;
                ask(&mut kept)?;
                let moved = Service::new("old", "demo", PORT + 1, echo.address());
                gateway.catalog().replace(&[moved, service("same", echo)])?;
                let mut stream =
                    wait::until_ok("the new port", wait::SOON, || up.connect("old.demo", PORT + 1))?;
                ask(&mut stream)?;
                let former = SocketAddr::new(up.address_of("old.demo")?, PORT);
                wait::until("the former port closed", wait::SOON, || {
                    TcpStream::connect(former).is_err().then_some(())
                })?;
                ask(&mut kept)
            },
            scene,
        )
    })
}

#[test]
fn a_new_target_is_dialled_by_new_connections() -> Outcome {
    scenario(|scene| {
        with_session(
            |scene, echo, gateway, up| {
                let other = Echo::start(scene)?;
                gateway
                    .catalog()
                    .replace(&[service("old", &other), service("same", echo)])?;
                wait::until_ok("a connection to the new target", wait::SOON, || {
                    ask(&mut up.connect("old.demo", PORT)?)?;
                    ensure!(other.accepted() > 0);
                    Ok(())
                })
            },
            scene,
        )
    })
}

#[test]
fn a_broken_catalog_leaves_the_last_good_one_in_force() -> Outcome {
    scenario(|scene| {
        with_session(
            |_, echo, gateway, up| {
                let mut kept = up.connect("old.demo", PORT)?;
                let before = std::fs::read(up.hosts())?;
                gateway
                    .catalog()
                    .spoil("environment: dev\nservices:\n  - name: [oops\n")?;
                let file = gateway.catalog().path().display().to_string();
                let told = gateway
                    .process()?
                    .wait_for_line("word of the broken file", wait::SOON, |line| {
                        line.contains(&file) && line.contains('3')
                    });
                told.context("the gateway names the file and the line")?;
                up.process()
                    .wait_for_line("word of the stale catalog", wait::SOON, |line| {
                        line.to_lowercase().contains("catalog")
                    })?;
                ask(&mut kept)?;
                ask(&mut up.connect("same.demo", PORT)?)?;
                ensure!(std::fs::read(up.hosts())? == before);
                // A new client gets the last good one too.
                let other = Up::start(gateway, Caller::own())?;
                ask(&mut other.connect("old.demo", PORT)?)?;
                drop(other);
                gateway
                    .catalog()
                    .edit_in_place(&[service("old", echo), service("mended", echo)])?;
                let mut stream = wait::until_ok("the mended catalog", wait::SOON, || {
                    up.connect("mended.demo", PORT)
                })?;
                ask(&mut stream)
            },
            scene,
        )
    })
}

#[test]
fn text_that_turns_direction_is_shown_as_what_it_is() -> Outcome {
    const TURNING: char = '\u{202e}';
    scenario(|scene| {
        with_session(
            |scene, _, gateway, up| {
                gateway
                    .catalog()
                    .spoil(&format!("environment: dev\nservices: []\npay{TURNING}lap: 1\n"))?;
                up.process()
                    .wait_for_line("word of the stale catalog", wait::SOON, |line| {
                        line.contains("not fresh") && line.contains("lap")
                    })?;
                let text = up.status(&[])?.run(wait::SOON)?.expect_success()?.everything();
                let json = up
                    .status(&["--output", "json"])?
                    .run(wait::SOON)?
                    .expect_success()?;
                let bad = scene.write("devbox.yaml", format!("pay{TURNING}lap: 1\n"))?;
                let refused = scene
                    .devbox(["up", "--config"])?
                    .args([&bad])
                    .by(Caller::Ordinary)
                    .run(wait::SOON)?
                    .expect_code(1)?;
                let file = scene.write("turning-hosts", format!("127.0.0.1 web # pay{TURNING}lap\n"))?;
                let listed = scene
                    .devbox(["hosts", "--file"])?
                    .args([&file])
                    .args(["list"])
                    .by(Caller::Ordinary)
                    .run(wait::SOON)?
                    .expect_success()?;
                let printed = [
                    up.process().everything(),
                    gateway.process()?.everything(),
                    text,
                    json.everything(),
                    refused.everything(),
                    listed.everything(),
                ];
                for text in printed {
                    ensure!(!text.contains(TURNING), "{text:?}");
                }
                ensure!(
                    refused.errors().contains("pay\u{fffd}lap"),
                    "{}",
                    refused.errors()
                );
                Ok(())
            },
            scene,
        )
    })
}

#[test]
fn a_lost_gateway_is_told_and_found_again() -> Outcome {
    scenario(|scene| {
        with_session(
            |_, echo, gateway, up| {
                let mut cut = up.connect("same.demo", PORT)?;
                ask(&mut cut)?;
                let before = std::fs::read(up.hosts())?;
                gateway.kill()?;
                up.process()
                    .wait_for_line("word of the lost link", wait::SOON, |line| {
                        line.to_lowercase().contains("lost")
                    })?;
                // A cut connection is reset, not ended cleanly.
                ensure!(
                    cut.read(&mut [0]).is_err(),
                    "a cut connection ended as if all had been said"
                );
                ensure!(std::fs::read(up.hosts())? == before, "the names did not stay");
                // The listener stays, and a connection made meanwhile is refused in time rather than left hanging.
                let started = Instant::now();
                let meanwhile = up
                    .connect("same.demo", PORT)
                    .and_then(|mut stream| Ok(stream.read(&mut [0])?));
                ensure!(
                    meanwhile.is_err() && started.elapsed() < wait::SOON,
                    "{meanwhile:?} after {:?}",
                    started.elapsed()
                );
                // Edited while the gateway was down.
                gateway
                    .catalog()
                    .replace(&[service("new", echo), service("same", echo)])?;
                gateway.start_again()?;
                wait::until_ok("the service through the new link", 2 * wait::SOON, || {
                    ask(&mut up.connect("same.demo", PORT)?)
                })?;
                wait::until_ok("the service that is new", wait::SOON, || {
                    ask(&mut up.connect("new.demo", PORT)?)
                })?;
                wait::until("the removed name gone", wait::SOON, || {
                    hosts::lookup(up.hosts(), "old.demo").is_none().then_some(())
                })?;
                up.process()
                    .wait_for_line("word of the new link", wait::SOON, |line| {
                        line.contains("connected again")
                    })?;
                up.process().signal(Signal::TERM)?;
                up.process_mut().wait(wait::SOON)?;
                hosts::expect_original(up.hosts())
            },
            scene,
        )
    })
}

#[test]
fn a_session_ends_in_time_while_the_gateway_is_away() -> Outcome {
    scenario(|scene| {
        with_session(
            |_, _, gateway, up| {
                gateway.kill()?;
                up.process()
                    .wait_for_line("word of the lost link", wait::SOON, |line| {
                        line.to_lowercase().contains("lost")
                    })?;
                let started = Instant::now();
                up.process().signal(Signal::TERM)?;
                up.process_mut().wait(wait::SOON)?;
                ensure!(
                    started.elapsed() < Duration::from_secs(5),
                    "it took {:?}",
                    started.elapsed()
                );
                hosts::expect_original(up.hosts())
            },
            scene,
        )
    })
}

#[test]
fn an_empty_catalog_is_ready_and_changes_nothing() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let catalog = scene.catalog(&[])?;
        let gateway = Gateway::start(scene, &catalog)?;
        let up = Up::start(&gateway, Caller::Ordinary)?;
        hosts::expect_original(up.hosts())?;
        gateway.catalog().replace(&[service("first", &echo)])?;
        wait::until_ok("the first service", wait::SOON, || {
            ask(&mut up.connect("first.demo", PORT)?)
        })?;
        gateway.catalog().replace(&[])?;
        wait::until("no block", wait::SOON, || {
            hosts::is_original(up.hosts()).then_some(())
        })
    })
}
