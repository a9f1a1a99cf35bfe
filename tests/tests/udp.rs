//! UDP by name: a DNS server and iperf3 behind a gateway, many sources, and nothing left behind.
#![cfg(target_os = "linux")]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, ensure};
use devbox_tests::{
    Caller, Gateway, Outcome, Process, Result, Road, Scene, Service, Signal, Up, need_program, proc,
    scenario, wait,
};

/// dnsmasq that knows one name, by UDP and TCP.
fn dns_server(scene: &Scene) -> Result<(Process, SocketAddr)> {
    let server = need_program("dnsmasq", "dnsmasq-base")?;
    need_program("dig", "bind9-dnsutils")?;
    let address = scene.free_address()?;
    let process = scene
        .command([OsString::from(server), "--no-daemon".into()])
        .args([
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
        ])
        .args(["--host-record=orders.example,10.1.2.3".to_owned()])
        .args([
            format!("--listen-address={}", address.ip()),
            format!("--port={}", address.port()),
            "--pid-file=".to_owned(),
            "--user=".to_owned(),
        ])
        .start()?
        .stop_with(Signal::TERM);
    wait::until("dnsmasq", wait::SOON, || {
        std::net::TcpStream::connect(address).is_ok().then_some(())
    })
    .with_context(|| process.everything())?;
    Ok((process, address))
}

#[test]
fn dig_asks_a_dns_server_by_name() -> Outcome {
    scenario(|scene| {
        let (_server, address) = dns_server(scene)?;
        let port = scene.port_like(5353)?;
        let service = Service::new("dns", "backend", port, address).udp_port(port, address);
        let gateway = Gateway::start(scene, &scene.catalog(&[service])?)?;
        Road::each(&gateway, |road| {
            for by in ["+notcp", "+tcp"] {
                let out = road
                    .command(["dig", "+short", "+time=5", "+tries=2", by, "@dns.backend"])?
                    .args(["-p", &port.to_string(), "orders.example"])
                    .run(2 * wait::SOON)?
                    .expect_success()?;
                ensure!(out.output() == "10.1.2.3\n", "{by}: {}", out.everything());
            }
            Ok(())
        })
    })
}

#[test]
fn iperf3_sends_datagrams_at_a_rate_and_reports_its_loss() -> Outcome {
    scenario(|scene| {
        let server = need_program("iperf3", "iperf3")?;
        let address = scene.free_address()?;
        let _server = scene
            .command([OsString::from(server), "-s".into(), "-B".into()])
            .args([
                address.ip().to_string(),
                "-p".to_owned(),
                address.port().to_string(),
            ])
            .by(Caller::Ordinary)
            .start()?
            .stop_with(Signal::TERM);
        wait::until("iperf3", wait::SOON, || {
            std::net::TcpStream::connect(address).is_ok().then_some(())
        })?;
        let port = scene.port_like(5201)?;
        let service = Service::new("perf", "backend", port, address).udp_port(port, address);
        let gateway = Gateway::start(scene, &scene.catalog(&[service])?)?;
        Road::each(&gateway, |road| {
            let out = road
                .command([
                    "iperf3",
                    "-u",
                    "-J",
                    "-c",
                    "perf.backend",
                    "-b",
                    "20M",
                    "-t",
                    "1",
                    "-l",
                    "1200",
                ])?
                .args(["-p", &port.to_string()])
                .run(3 * wait::SOON)?
                .expect_success()?;
            let report: serde_json::Value = serde_json::from_str(&out.output())?;
            let sum = &report["end"]["sum"];
            let sent = sum["packets"].as_u64().context("no count of datagrams")?;
            let lost = sum["lost_packets"].as_i64().context("no loss")?;
            println!("{sent} datagrams of 1200 bytes at 20 Mbit/s, {lost} lost");
            ensure!(sent > 500, "{sum}");
            // A machine under load may lose some; a tunnel that loses most of them does not carry UDP.
            ensure!(lost * 10 < i64::try_from(sent)?, "{sum}");
            Ok(())
        })
    })
}

/// Answers each datagram with its source's port and what it said, on a thread that ends with the process.
fn echo() -> Result<SocketAddr> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let address = socket.local_addr()?;
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((len, source)) = socket.recv_from(&mut buffer) {
            let answer = format!("{} {}", source.port(), String::from_utf8_lossy(&buffer[..len]));
            // Its source may be gone.
            drop(socket.send_to(answer.as_bytes(), source));
        }
    });
    Ok(address)
}

#[test]
fn a_thousand_sources_are_told_apart_and_kill_9_leaves_nothing() -> Outcome {
    scenario(|scene| {
        let port = scene.port_like(7777)?;
        let to = echo()?;
        let service = Service::new("echo", "backend", port, to).udp_port(port, to);
        let gateway = Gateway::start(scene, &scene.catalog(&[service])?)?;
        let mut up = Up::start(&gateway, Caller::Ordinary)?;
        let address = SocketAddr::new(up.address_of("echo.backend")?, port);
        let mut sources = Vec::new();
        let mut ports = BTreeSet::new();
        for number in 0..1000 {
            let source = UdpSocket::bind("127.0.0.1:0")?;
            source.connect(address)?;
            source.set_read_timeout(Some(Duration::from_secs(10)))?;
            source.send(format!("{number}").as_bytes())?;
            sources.push(source);
        }
        for (number, source) in sources.iter().enumerate() {
            let mut buffer = [0; 64];
            let len = source
                .recv(&mut buffer)
                .with_context(|| format!("source {number}"))?;
            let answer = String::from_utf8_lossy(&buffer[..len]).into_owned();
            let (port, said) = answer.split_once(' ').context("no answer of ours")?;
            ensure!(said == number.to_string(), "{answer} for source {number}");
            ports.insert(port.to_owned());
        }
        ensure!(ports.len() == 1000, "{} ports at the far side", ports.len());
        let status = up
            .status(&["--json"])?
            .run(wait::SOON)?
            .expect_success()?
            .output();
        ensure!(status.contains("\"max_datagram\""), "{status}");

        let below = proc::descendants(up.process().pid());
        up.process().signal(Signal::KILL)?;
        up.process_mut().wait(wait::SOON)?;
        proc::wait_until_gone(&below, wait::SOON)?;
        // The port is free at once.
        UdpSocket::bind(address).context("after the kill")?;
        Ok(())
    })
}
