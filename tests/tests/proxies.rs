//! Proxies on the way to the gateway: those that the client goes through, and those that stand in front of the gateway.
#![cfg(target_os = "linux")]

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::ensure;
use devbox_tests::peers::Echo;
use devbox_tests::{
    Caller, Certificate, Gateway, Outcome, Process, Result, Scene, Service, Signal, Up, UpOptions,
    need_program, scenario, wait,
};

const PORT: u16 = 7640;

/// Starts a proxy with these arguments, of which the scene's folder may hold files, and waits until it listens.
fn proxy(scene: &Scene, address: SocketAddr, argv: &[String]) -> Result<Process> {
    let process = scene
        .command(argv.iter().map(String::as_str))
        .by(Caller::Ordinary)
        .start()?
        .stop_with(Signal::TERM);
    let connect = || Ok(TcpStream::connect_timeout(&address, Duration::from_secs(1))?);
    wait::until_ok("the proxy listens", wait::SOON, connect)?;
    Ok(process)
}

fn ask(up: &Up<'_>) -> Result {
    Echo::ask(SocketAddr::new(up.address_of("echo.demo")?, PORT))
}

fn with_proxy(url: String) -> UpOptions<'static> {
    UpOptions::new(Caller::Ordinary).arguments(["--proxy".to_owned(), url])
}

#[test]
fn an_http_proxy_with_a_password_is_gone_through() -> Outcome {
    scenario(|scene| {
        let tinyproxy = need_program("tinyproxy", "tinyproxy-bin")?;
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let address = scene.free_address()?;
        let (host, port) = (address.ip(), address.port());
        let config = scene.write(
            "tinyproxy.conf",
            format!("Listen {host}\nPort {port}\nMaxClients 20\nTimeout 60\nLogLevel Info\nBasicAuth ada open-sesame\n"),
        )?;
        let argv = [
            tinyproxy.display().to_string(),
            "-d".into(),
            "-c".into(),
            config.display().to_string(),
        ];
        let proxy = proxy(scene, address, &argv)?;

        let up = Up::start_with(&gateway, &with_proxy(format!("http://ada:open-sesame@{address}")))?;
        ask(&up)?;
        let told = up.status(&[])?.run(wait::SOON)?.expect_success()?;
        told.expect_text(&[&format!("raw upgrade through http://{address}")])?;
        ensure!(
            !up.process().everything().contains("open-sesame"),
            "the password is told"
        );
        drop(up);

        for (credentials, says) in [
            ("", "asks for a user and a password"),
            ("ada:wr0ng@", "does not take the user"),
        ] {
            let mut up = Up::launch(&gateway, &with_proxy(format!("http://{credentials}{address}")))?;
            up.process_mut().wait(2 * wait::SOON)?;
            let text = up.process().everything();
            ensure!(
                text.contains(says) && text.contains(&address.to_string()),
                "{text}"
            );
            ensure!(!text.contains("wr0ng"), "{text}");
        }
        drop(proxy);
        Ok(())
    })
}

/// A haproxy that ends TLS with this certificate and hands on what is in it.
fn tls_in_front_of(
    scene: &Scene,
    behind: SocketAddr,
    certificate: &Certificate,
) -> Result<(Process, SocketAddr)> {
    let haproxy = need_program("haproxy", "haproxy")?.display().to_string();
    let address = scene.free_address()?;
    let both = [
        std::fs::read(&certificate.certificate)?,
        std::fs::read(&certificate.key)?,
    ];
    let both = scene.write_secret(
        &format!("both-{}.pem", address.port()),
        both.concat(),
        Caller::Ordinary,
    )?;
    let config = scene.write(
        &format!("haproxy-{}.cfg", address.port()),
        format!(
            "global\n  maxconn 64\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
             frontend front\n  bind {address} ssl crt {}\n  default_backend back\n\
             backend back\n  server behind {behind}\n",
            both.display()
        ),
    )?;
    let argv = [&*haproxy, "-db", "-f", &config.display().to_string()].map(str::to_owned);
    Ok((proxy(scene, address, &argv)?, address))
}

/// TLS to the proxy, and in it TLS to the gateway.
#[test]
fn an_https_proxy_is_gone_through_and_must_be_trusted() -> Outcome {
    scenario(|scene| {
        let tinyproxy = need_program("tinyproxy", "tinyproxy-bin")?.display().to_string();
        let echo = Echo::start(scene)?;
        let catalog = scene.catalog(&[Service::new("echo", "demo", PORT, echo.address())])?;
        let gateway = Gateway::over_tls(scene, &catalog, "wss")?;
        let address = scene.free_address()?;
        let (host, port) = (address.ip(), address.port());
        let config = scene.write(
            "tinyproxy.conf",
            format!("Listen {host}\nPort {port}\nMaxClients 20\nTimeout 60\nBasicAuth ada open-sesame\n"),
        )?;
        let argv = [&*tinyproxy, "-d", "-c", &config.display().to_string()].map(str::to_owned);
        let tinyproxy = proxy(scene, address, &argv)?;

        let own = scene.certificate()?;
        let (_haproxy, front) = tls_in_front_of(scene, address, &own)?;

        // Nobody vouches for the proxy: it is shown no password.
        let with_proxy = with_proxy(format!("https://ada:open-sesame@{front}"));
        let mut up = Up::launch(&gateway, &with_proxy)?;
        up.process_mut().wait(2 * wait::SOON)?;
        let text = up.process().everything();
        ensure!(
            text.contains("TLS with the proxy") && !text.contains("open-sesame"),
            "{text}"
        );
        let asked = || tinyproxy.everything().contains("Request (");
        ensure!(!asked(), "{}", tinyproxy.everything());
        drop(up);

        let vouching = with_proxy.arguments(["--tls-extra-ca".into(), own.certificate.into_os_string()]);
        let up = Up::start_with(&gateway, &vouching)?;
        ask(&up)?;
        let told = up.status(&[])?.run(wait::SOON)?.expect_success()?;
        told.expect_text(&[&format!("raw upgrade through https://{front}")])?;
        ensure!(asked(), "{}", tinyproxy.everything());
        Ok(())
    })
}

#[test]
fn a_socks_proxy_with_a_password_is_gone_through() -> Outcome {
    scenario(|scene| {
        let microsocks = need_program("microsocks", "microsocks")?;
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let address = scene.free_address()?;
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        let argv = [
            &*microsocks.display().to_string(),
            "-i",
            &host,
            "-p",
            &port,
            "-u",
            "ada",
            "-P",
            "open-sesame",
        ];
        let proxy = proxy(scene, address, &argv.map(str::to_owned))?;
        for scheme in ["socks5", "socks5h"] {
            let up = Up::start_with(
                &gateway,
                &with_proxy(format!("{scheme}://ada:open-sesame@{address}")),
            )?;
            ask(&up)?;
            let told = up.status(&[])?.run(wait::SOON)?.expect_success()?;
            told.expect_text(&[&format!("raw upgrade through {scheme}://{address}")])?;
        }
        let mut up = Up::launch(&gateway, &with_proxy(format!("socks5h://{address}")))?;
        up.process_mut().wait(2 * wait::SOON)?;
        let text = up.process().everything();
        ensure!(text.contains("asks for a user and a password"), "{text}");
        drop(proxy);
        Ok(())
    })
}

/// An nginx in front of the gateway, with these lines in its `location`.
fn nginx(scene: &Scene, gateway: SocketAddr, lines: &str) -> Result<(Process, SocketAddr)> {
    let nginx = need_program("nginx", "nginx")?.display().to_string();
    let address = scene.free_address()?;
    let folder = scene.folder_of(&format!("nginx-{}", address.port()), Caller::Ordinary)?;
    let at = folder.display().to_string();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {at}/{kind};\n"))
        .concat();
    let config = format!(
        "daemon off;\nmaster_process off;\npid {at}/pid;\nerror_log stderr;\nevents {{ worker_connections 64; }}\n\
         http {{ access_log off;\n{temporary}server {{ listen {address}; location / {{\n\
         proxy_pass http://{gateway};\nproxy_http_version 1.1;\nproxy_buffering on;\n{lines}\n}} }} }}\n"
    );
    let config = scene
        .write(&format!("nginx-{}.conf", address.port()), config)?
        .display()
        .to_string();
    let argv = [&*nginx, "-e", "stderr", "-p", &at, "-c", &config].map(str::to_owned);
    Ok((proxy(scene, address, &argv)?, address))
}

#[test]
fn a_reverse_proxy_gets_what_it_lets_pass() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        // As nginx's documentation of WebSocket has it, and as configurations that know nothing else have it.
        for (upgrade, over) in [
            ("$http_upgrade", "over raw upgrade"),
            ("websocket", "over WebSocket"),
        ] {
            let lines = format!("proxy_set_header Upgrade {upgrade};\nproxy_set_header Connection upgrade;");
            let (_nginx, front) = nginx(scene, gateway.address(), &lines)?;
            let up = Up::start_with(&gateway, &UpOptions::new(Caller::Ordinary).by_way_of(front))?;
            ask(&up)?;
            let told = up.status(&[])?.run(wait::SOON)?.expect_success()?;
            told.expect_text(&[over])?;
        }
        // It buffers and strips Upgrade: there is no way through, and that is told instead of waited for.
        let (_nginx, front) = nginx(scene, gateway.address(), "")?;
        let mut up = Up::launch(&gateway, &UpOptions::new(Caller::Ordinary).by_way_of(front))?;
        up.process_mut().wait(2 * wait::SOON)?;
        let text = up.process().everything();
        ensure!(text.contains("expects a request for one"), "{text}");
        Ok(())
    })
}

#[test]
fn a_proxy_that_cuts_idle_connections_does_not_cut_the_link() -> Outcome {
    scenario(|scene| {
        let haproxy = need_program("haproxy", "haproxy")?.display().to_string();
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let address = scene.free_address()?;
        let to = gateway.address();
        let config = scene.write(
            "haproxy.cfg",
            format!(
                "global\n  maxconn 64\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 13s\n  \
                 timeout server 13s\n  timeout tunnel 13s\nfrontend front\n  bind {address}\n  default_backend back\n\
                 backend back\n  server gateway {to}\n"
            ),
        )?;
        let argv = [&*haproxy, "-db", "-f", &config.display().to_string()].map(str::to_owned);
        let proxy = proxy(scene, address, &argv)?;
        let ups: Vec<_> = ["raw", "websocket"]
            .into_iter()
            .map(|carrier| {
                let options = UpOptions::new(Caller::Ordinary)
                    .by_way_of(address)
                    .arguments(["--carrier", carrier])
                    .hosts(&scene.write(&format!("hosts-{carrier}"), "127.0.0.1 localhost\n")?);
                scene.give(&scene.folder().join(format!("hosts-{carrier}")), Caller::Ordinary)?;
                Up::start_with(&gateway, &options)
            })
            .collect::<Result<_>>()?;
        // Twice the proxy's patience; only the link's own pings pass meanwhile.
        wait::stays("the links", Duration::from_secs(27), || {
            ups.iter()
                .all(|up| !up.process().everything().contains("link lost"))
        })?;
        for up in &ups {
            ask(up)?;
            // Links outlive their connections, so that their loss would not be seen otherwise.
            let told = up
                .status(&["--output", "json"])?
                .run(wait::SOON)?
                .expect_success()?;
            ensure!(
                !told.output().contains("\"resumed\""),
                "a connection was cut: {}",
                told.output()
            );
        }
        drop(proxy);
        Ok(())
    })
}
