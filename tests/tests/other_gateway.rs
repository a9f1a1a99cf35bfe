//! `devbox up` against a gateway in another language that was written from docs/protocol.md: what the page says is enough.
#![cfg(target_os = "linux")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use devbox_tests::peers::{AfterEnd, Echo, Greeter, Resetter, is_closed};
use devbox_tests::services::Nginx;
use devbox_tests::{
    Caller, Exit, OtherGateway, Outcome, Result, Service, Signal, TOKEN, Up, hosts, is_release, need_program,
    scenario, wait,
};

const PORT: u16 = 7900;

fn ask(stream: &mut TcpStream) -> Result {
    stream.write_all(b"hello")?;
    let mut back = [0; 5];
    stream.read_exact(&mut back)?;
    ensure!(&back == b"hello");
    Ok(())
}

fn service(name: &str, target: SocketAddr) -> Service {
    Service::new(name, "demo", PORT, target)
}

/// The row of `service` in `devbox status` contains `text`, soon.
fn wait_for_status(up: &Up<'_>, service: &str, text: &str) -> Result {
    wait::until_ok("the service's state in `devbox status`", wait::SOON, || {
        let status = up.status(&[])?.run(wait::SOON)?.expect_success()?.output();
        let row = status.lines().find(|line| line.starts_with(service));
        ensure!(row.is_some_and(|row| row.contains(text)), "{status}");
        Ok(())
    })
}

#[test]
fn a_page_is_fetched_by_name() -> Outcome {
    scenario(|scene| {
        need_program("curl", "curl")?;
        let nginx = Nginx::start(scene)?;
        let gateway = OtherGateway::start(scene, &[service("web", nginx.address())])?;
        let up = gateway.up()?;
        let url = format!("http://web.demo:{PORT}/");
        let page = up
            .client(["curl", "--silent", "--show-error", "--fail", &url])
            .run(wait::SOON)?
            .expect_success()?;
        ensure!(page.output() == "hello from nginx\n", "{}", page.output());
        Ok(())
    })
}

#[test]
fn sixty_four_streams_at_once_carry_megabytes_both_ways() -> Outcome {
    const STREAMS: u64 = 64;
    scenario(|scene| {
        let size: usize = if is_release() { 4 << 20 } else { 2 << 20 };
        let echo = Echo::start(scene)?;
        let gateway = OtherGateway::start(scene, &[service("echo", echo.address())])?;
        let up = gateway.up()?;
        let mut streams = Vec::new();
        for _ in 0..STREAMS {
            streams.push(up.connect("echo.demo", PORT)?);
        }
        let carry = |(mut stream, seed): (TcpStream, u64)| -> Result {
            let mut writer = stream.try_clone()?;
            let sender = std::thread::spawn(move || -> Result {
                let mut random = fastrand::Rng::with_seed(seed);
                let mut part = vec![0; 64 * 1024];
                for _ in 0..size / part.len() {
                    random.fill(&mut part);
                    writer.write_all(&part)?;
                }
                Ok(writer.shutdown(Shutdown::Write)?)
            });
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut expected, mut seen) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
            for _ in 0..size / seen.len() {
                random.fill(&mut expected);
                stream.read_exact(&mut seen)?;
                ensure!(seen == expected, "stream {seed} got other bytes");
            }
            ensure!(
                stream.read(&mut seen)? == 0,
                "stream {seed} got more than it sent"
            );
            match sender.join() {
                Ok(sent) => sent,
                Err(_) => bail!("stream {seed}'s sender failed"),
            }
        };
        let outcomes: Vec<Result> = std::thread::scope(|scope| {
            let carriers: Vec<_> = streams
                .into_iter()
                .zip(0..)
                .map(|job| scope.spawn(|| carry(job)))
                .collect();
            carriers
                .into_iter()
                .map(|carrier| carrier.join().unwrap_or_else(|_| bail!("a carrier failed")))
                .collect()
        });
        outcomes.into_iter().collect()
    })
}

#[test]
fn either_side_may_end_its_direction_first() -> Outcome {
    scenario(|scene| {
        let counter = AfterEnd::start(scene)?;
        let greeter = Greeter::start(scene, "good day")?;
        let gateway = OtherGateway::start(
            scene,
            &[
                service("counter", counter.address()),
                service("greeter", greeter.address()),
            ],
        )?;
        let up = gateway.up()?;
        let mut ours_first = up.connect("counter.demo", PORT)?;
        ours_first.write_all(&vec![b'q'; 700_000])?;
        ours_first.shutdown(Shutdown::Write)?;
        let mut answer = Vec::new();
        ours_first.read_to_end(&mut answer)?;
        let line = b"got 700000 bytes\n";
        ensure!(answer.starts_with(line) && answer.len() == line.len() + AfterEnd::TAIL);

        let mut theirs_first = up.connect("greeter.demo", PORT)?;
        let mut text = String::new();
        theirs_first.read_to_string(&mut text)?;
        ensure!(text == "good day\n", "{text:?}");
        theirs_first.write_all(&vec![b'z'; 700_000])?;
        theirs_first.shutdown(Shutdown::Write)?;
        wait::until("the counted bytes", wait::SOON, || {
            (greeter.received() == 700_000).then_some(())
        })
    })
}

#[test]
fn a_refusal_and_a_reset_arrive_as_resets_and_the_refusals_reason_is_in_the_status() -> Outcome {
    scenario(|scene| {
        let resetter = Resetter::start(scene)?;
        let nobody = scene.free_address()?;
        let gateway = OtherGateway::start(
            scene,
            &[service("gone", nobody), service("rude", resetter.address())],
        )?;
        let up = gateway.up()?;
        for name in ["gone.demo", "rude.demo"] {
            let outcome = up.connect(name, PORT).and_then(|mut stream| {
                stream.write_all(b"hello")?;
                Ok(stream.read(&mut [0])?)
            });
            let Err(error) = outcome else {
                bail!("{name}: an end of file in place of a reset")
            };
            let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            ensure!(
                matches!(kind, Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)),
                "{name}: {error:#}"
            );
        }
        wait_for_status(&up, "gone.demo", &format!("{nobody}: Connection refused"))
    })
}

#[test]
fn names_come_and_go_with_the_catalog_and_a_broken_one_changes_nothing() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let (old, same, new) = (
            service("old", echo.address()),
            service("same", echo.address()),
            service("new", echo.address()),
        );
        let gateway = OtherGateway::start(scene, &[old, same.clone()])?;
        let up = gateway.up()?;
        let mut kept = up.connect("same.demo", PORT)?;
        ask(&mut kept)?;
        let former = SocketAddr::new(up.address_of("old.demo")?, PORT);
        gateway.replace(&[same.clone(), new])?;
        wait::until_ok("the new service by name", wait::SOON, || {
            ask(&mut up.connect("new.demo", PORT)?)
        })?;
        wait::until("the removed name gone", wait::SOON, || {
            hosts::lookup(up.hosts(), "old.demo").is_none().then_some(())
        })?;
        wait::until("the removed service's port closed", wait::SOON, || {
            TcpStream::connect(former).is_err().then_some(())
        })?;
        let before = std::fs::read(up.hosts())?;
        gateway.spoil("{\"environment\": ")?;
        let told = |line: &str| line.to_lowercase().contains("catalog.json");
        up.process()
            .wait_for_line("word of the stale catalog", wait::SOON, told)?;
        ensure!(std::fs::read(up.hosts())? == before);
        ask(&mut up.connect("new.demo", PORT)?)?;
        gateway.replace(&[same])?;
        wait::until("the second name gone", wait::SOON, || {
            hosts::lookup(up.hosts(), "new.demo").is_none().then_some(())
        })?;
        ask(&mut kept).context("the unchanged service's live connection")
    })
}

#[test]
fn a_wrong_token_and_a_wrong_environment_are_refused() -> Outcome {
    scenario(|scene| {
        let gateway = OtherGateway::start(scene, &[])?;
        let up = |token: &str, environment: &str| {
            scene
                .devbox(["up", "--no-hosts"])?
                .args(gateway.flags(token, environment)?)
                .by(Caller::Ordinary)
                .run(2 * wait::SOON)?
                .expect_code(1)
        };
        up("let-me-in", scene.environment())?.expect_text(&["token"])?;
        up(TOKEN, "elsewhere")?.expect_text(&["elsewhere", scene.environment()])?;
        Ok(())
    })
}

#[test]
fn a_gateway_that_was_killed_is_found_again() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let mut gateway = OtherGateway::start(scene, &[service("echo", echo.address())])?;
        let up = gateway.up()?;
        let mut cut = up.connect("echo.demo", PORT)?;
        ask(&mut cut)?;
        let mut killed = gateway.take_process()?;
        killed.signal(Signal::KILL)?;
        killed.wait(wait::SOON)?;
        ensure!(
            cut.read(&mut [0]).is_err(),
            "a cut connection ended as if all had been said"
        );
        gateway.start_again()?;
        wait::until_ok("the service through the new link", 2 * wait::SOON, || {
            ask(&mut up.connect("echo.demo", PORT)?)
        })
    })
}

#[test]
fn a_gateway_that_drains_loses_no_connection() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let mut gateway = OtherGateway::start(scene, &[service("echo", echo.address())])?;
        let up = gateway.up()?;
        let mut open = Vec::new();
        for _ in 0..20 {
            let mut stream = up.connect("echo.demo", PORT)?;
            ask(&mut stream)?;
            open.push(stream);
        }
        let mut leaving = gateway.take_process()?;
        leaving.signal(Signal::TERM)?;
        wait::until("it stops listening", wait::SOON, || {
            is_closed(gateway.address()).then_some(())
        })?;
        gateway.start_again()?;
        // New connections go to the successor while the open ones go on where they are.
        wait::until_ok("a connection through the successor", 2 * wait::SOON, || {
            ask(&mut up.connect("echo.demo", PORT)?)
        })?;
        for stream in &mut open {
            ask(stream).context("a connection that was open before")?;
        }
        ensure!(leaving.ended()?.is_none(), "it left before its streams had ended");
        for stream in &mut open {
            stream.shutdown(Shutdown::Write)?;
            ensure!(stream.read(&mut [0])? == 0);
        }
        // Well before its patience of 30 s is over.
        let exit = leaving.wait(Duration::from_secs(20))?;
        ensure!(exit == Exit::Code(0), "{exit}");
        Ok(())
    })
}
