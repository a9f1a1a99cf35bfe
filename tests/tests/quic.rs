//! A session over QUIC: TCP and UDP, a gateway that is killed, and what is left.
#![cfg(target_os = "linux")]

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::ensure;
use devbox_tests::peers::Echo;
use devbox_tests::{Caller, Exit, Gateway, Outcome, Result, Service, Signal, Up, hosts, scenario, wait};

const PORT: u16 = 7830;

/// Answers each datagram with itself, on a thread that ends with the process.
fn udp_echo() -> Result<SocketAddr> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let address = socket.local_addr()?;
    std::thread::spawn(move || {
        let mut buffer = [0; 65_536];
        while let Ok((len, source)) = socket.recv_from(&mut buffer) {
            // Its source may be gone.
            drop(socket.send_to(&buffer[..len], source));
        }
    });
    Ok(address)
}

/// Sends a datagram of each size and gets it back. One may be lost anywhere: it is asked for again.
fn ask_udp(at: SocketAddr) -> Result {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(at)?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    // Within a packet of QUIC's, and beyond.
    for size in [1_u8, 100, 200] {
        let said = vec![size; usize::from(size) * 40];
        wait::until_ok("a datagram's answer", wait::SOON, || {
            socket.send(&said)?;
            let mut heard = vec![0; 65_536];
            let len = socket.recv(&mut heard)?;
            ensure!(heard[..len] == said, "{len} bytes, or others");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_session_over_quic_carries_tcp_and_udp_and_outlives_its_gateway() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let service = Service::new("echo", "demo", PORT, echo.address()).udp_port(PORT, udp_echo()?);
        let mut gateway = Gateway::over_tls(scene, &scene.catalog(&[service])?, "quic")?;
        let mut up = Up::start(&gateway, Caller::Ordinary)?;
        let at = SocketAddr::new(up.address_of("echo.demo")?, PORT);
        Echo::ask(at)?;
        ask_udp(at)?;
        let told = up.status(&[])?.run(wait::SOON)?.expect_success()?;
        told.expect_text(&["over QUIC"])?;

        gateway.kill()?;
        gateway.start_again()?;
        // The new gateway does not know the link, and says so: the client need not wait until silence has lasted for 20 s.
        let killed = std::time::Instant::now();
        wait::until_ok("TCP through the new gateway", 4 * wait::SOON, || Echo::ask(at))?;
        let took = killed.elapsed();
        ensure!(took < Duration::from_secs(10), "{took:?}");
        ask_udp(at)?;
        ensure!(up.address_of("echo.demo")? == at.ip(), "its address stays");

        up.process().signal(Signal::TERM)?;
        ensure!(up.process_mut().wait(wait::SOON)? == Exit::Code(0));
        hosts::expect_original(up.hosts())
    })
}
