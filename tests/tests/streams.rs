//! What a connection through the tunnel must have in common with a direct one: every byte, half-close, resets, no delay from
//! Nagle's algorithm, and room for many.
#![cfg(target_os = "linux")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use devbox_tests::peers::{AfterEnd, Echo, Greeter, Resetter};
use devbox_tests::services::Nginx;
use devbox_tests::{
    Caller, Gateway, Outcome, Result, Road, Service, Up, is_release, need_netcat, need_program, scenario,
    wait,
};

#[test]
fn a_half_closed_connection_still_gets_its_answer() -> Outcome {
    scenario(|scene| {
        let netcat = need_netcat()?;
        let peer = AfterEnd::start(scene)?;
        let port = scene.port_like(7000)?;
        let catalog = scene.catalog(&[Service::new("counter", "demo", port, peer.address())])?;
        let gateway = Gateway::start(scene, &catalog)?;
        Road::each(&gateway, |road| {
            let out = road
                .command([&netcat])?
                .args(["-N", "counter.demo", &port.to_string()])
                .stdin(vec![b'q'; 300_000])
                .run(2 * wait::SOON)?
                .expect_success()?;
            ensure!(
                out.output().starts_with("got 300000 bytes\nxxx"),
                "{:.60}",
                out.output()
            );
            ensure!(
                out.stdout.len() == "got 300000 bytes\n".len() + AfterEnd::TAIL,
                "{} bytes",
                out.stdout.len()
            );
            Ok(())
        })
    })
}

#[test]
fn the_far_sides_end_leaves_our_direction_open() -> Outcome {
    scenario(|scene| {
        let greeter = Greeter::start(scene, "good day")?;
        let port = scene.port_like(7001)?;
        let catalog = scene.catalog(&[Service::new("greeter", "demo", port, greeter.address())])?;
        let gateway = Gateway::start(scene, &catalog)?;
        let up = Up::start(&gateway, Caller::Ordinary)?;
        let mut stream = up.connect("greeter.demo", port)?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        ensure!(text == "good day\n", "{text:?}");
        // After the end of one direction the other one still works: writing to it causes no reset.
        for _ in 0..50 {
            stream.write_all(&[b'z'; 10_000])?;
        }
        stream.shutdown(Shutdown::Write)?;
        wait::until("the counted bytes", wait::SOON, || {
            (greeter.received() == 500_000).then_some(())
        })
    })
}

#[test]
fn a_refused_port_is_a_reset_within_a_second() -> Outcome {
    scenario(|scene| {
        let port = scene.port_like(7002)?;
        let catalog = scene.catalog(&[Service::new("gone", "demo", port, scene.free_address()?)])?;
        let gateway = Gateway::start(scene, &catalog)?;
        let up = Up::start(&gateway, Caller::Ordinary)?;
        for _ in 0..5 {
            let started = Instant::now();
            let mut byte = [0];
            // The kernel accepts before the far side is asked, so the refusal may show at connect or at read. It must never be a clean
            // end of file, which a client would take for an empty answer.
            let outcome = up
                .connect("gone.demo", port)
                .and_then(|mut stream| Ok(stream.read(&mut byte)?));
            let took = started.elapsed();
            let Err(error) = outcome else {
                bail!("a clean end of file in place of a reset")
            };
            let kind = error
                .chain()
                .find_map(|cause| cause.downcast_ref::<std::io::Error>())
                .map(std::io::Error::kind);
            ensure!(
                matches!(
                    kind,
                    Some(ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused)
                ),
                "neither reset nor refusal: {error:#}"
            );
            ensure!(took < Duration::from_secs(1), "it took {took:?}");
        }
        let told = format!("gone.demo:{port}: connection refused");
        up.process()
            .wait_for_line("word of the refusal", wait::SOON, |line| line.contains(&told))?;
        let lines = up.process().errors().matches(&told).count();
        ensure!(lines == 1, "it is said {lines} times");
        Ok(())
    })
}

#[test]
fn a_reset_by_the_far_side_arrives_as_a_reset() -> Outcome {
    scenario(|scene| {
        let resetter = Resetter::start(scene)?;
        let port = scene.port_like(7003)?;
        let catalog = scene.catalog(&[Service::new("rude", "demo", port, resetter.address())])?;
        let gateway = Gateway::start(scene, &catalog)?;
        let up = Up::start(&gateway, Caller::Ordinary)?;
        let mut stream = up.connect("rude.demo", port)?;
        stream.write_all(b"hello")?;
        let mut bytes = Vec::new();
        match stream.read_to_end(&mut bytes) {
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
            Err(error) => Err(error).context("not a reset"),
            Ok(count) => bail!("a clean end after {count} bytes in place of a reset"),
        }
    })
}

#[test]
fn sixteen_kib_there_and_back_do_not_wait_for_nagle() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let port = scene.port_like(7004)?;
        let catalog = scene.catalog(&[Service::new("echo", "demo", port, echo.address())])?;
        let gateway = Gateway::start(scene, &catalog)?;
        let up = Up::start(&gateway, Caller::Ordinary)?;
        let mut stream = up.connect("echo.demo", port)?;
        stream.set_nodelay(true)?;
        for size in [1, 16 * 1024] {
            let request = vec![b'r'; size];
            let mut answer = vec![0; size];
            let mut times = Vec::new();
            for _ in 0..101 {
                let started = Instant::now();
                // In two writes, as many programs do: with Nagle's algorithm on any hop, the second waits for a delayed ACK.
                let (first, second) = request.split_at(size / 2);
                stream.write_all(first)?;
                stream.write_all(second)?;
                stream.read_exact(&mut answer)?;
                times.push(started.elapsed());
            }
            times.sort();
            // Nagle's algorithm and delayed ACKs together cost 40 ms each time. The exact figure is for the benches.
            ensure!(
                times[50] < Duration::from_millis(20),
                "median of {size} bytes: {:?}",
                times[50]
            );
        }
        Ok(())
    })
}

#[test]
fn two_hundred_connections_at_once_keep_their_bytes_apart() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let port = scene.port_like(7005)?;
        let catalog = scene.catalog(&[Service::new("echo", "demo", port, echo.address())])?;
        let gateway = Gateway::start(scene, &catalog)?;
        let up = Up::start(&gateway, Caller::Ordinary)?;
        let mut streams = Vec::new();
        for number in 0..200_u32 {
            streams.push((number, up.connect("echo.demo", port)?));
        }
        let bytes_of = |number: u32| number.to_le_bytes().repeat(4096);
        for (number, stream) in &mut streams {
            stream.write_all(&bytes_of(*number))?;
        }
        ensure!(echo.accepted() <= 200);
        for (number, stream) in &mut streams {
            let mut back = vec![0; 4096 * 4];
            stream
                .read_exact(&mut back)
                .with_context(|| format!("connection {number}"))?;
            ensure!(back == bytes_of(*number), "connection {number} got other bytes");
        }
        ensure!(echo.accepted() == 200, "{} connections arrived", echo.accepted());
        for (number, stream) in &mut streams {
            stream.shutdown(Shutdown::Write)?;
            ensure!(
                stream.read(&mut [0])? == 0,
                "connection {number} got more than it sent"
            );
        }
        Ok(())
    })
}

#[test]
fn a_reader_that_stops_does_not_stop_the_others() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let port = scene.port_like(7006)?;
        let catalog = scene.catalog(&[Service::new("echo", "demo", port, echo.address())])?;
        let gateway = Gateway::start(scene, &catalog)?;
        let up = Up::start(&gateway, Caller::Ordinary)?;
        // It writes until nothing moves anymore, and never reads.
        let mut stalled = up.connect("echo.demo", port)?;
        stalled.set_write_timeout(Some(Duration::from_millis(500)))?;
        let mut stuck = false;
        for _ in 0..4096 {
            match stalled.write(&[b's'; 64 * 1024]) {
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    stuck = true;
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        ensure!(
            stuck,
            "256 MiB were taken from a connection whose other end is not read: nothing bounds the buffers"
        );
        for _ in 0..20 {
            let mut other = up.connect("echo.demo", port)?;
            let started = Instant::now();
            other.write_all(b"still there?")?;
            let mut back = [0; 12];
            other.read_exact(&mut back)?;
            ensure!(
                started.elapsed() < Duration::from_secs(2),
                "another connection waited {:?}",
                started.elapsed()
            );
        }
        Ok(())
    })
}

#[test]
fn a_large_download_has_the_same_checksum() -> Outcome {
    scenario(|scene| {
        need_program("curl", "curl")?;
        let nginx = Nginx::start(scene)?;
        let port = scene.port_like(8081)?;
        let catalog = scene.catalog(&[Service::new("files", "demo", port, nginx.address())])?;
        let gateway = Gateway::start(scene, &catalog)?;
        let mebibytes = if is_release() { 1024 } else { 256 };
        let file = nginx.root().join("large");
        write_large(&file, mebibytes)?;
        let up = Up::start(&gateway, Caller::Ordinary)?;
        let script = format!(
            "set -e; sha256sum < {} > sum & curl -sS --fail http://files.demo:{port}/large | sha256sum > got; wait; cmp sum got",
            file.display()
        );
        up.client(["sh", "-c", &script])
            .run(Duration::from_secs(90))?
            .expect_success()?;
        Ok(())
    })
}

/// A file in which no two MiB are the same.
fn write_large(path: &std::path::Path, mebibytes: u32) -> Result {
    let mut block: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..))
        .take(1 << 20)
        .collect();
    let mut file = std::fs::File::create(path)?;
    for number in 0..mebibytes {
        block[..4].copy_from_slice(&number.to_le_bytes());
        file.write_all(&block)?;
    }
    Ok(())
}

#[test]
fn short_connections_come_and_go_by_the_hundred() -> Outcome {
    scenario(|scene| {
        let greeter = Greeter::start(scene, "next, please")?;
        let port = scene.port_like(7007)?;
        let catalog = scene.catalog(&[Service::new("greeter", "demo", port, greeter.address())])?;
        let gateway = Gateway::start(scene, &catalog)?;
        let up = Up::start(&gateway, Caller::Ordinary)?;
        let started = Instant::now();
        for _ in 0..300 {
            let mut text = String::new();
            let mut stream: TcpStream = up.connect("greeter.demo", port)?;
            stream.read_to_string(&mut text)?;
            ensure!(text == "next, please\n");
        }
        ensure!(
            started.elapsed() < 2 * wait::SOON,
            "300 connections took {:?}",
            started.elapsed()
        );
        Ok(())
    })
}
