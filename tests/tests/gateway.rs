//! `devbox gateway serve`: whom it lets in, where it listens, and what it reports about its files.
#![cfg(target_os = "linux")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::ensure;
use devbox_tests::peers::Echo;
use devbox_tests::{
    Caller, Exit, Gateway, Invocation, Outcome, Result, Scene, Service, Signal, Up, hosts, scenario, wait,
};

fn serve<'a>(scene: &'a Scene, listen: &str, catalog: &str) -> Result<Invocation<'a>> {
    let catalog = scene.write("catalog.yaml", catalog)?;
    let tokens = scene.write_secret("tokens", "t0ken\n", Caller::Ordinary)?;
    let command = scene
        .devbox(["gateway", "serve", "--listen", listen, "--catalog"])?
        .args([catalog]);
    Ok(command.args(["--token-file"]).args([tokens]).by(Caller::Ordinary))
}

#[test]
fn it_listens_to_other_machines_only_with_tls_or_when_told() -> Outcome {
    scenario(|scene| {
        for listen in ["0.0.0.0:0", "[::]:0"] {
            let out = serve(scene, listen, "environment: dev\nservices: []\n")?
                .run(wait::SOON)?
                .expect_code(1)?;
            out.expect_text(&["--tls-cert", "--insecure"])?;
        }
        Ok(())
    })
}

#[test]
fn it_does_not_start_with_a_broken_catalog_and_says_where() -> Outcome {
    scenario(|scene| {
        let broken = [
            ("environment: dev\nservices:\n  - name: [oops\n", "3"),
            (
                "environment: dev\nservices:\n  - name: ok\n    namespace: Bad_Label\n    ports: [{port: 1, target: \"127.0.0.1:1\"}]\n",
                "4",
            ),
            (
                "environment: dev\nservices:\n  - name: ok\n    namespace: b\n    ports: [{port: 70000, target: \"127.0.0.1:1\"}]\n",
                "5",
            ),
            (
                "environment: dev\nservices:\n  - name: ok\n    namespace: b\n    ports: [{port: 1, target: \"127.0.0.1:1\", tls: yes}]\n",
                "5",
            ),
        ];
        let own = scene.address();
        for (text, line) in broken {
            let out = serve(scene, &format!("{own}:0"), text)?
                .run(wait::SOON)?
                .expect_code(1)?;
            out.expect_text(&["catalog.yaml", line])?;
        }
        Ok(())
    })
}

#[test]
fn it_answers_a_browser_and_refuses_strangers() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let catalog = scene.catalog(&[Service::new("echo", "demo", 7700, echo.address())])?;
        let gateway = Gateway::start(scene, &catalog)?;
        let get = |path: &str, more: &str| -> Result<String> {
            let mut stream = TcpStream::connect(gateway.address())?;
            stream.set_read_timeout(Some(wait::SOON))?;
            let host = gateway.address();
            stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n").as_bytes())?;
            let mut answer = Vec::new();
            // A reset after the answer is fine here.
            stream.read_to_end(&mut answer).ok();
            Ok(String::from_utf8_lossy(&answer).into_owned())
        };
        let upgrade = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let upgrade =
            upgrade.to_owned() + "Connection: Upgrade\r\nSec-WebSocket-Protocol: devbox-tunnel.1\r\n";
        let answer = get("/", "Connection: close\r\n")?;
        ensure!(
            answer.starts_with("HTTP/1.1 ") && answer.to_lowercase().contains("devbox"),
            "{answer}"
        );
        let answer = get("/elsewhere", &upgrade)?;
        ensure!(answer.starts_with("HTTP/1.1 404"), "{answer}");
        let path = "/kube/devbox/tunnel/client/s-1";
        for token in [
            "",
            "Authorization: Bearer wrong\r\n",
            "Authorization: Bearer \r\n",
        ] {
            let answer = get(
                path,
                &format!("{upgrade}{token}Devbox-Environment: {}\r\n", scene.environment()),
            )?;
            ensure!(answer.starts_with("HTTP/1.1 401"), "{token:?}: {answer}");
        }
        Ok(())
    })
}

#[test]
fn it_ends_on_a_signal_with_0() -> Outcome {
    scenario(|scene| {
        for signal in [Signal::TERM, Signal::INT] {
            let address = scene.free_address()?;
            let mut gateway =
                serve(scene, &address.to_string(), "environment: dev\nservices: []\n")?.start()?;
            let connect = || Ok(TcpStream::connect(address)?);
            let _open = wait::until_ok("a listening gateway", wait::SOON, connect)?;
            gateway.signal(signal)?;
            ensure!(gateway.wait(wait::SOON)? == Exit::Code(0));
        }
        Ok(())
    })
}

#[test]
fn it_ends_when_nobody_is_connected_and_takes_the_token_in_a_header_of_its_own() -> Outcome {
    scenario(|scene| {
        let address = scene.free_address()?;
        let mut gateway = scene
            .devbox([
                "gateway",
                "serve",
                "--catalog-from-clients",
                "--token-env",
                "GATEWAY_TOKEN",
            ])?
            .args(["--listen", &address.to_string(), "--exit-when-idle", "2s"])
            .env("GATEWAY_TOKEN", "t0ken")
            .by(Caller::Ordinary)
            .start()?;
        // What an API server passes on: without Authorization, or with one that is meant for somebody else.
        let ask = |more: &str| -> Result<(TcpStream, String)> {
            let mut stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(wait::SOON))?;
            let path = "/kube/devbox/tunnel/client/s-1";
            let upgrade = "Connection: Upgrade\r\nUpgrade: devbox-tunnel/1\r\n";
            stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n{upgrade}{more}\r\n").as_bytes())?;
            let mut status = [0; 12];
            stream.read_exact(&mut status)?;
            Ok((stream, String::from_utf8_lossy(&status).into_owned()))
        };
        let (stranger, answer) = wait::until_ok("an answer", wait::SOON, || ask("Devbox-Token: wrong\r\n"))?;
        ensure!(answer == "HTTP/1.1 401", "{answer}");
        drop(stranger);
        let (mut client, answer) = ask("Authorization: Bearer elsewhere\r\nDevbox-Token: t0ken\r\n")?;
        ensure!(answer == "HTTP/1.1 101", "{answer}");
        // HELLO (docs/protocol.md, section 2): without it nobody is a client.
        client.write_all(&[
            1, 0, 0, 20, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 64, 0, 0, 0, 1, 0, 0, 0, 0, 64,
        ])?;
        wait::stays(
            "the gateway of a client",
            std::time::Duration::from_secs(3),
            || matches!(gateway.ended(), Ok(None)),
        )?;
        drop(client);
        ensure!(gateway.wait(wait::SOON)? == Exit::Code(0));
        Ok(())
    })
}

#[test]
fn with_a_certificate_it_is_reached_over_tls_and_only_by_who_trusts_it() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let files = scene.certificate()?;
        let catalog = scene.catalog(&[Service::new("echo", "demo", 7701, echo.address())])?;
        let address = scene.free_address()?;
        let text = std::fs::read_to_string(catalog.path())?;
        let gateway = serve(scene, &address.to_string(), &text)?
            .args([
                "--tls-cert".into(),
                files.certificate.clone(),
                "--tls-key".into(),
                files.key,
            ])
            .start()?;
        wait::until_ok("a listening gateway", wait::SOON, || {
            Ok(TcpStream::connect(address)?)
        })?;
        let token = scene.write_secret("token", "t0ken\n", Caller::Ordinary)?;
        let up = || {
            let url = format!("wss://{address}");
            let words = [
                "up",
                "--no-hosts",
                "--gateway",
                &url,
                "--env",
                scene.environment(),
                "--token-file",
            ];
            Ok::<_, anyhow::Error>(scene.devbox(words)?.args([&token]).by(Caller::Ordinary))
        };
        let stranger = up()?.run(4 * wait::SOON)?;
        ensure!(
            stranger.exit != Exit::Code(0),
            "a certificate that nobody vouches for was taken"
        );
        stranger.expect_text(&["certificate"])?;
        let mut trusting = up()?.args(["--tls-ca".into(), files.certificate]).start()?;
        trusting.wait_for_line("the line `ready`", 2 * wait::SOON, |line| line == "ready")?;
        let line = trusting.wait_for_line("a row for echo.demo", wait::SOON, |line| {
            line.contains("echo.demo")
        })?;
        let to = line
            .split_ascii_whitespace()
            .find_map(|word| word.parse::<std::net::IpAddr>().ok());
        let Some(to) = to else {
            anyhow::bail!("no address in {line:?}")
        };
        let mut stream = TcpStream::connect((to, 7701))?;
        stream.set_read_timeout(Some(wait::SOON))?;
        stream.write_all(b"over tls")?;
        let mut back = [0; 8];
        stream.read_exact(&mut back)?;
        ensure!(&back == b"over tls");
        trusting.signal(Signal::TERM)?;
        ensure!(trusting.wait(wait::SOON)? == Exit::Code(0));
        drop(gateway);
        Ok(())
    })
}

#[test]
fn when_it_leaves_its_sessions_go_to_its_successor() -> Outcome {
    const PORT: u16 = 7702;
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let service = |name| Service::new(name, "demo", PORT, echo.address());
        let next = Gateway::start(scene, &scene.catalog(&[service("echo"), service("next")])?)?;
        let catalog = scene.catalog(&[service("echo")])?;
        let words = ["--successor".into(), next.url().into()];
        let former = Gateway::start_with(scene, &catalog, words.into())?;
        let mut up = Up::start(&former, Caller::Ordinary)?;
        let at = SocketAddr::new(up.address_of("echo.demo")?, PORT);
        Echo::ask(at)?;
        ensure!(hosts::lookup(up.hosts(), "next.demo").is_none());

        former.process()?.signal(Signal::TERM)?;
        let found = || hosts::lookup(up.hosts(), "next.demo");
        wait::until("the successor's catalog", 2 * wait::SOON, found)?;
        Echo::ask(at)?;
        // Once it is gone, nobody is left at the first address, where the session is held to belong.
        drop(former);
        Echo::ask(at)?;
        up.process().signal(Signal::TERM)?;
        ensure!(up.process_mut().wait(wait::SOON)? == Exit::Code(0));
        hosts::expect_original(up.hosts())
    })
}
