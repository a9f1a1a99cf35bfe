//! Who may connect to a session's services, and what their connections are held to.
#![cfg(target_os = "linux")]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::ensure;
use devbox_tests::peers::{Echo, Fountain};
use devbox_tests::{
    Caller, Gateway, Invocation, Outcome, Process, Result, Scene, Service, Signal, Up, UpOptions,
    need_program, scenario, wait,
};

/// Asks an echo service, and prints what comes back.
fn asking(scene: &Scene, address: SocketAddr) -> Invocation<'_> {
    let (ip, port) = (address.ip(), address.port());
    scene.command([
        "bash",
        "-c",
        &format!("exec 3<>/dev/tcp/{ip}/{port} && echo hello >&3 && head -n 1 <&3"),
    ])
}

fn ask(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"hello")?;
    stream.read_exact(&mut [0; 5])
}

/// A session of [`Caller::Ordinary`] for the service `one.demo`, with this beside the gateway in its configuration.
fn session<'a>(gateway: &Gateway<'a>, config: &str, flags: &[&str]) -> Result<Up<'a>> {
    let scene = gateway.scene();
    let file = scene.write("devbox.yaml", config)?;
    let mut arguments = vec!["--config".into(), file.into_os_string()];
    arguments.extend(flags.iter().map(Into::into));
    Up::start_with(gateway, &UpOptions::new(Caller::Ordinary).arguments(arguments))
}

fn served<'a>(scene: &'a Scene, port: u16, target: SocketAddr) -> Result<Gateway<'a>> {
    let catalog = scene.catalog(&[Service::new("one", "demo", port, target)])?;
    Gateway::start(scene, &catalog)
}

#[test]
fn another_user_is_refused_and_told_of_once_while_root_and_the_own_user_are_served() -> Outcome {
    scenario(|scene| {
        scene.need_root()?;
        let echo = Echo::start(scene)?;
        let port = scene.port_like(7100)?;
        let gateway = served(scene, port, echo.address())?;
        let up = Up::start(&gateway, Caller::Ordinary)?;
        let at = SocketAddr::new(up.address_of("one.demo")?, port);
        for caller in [Caller::Root, Caller::Ordinary] {
            asking(scene, at)
                .by(caller)
                .run(wait::SOON)?
                .expect_success()?
                .expect_text(&["hello"])?;
        }
        for _ in 0..3 {
            let refused = asking(scene, at).by(Caller::Other).run(wait::SOON)?;
            ensure!(refused.output().is_empty(), "served: {}", refused.everything());
        }
        let uid = Caller::Other.uid();
        let told = format!("uid {uid} tried to connect to one.demo:{port} and was refused");
        wait::until("the warning", wait::SOON, || {
            up.process().errors().contains(&told).then_some(())
        })?;
        let port_of = |status: &serde_json::Value| status["services"][0]["ports"][0].clone();
        let status = up.status(&["--json"])?.run(wait::SOON)?.expect_success()?;
        let status = status.json()?;
        let shown = port_of(&status);
        ensure!(shown["strangers"] == 3, "{status:#}");
        ensure!(shown["connections"] == 2, "{status:#}");
        up.status(&[])?
            .run(wait::SOON)?
            .expect_success()?
            .expect_text(&[&format!("3 connections to one.demo:{port} were not let in")])?;
        let times = up.process().errors().matches(&told).count();
        ensure!(times == 1, "told {times} times");
        ensure!(echo.accepted() == 2, "the service saw {}", echo.accepted());
        Ok(())
    })
}

#[test]
fn a_command_of_exec_is_served_and_another_user_is_not() -> Outcome {
    scenario(|scene| {
        scene.need_root()?;
        let echo = Echo::start(scene)?;
        let port = scene.port_like(7101)?;
        let gateway = served(scene, port, echo.address())?;
        // The command tells its address, asks itself, and waits to be ended.
        let script = format!(
            "exec 3<>/dev/tcp/one.demo/{port} && echo hello >&3 && head -n 1 <&3 && \
             getent hosts one.demo && exec sleep 60"
        );
        let mut command = gateway
            .exec(Caller::Ordinary, ["bash", "-c", &script])?
            .start()?
            .stop_with(Signal::TERM);
        let address = wait::until("the command's answer", 2 * wait::SOON, || {
            let output = command.output();
            let mut lines = output.lines().filter(|line| *line != "hello");
            let line = lines.find(|line| line.contains("one.demo"))?.to_owned();
            line.split_whitespace().next().map(str::to_owned)
        })?;
        ensure!(command.output().contains("hello"), "{}", command.everything());
        let at = SocketAddr::new(address.parse()?, port);
        let refused = asking(scene, at).by(Caller::Other).run(wait::SOON)?;
        ensure!(refused.output().is_empty(), "served: {}", refused.everything());
        asking(scene, at)
            .by(Caller::Root)
            .run(wait::SOON)?
            .expect_success()?;
        command.signal(Signal::TERM)?;
        command.wait(wait::SOON)?;
        Ok(())
    })
}

#[test]
fn sharing_lets_other_users_in_by_flag_by_file_and_for_one_service() -> Outcome {
    scenario(|scene| {
        scene.need_root()?;
        let echo = Echo::start(scene)?;
        let port = scene.port_like(7102)?;
        let gateway = served(scene, port, echo.address())?;
        let cases: [(&str, &[&str], bool); 4] = [
            ("", &["--share"], true),
            ("share: true\n", &[], true),
            ("services: {one.demo: {share: true}}\n", &[], true),
            ("share: true\nservices: {one.demo: {share: false}}\n", &[], false),
        ];
        for (config, flags, shared) in cases {
            let up = session(&gateway, config, flags)?;
            let at = SocketAddr::new(up.address_of("one.demo")?, port);
            let asked = asking(scene, at).by(Caller::Other).run(wait::SOON)?;
            let answered = asked.output().contains("hello");
            ensure!(answered == shared, "{config:?} {flags:?}: {}", asked.everything());
        }
        Ok(())
    })
}

#[test]
fn idle_connections_are_reset_and_more_than_allowed_are_refused() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let port = scene.port_like(7103)?;
        let gateway = served(scene, port, echo.address())?;
        let config = "services:\n  one.demo: {idle_timeout: 1s, max_connections: 2}\n";
        let up = session(&gateway, config, &[])?;
        let mut busy = up.connect("one.demo", port)?;
        let mut idle = up.connect("one.demo", port)?;
        ask(&mut busy)?;
        ask(&mut idle)?;
        // The reset may come before connect(2) has returned.
        let refused = up
            .connect("one.demo", port)
            .and_then(|mut third| Ok(ask(&mut third)?));
        ensure!(refused.is_err(), "a third connection is served");
        let since = Instant::now();
        while since.elapsed() < Duration::from_millis(1500) {
            ask(&mut busy)?;
            std::thread::sleep(Duration::from_millis(100));
        }
        let error = idle.read(&mut [0]).err().map(|error| error.kind());
        ensure!(error == Some(ErrorKind::ConnectionReset), "{error:?}");
        ask(&mut busy)?;
        up.status(&[])?
            .run(wait::SOON)?
            .expect_success()?
            .expect_text(&["1 connection to one.demo", "max_connections"])?;
        Ok(())
    })
}

#[test]
fn a_service_keeps_to_its_bandwidth() -> Outcome {
    scenario(|scene| {
        let fountain = Fountain::start(scene)?;
        let port = scene.port_like(7104)?;
        let gateway = served(scene, port, fountain.address())?;
        let up = session(&gateway, "services: {one.demo: {bandwidth: 4MiB/s}}\n", &[])?;
        let mut stream = up.connect("one.demo", port)?;
        let mut buffer = vec![0; 256 * 1024];
        let (since, mut sum) = (Instant::now(), 0);
        while since.elapsed() < Duration::from_secs(2) {
            sum += stream.read(&mut buffer)?;
        }
        let rate = sum as f64 / since.elapsed().as_secs_f64() / f64::from(4 << 20);
        ensure!((0.9..=1.1).contains(&rate), "{rate} of the bandwidth");
        Ok(())
    })
}

/// An nginx that expects the PROXY protocol, and answers each request with the address that it was told.
fn proxied_nginx(scene: &Scene) -> Result<(Process, SocketAddr)> {
    let server = need_program("nginx", "nginx")?;
    let address = scene.free_address()?;
    let folder = scene.folder_of("nginx", Caller::Ordinary)?;
    let at = folder.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("  {kind}_temp_path {at}/{kind};\n"))
        .concat();
    let config = scene.write(
        "proxied.conf",
        format!(
            "daemon off;\nmaster_process off;\npid {at}/pid;\nerror_log stderr;\nevents {{}}\n\
             http {{\n  access_log off;\n{temporary}  server {{ listen {address} proxy_protocol;\n\
             location / {{ return 200 \"$proxy_protocol_addr:$proxy_protocol_port\"; }} }}\n}}\n"
        ),
    )?;
    let process = scene
        .command([server.into_os_string(), "-e".into(), "stderr".into()])
        .args([
            "-p".into(),
            folder.into_os_string(),
            "-c".into(),
            config.into_os_string(),
        ])
        .by(Caller::Ordinary)
        .start()?
        .stop_with(Signal::TERM);
    wait::until_ok("nginx", wait::SOON, || Ok(TcpStream::connect(address)?))?;
    Ok((process, address))
}

#[test]
fn a_target_that_expects_it_is_told_the_programs_address() -> Outcome {
    scenario(|scene| {
        let (_nginx, address) = proxied_nginx(scene)?;
        let port = scene.port_like(7105)?;
        let gateway = served(scene, port, address)?;
        let up = session(&gateway, "services: {one.demo: {proxy_protocol: v2}}\n", &[])?;
        let mut stream = up.connect("one.demo", port)?;
        stream.write_all(b"GET / HTTP/1.0\r\nHost: one.demo\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let own = stream.local_addr()?.to_string();
        ensure!(answer.ends_with(&own), "{own} is not what was told: {answer}");
        Ok(())
    })
}
