//! Names from a DNS server: a session's own, and one that follows a file.
#![cfg(target_os = "linux")]

use anyhow::{Context, ensure};
use devbox_tests::peers::Echo;
use devbox_tests::{
    Caller, Certificate, Exit, Gateway, Outcome, Process, Result, Scene, Service, Signal, Up, UpOptions,
    hosts, need_program, scenario, wait,
};

const PORT: u16 = 7810;

/// What `devbox dns query` shows of a name.
fn query(scene: &Scene, at: &str, name: &str, kind: &str) -> Result<String> {
    let asked = scene
        .devbox(["dns", "query", name, kind, "--at", at])?
        .run(wait::SOON)?;
    Ok(asked.expect_success()?.output())
}

/// The word behind `before` in a line.
fn word_behind(text: &str, before: &str) -> Result<String> {
    let rest = text
        .split_once(before)
        .with_context(|| format!("{before:?} in {text}"))?
        .1;
    Ok(rest.split([',', ':', ' ']).next().unwrap_or_default().to_owned())
}

#[test]
fn a_session_answers_for_its_names_and_leaves_the_hosts_file_alone() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let catalog = scene.catalog(&[Service::new("orders", "backend", PORT, echo.address())])?;
        let gateway = Gateway::start(scene, &catalog)?;
        let file = scene.hosts_file(Caller::Ordinary)?;
        let listen = scene.free_address()?.to_string();
        let options = UpOptions::new(Caller::Ordinary).hosts(&file).arguments([
            "--naming",
            "dns",
            "--dns-listen",
            &listen,
        ]);
        let mut up = Up::start_with(&gateway, &options)?;
        hosts::expect_original(&file)?;
        for name in ["orders.backend.devbox.test", "orders.backend"] {
            let found = query(scene, &listen, name, "A")?;
            ensure!(
                found.contains("NOERROR") && found.contains("127.77."),
                "{name}: {found}"
            );
        }
        let missing = query(scene, &listen, "nobody.devbox.test", "A")?;
        ensure!(
            missing.contains("NXDOMAIN") && missing.contains("SOA"),
            "{missing}"
        );
        let status = scene
            .devbox(["dns", "status", "--at", &listen])?
            .run(wait::SOON)?;
        status
            .expect_success()?
            .expect_text(&["answers for devbox.test", "/etc/NetworkManager/dnsmasq.d/"])?;
        up.process().signal(Signal::TERM)?;
        ensure!(up.process_mut().wait(wait::SOON)? == Exit::code(0));
        let after = scene
            .devbox(["dns", "status", "--at", &listen])?
            .run(wait::SOON)?;
        after
            .expect_code(2)?
            .expect_text(&["no answer from", "naming: dns"])?;
        Ok(())
    })
}

/// What dig(1) finds, a record a line.
fn dig(scene: &Scene, at: &str, question: &[&str]) -> Result<Vec<String>> {
    let (address, port) = at.rsplit_once(':').context("an address and a port")?;
    let asked = scene.command([need_program("dig", "bind9-dnsutils")?]);
    let asked = asked.args(["+short", "+norecurse", "-p", port, &format!("@{address}")]);
    let found = asked.args(question).run(wait::SOON)?.expect_success()?.output();
    let mut lines: Vec<_> = found.lines().map(str::to_owned).collect();
    lines.sort();
    Ok(lines)
}

#[test]
fn a_session_says_where_its_services_are_and_whose_an_address_is() -> Outcome {
    scenario(|scene| {
        need_program("dig", "bind9-dnsutils")?;
        let echo = Echo::start(scene)?;
        let target = echo.address();
        let catalog = scene.catalog(&[])?;
        catalog.spoil(&format!(
            "environment: {}
services:
- {{name: orders, namespace: backend, aliases: [db], ports: [
    {{name: postgres, port: 7821, target: '{target}'}}, {{name: stats, port: 7822, protocol: udp, target: '{target}'}},
    {{port: 7823, target: '{target}'}}]}}
- {{name: old, namespace: backend, alias_of: orders.backend}}
- {{name: queue, namespace: backend, ports: [{{name: amqp, port: 7824, target: '{target}'}}]}}
- {{name: queue, namespace: backend, member: queue-0, ports: [{{name: amqp, port: 7824, target: '{target}'}}]}}
- {{name: queue, namespace: backend, member: queue-1, ports: [{{name: amqp, port: 7824, target: '{target}'}}]}}
",
            catalog.environment()
        ))?;
        let gateway = Gateway::start(scene, &catalog)?;
        let listen = scene.free_address()?.to_string();
        let file = scene.hosts_file(Caller::Ordinary)?;
        let options = UpOptions::new(Caller::Ordinary).hosts(&file);
        let options = options.arguments(["--naming", "dns", "--dns-listen", &listen]);
        let _up = Up::start_with(&gateway, &options)?;
        let dig = |question: &[&str]| dig(scene, &listen, question);

        let orders = "orders.backend.devbox.test.";
        let postgres = [format!("0 0 7821 {orders}")];
        for name in [
            "orders.backend",
            "orders.backend.devbox.test",
            "db.backend",
            "old.backend",
        ] {
            let found = dig(&[&format!("_postgres._tcp.{name}"), "SRV"])?;
            ensure!(found == postgres, "{name}: {found:?}");
        }
        ensure!(dig(&["_stats._udp.orders.backend", "SRV"])? == [format!("0 0 7822 {orders}")]);
        ensure!(dig(&["_stats._tcp.orders.backend", "SRV"])?.is_empty());
        let all = dig(&["orders.backend", "SRV"])?;
        ensure!(
            all == ["7821", "7822", "7823"].map(|port| format!("0 0 {port} {orders}")),
            "{all:?}"
        );
        let members =
            ["queue-0", "queue-1"].map(|name| format!("0 0 7824 {name}.queue.backend.devbox.test."));
        let found = dig(&["_amqp._tcp.queue.backend", "SRV"])?;
        ensure!(found == members, "{found:?}");
        let found = dig(&["_amqp._tcp.queue-1.queue.backend", "SRV"])?;
        ensure!(found == members[1..], "{found:?}");
        let text = dig(&["old.backend", "TXT"])?;
        let environment = format!(
            "\"service=orders.backend\" \"environment={}\"",
            catalog.environment()
        );
        ensure!(text == [environment], "{text:?}");

        // And back: the name that the whole system finds, of an address with several.
        let address = dig(&["db.backend", "A"])?;
        let found = dig(&["-x", &address[0]])?;
        ensure!(found == [orders], "{address:?}: {found:?}");
        let member = dig(&["queue-0.queue.backend", "A"])?;
        let found = dig(&["-x", &member[0]])?;
        ensure!(found == ["queue-0.queue.backend.devbox.test."], "{found:?}");
        let nobody = query(scene, &listen, "254.255.77.127.in-addr.arpa", "PTR")?;
        ensure!(nobody.contains("NXDOMAIN") && nobody.contains("SOA"), "{nobody}");
        let others = query(scene, &listen, "1.2.0.192.in-addr.arpa", "PTR")?;
        ensure!(others.contains("REFUSED"), "{others}");
        Ok(())
    })
}

#[test]
fn a_server_follows_its_file_and_keeps_what_it_had_where_that_breaks() -> Outcome {
    scenario(|scene| {
        let file = scene.write("names.yaml", "records: [{names: [api], addresses: [10.0.0.1]}]\n")?;
        let path = file.to_str().context("a path of text")?;
        let listen = scene.free_address()?.to_string();
        let serve = ["dns", "serve", "--listen", &listen, "--registry", path];
        let mut server = scene.devbox(serve)?.start()?.stop_with(Signal::TERM);
        server.wait_for_line("that it answers", wait::SOON, |line| {
            line.contains("answering on")
        })?;
        ensure!(word_behind(&server.output(), "UDP and TCP: ")? == "1");
        ensure!(query(scene, &listen, "api.devbox.test", "A")?.contains("10.0.0.1"));
        scene.write(
            "names.yaml",
            "records: [{names: [api], addresses: [10.0.0.2]}, {names: [web], addresses: [10.0.0.3]}]\n",
        )?;
        wait::until_ok("the new address", wait::SOON, || {
            let found = query(scene, &listen, "api", "A")?;
            ensure!(found.contains("10.0.0.2"), "{found}");
            Ok(())
        })?;
        scene.write(
            "names.yaml",
            "records: [{names: [a..b], addresses: [10.0.0.4]}]\n",
        )?;
        wait::until("a complaint", wait::SOON, || {
            server.errors().contains("a..b").then_some(())
        })?;
        ensure!(query(scene, &listen, "web", "A")?.contains("10.0.0.3"));
        let offline = ["dns", "query", "api", "A", "--registry", path];
        scene
            .devbox(offline)?
            .run(wait::SOON)?
            .expect_code(1)?
            .expect_text(&["a..b"])?;
        server.signal(Signal::TERM)?;
        ensure!(server.wait(wait::SOON)? == Exit::code(0));
        Ok(())
    })
}

/// A server over TLS too, with one name; where it answers that way, and its certificate.
fn over_tls(scene: &Scene) -> Result<(Process, String, Certificate)> {
    let files = scene.certificate()?;
    let names = scene.write("names.yaml", "records: [{names: [api], addresses: [10.0.0.1]}]\n")?;
    let (plain, secure) = (
        scene.free_address()?.to_string(),
        scene.free_address()?.to_string(),
    );
    let mut serve = scene.devbox(["dns", "serve", "--listen", &plain, "--listen-tls", &secure])?;
    for (flag, file) in [
        ("--registry", &names),
        ("--tls-cert", &files.certificate),
        ("--tls-key", &files.key),
    ] {
        serve = serve.args([flag.as_ref(), file.as_os_str()]);
    }
    let server = serve.start()?.stop_with(Signal::TERM);
    server.wait_for_line("that it answers over TLS", wait::SOON, |line| {
        line.contains(&secure) && line.contains("TLS")
    })?;
    Ok((server, secure, files))
}

#[test]
fn dns_over_tls_is_answered_to_whoever_trusts_the_certificate() -> Outcome {
    scenario(|scene| {
        let (_server, at, files) = over_tls(scene)?;
        let asked = |more: &[&str]| {
            let query = [
                "dns",
                "query",
                "api.devbox.test",
                "--at",
                &at,
                "--tls",
                "--tls-ca",
            ];
            let query = scene.devbox(query)?.args([&files.certificate]);
            query.args(more).run(wait::SOON)
        };
        asked(&[])?
            .expect_success()?
            .expect_text(&["NOERROR", "10.0.0.1"])?;
        asked(&["--tls-name", "dns.example"])?
            .expect_code(2)?
            .expect_text(&["no answer from", "certificate"])?;
        // Half of the flags is none.
        let alone = [
            "dns",
            "serve",
            "--registry",
            "names.yaml",
            "--tls-cert",
            "cert.pem",
        ];
        scene
            .devbox(alone)?
            .run(wait::SOON)?
            .expect_code(1)?
            .expect_text(&["--tls-key"])?;
        Ok(())
    })
}

#[test]
fn kdig_is_answered_over_tls() -> Outcome {
    scenario(|scene| {
        let kdig = need_program("kdig", "knot-dnsutils")?;
        let (_server, at, files) = over_tls(scene)?;
        let (address, port) = at.rsplit_once(':').context("an address and a port")?;
        let ca = format!("+tls-ca={}", files.certificate.display());
        let server = format!("@{address}");
        let words = ["-p", port, &server, &ca, "+tls", "api.devbox.test", "A"];
        let asked = scene.command([kdig]).args(words).run(wait::SOON)?;
        asked
            .expect_success()?
            .expect_text(&["NOERROR", "10.0.0.1", "TLS1.3"])?;
        Ok(())
    })
}
