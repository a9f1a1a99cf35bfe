//! `devbox exec -- command`: the names exist for that command only, with no root and no change outside.
#![cfg(target_os = "linux")]

use std::ffi::OsString;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use anyhow::{Context, ensure};
use devbox_tests::peers::Echo;
use devbox_tests::services::{Nginx, Sshd};
use devbox_tests::{
    Caller, Exit, Gateway, Machine, Outcome, Result, Scene, Service, Signal, Skip, Up, hosts, need_program,
    proc, scenario, wait,
};

const PORT: u16 = 7500;

fn stage<'a>(scene: &'a Scene, echo: &Echo) -> Result<Gateway<'a>> {
    need_namespaces(scene)?;
    let catalog = scene.catalog(&[Service::new("echo", "demo", PORT, echo.address())])?;
    Gateway::start(scene, &catalog)
}

/// Skips the test if an ordinary user cannot create namespaces.
fn need_namespaces(scene: &Scene) -> Result {
    let probe = scene
        .command(["unshare", "--user", "--map-root-user", "--mount", "true"])
        .by(Caller::Ordinary);
    let out = probe.run(wait::SOON)?;
    if out.exit != Exit::Code(0) {
        let why = format!(
            "this system allows no user namespace here ({})",
            out.errors().trim()
        );
        return Err(Skip::new(why).into());
    }
    Ok(())
}

#[test]
fn the_names_are_there_inside_and_nowhere_else() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = stage(scene, &echo)?;
        let outside = (
            std::fs::read("/etc/hosts")?,
            std::fs::metadata("/etc/hosts")?.ino(),
        );
        for caller in Caller::possible() {
            let script = "getent hosts echo.demo && id -u && cat /etc/hosts";
            let out = gateway
                .exec(caller, ["sh", "-c", script])?
                .run(2 * wait::SOON)?
                .expect_success()?;
            let text = out.output();
            let mut lines = text.lines();
            ensure!(
                lines.next().is_some_and(|line| line.starts_with("127.77.")),
                "{text}"
            );
            ensure!(
                lines.next() == Some(caller.uid().to_string().as_str()),
                "another uid: {text}"
            );
            let system = String::from_utf8_lossy(&outside.0);
            ensure!(
                text.contains(system.trim_end()),
                "the system's own lines are not there: {text}"
            );
            let out = scene
                .command(["getent", "hosts", "echo.demo"])
                .by(caller)
                .run(wait::SOON)?;
            ensure!(out.exit != Exit::Code(0), "outside: {}", out.output());
        }
        ensure!(
            (
                std::fs::read("/etc/hosts")?,
                std::fs::metadata("/etc/hosts")?.ino()
            ) == outside
        );
        Ok(())
    })
}

#[test]
fn the_command_gets_the_limit_of_open_files_that_exec_was_started_with() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let flags = gateway.flags(Caller::Ordinary)?;
        let limited = ["sh", "-c", "ulimit -S -n 200; exec \"$0\" exec \"$@\""].map(OsString::from);
        let out = scene
            .command(limited)
            .args([scene.devbox_program()?])
            .args(flags)
            .args(["--", "sh", "-c", "ulimit -S -n"])
            .by(Caller::Ordinary)
            .run(2 * wait::SOON)?
            .expect_success()?;
        ensure!(out.output().trim() == "200", "{}", out.output());
        Ok(())
    })
}

#[test]
fn exit_codes_and_signals_pass_through() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = stage(scene, &echo)?;
        for code in [0, 1, 42, 125, 255] {
            let exit = format!("exit {code}");
            gateway
                .exec(Caller::Ordinary, ["sh", "-c", &exit])?
                .run(2 * wait::SOON)?
                .expect_code(code)?;
        }
        // As a shell reports it, or by the same signal.
        let out = gateway
            .exec(Caller::Ordinary, ["sh", "-c", "kill -TERM $$"])?
            .run(2 * wait::SOON)?;
        ensure!(
            [Exit::Code(143), Exit::Signal(15)].contains(&out.exit),
            "{}",
            out.exit
        );
        for (name, signal) in [
            ("TERM", Signal::TERM),
            ("HUP", Signal::HUP),
            ("INT", Signal::INT),
            ("USR1", Signal::USR1),
        ] {
            let script =
                format!("trap 'echo caught; exit 7' {name}; echo started; while :; do sleep 0.05; done");
            let mut exec = gateway.exec(Caller::Ordinary, ["sh", "-c", &script])?.start()?;
            exec.wait_for_line("its start", 2 * wait::SOON, |line| line == "started")?;
            exec.signal(signal)?;
            let exit = exec.wait(wait::SOON).with_context(|| format!("SIG{name}"))?;
            ensure!(exit == Exit::Code(7), "SIG{name}: {exit}");
        }
        Ok(())
    })
}

#[test]
fn input_and_output_pass_through() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = stage(scene, &echo)?;
        let input: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let out = gateway
            .exec(Caller::Ordinary, ["sh", "-c", "cat; echo to stderr >&2"])?
            .stdin(input.clone());
        let out = out.run(2 * wait::SOON)?.expect_success()?;
        ensure!(
            out.stdout == input,
            "{} bytes of {}",
            out.stdout.len(),
            input.len()
        );
        ensure!(out.errors().contains("to stderr"));
        Ok(())
    })
}

#[test]
fn its_own_failures_are_125_126_and_127() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = stage(scene, &echo)?;
        let plain = scene.write("plain", "no program\n")?;
        gateway
            .exec(Caller::Ordinary, [plain])?
            .run(2 * wait::SOON)?
            .expect_code(126)?;
        let out = gateway
            .exec(Caller::Ordinary, ["no-such-command"])?
            .run(2 * wait::SOON)?
            .expect_code(127)?;
        out.expect_text(&["no-such-command"])?;
        let bad: [&[&str]; 3] = [
            &["exec", "--nonsense", "--", "true"],
            &[
                "exec",
                "--gateway",
                "ws://192.0.2.1:1",
                "--token-file",
                "/dev/null",
                "--",
                "true",
            ],
            &["exec"],
        ];
        for arguments in bad {
            let out = scene
                .devbox(arguments.iter().copied())?
                .by(Caller::Ordinary)
                .run(wait::SOON)?
                .expect_code(125)?;
            ensure!(!out.errors().is_empty());
        }
        let nobody = format!("ws://{}", scene.free_address()?);
        let token = gateway.token_file(Caller::Ordinary)?;
        let out = scene
            .devbox(["exec", "--gateway", &nobody, "--env", "dev", "--token-file"])?
            .args([token]);
        out.args(["--", "true"])
            .by(Caller::Ordinary)
            .run(Duration::from_secs(60))?
            .expect_code(125)?;
        Ok(())
    })
}

#[test]
fn our_names_go_past_a_proxy() -> Outcome {
    scenario(|scene| {
        need_program("curl", "curl")?;
        need_namespaces(scene)?;
        let nginx = Nginx::start(scene)?;
        let catalog = scene.catalog(&[Service::new("web", "demo", PORT, nginx.address())])?;
        let gateway = Gateway::start(scene, &catalog)?;
        let script =
            format!("printf '%s\\n' \"$NO_PROXY\" \"$no_proxy\"; curl -sS --fail http://web.demo:{PORT}/");
        let nobody = format!("http://{}", scene.free_address()?);
        let exec = gateway.exec(Caller::Ordinary, ["sh", "-c", &script])?;
        let exec = exec
            .env("http_proxy", &nobody)
            .env("HTTPS_PROXY", &nobody)
            .env("NO_PROXY", "corp.example");
        let out = exec.run(2 * wait::SOON)?.expect_success()?.output();
        let lines: Vec<&str> = out.lines().collect();
        ensure!(lines.len() == 3 && lines[2] == "hello from nginx", "{out}");
        for line in &lines[..2] {
            ensure!(
                line.split(',').any(|name| name.trim() == "web.demo"),
                "{line:?} does not name web.demo"
            );
            ensure!(
                line.split(',').any(|name| name.trim() == "corp.example"),
                "{line:?} lost what was there"
            );
        }
        Ok(())
    })
}

#[test]
fn killed_it_takes_the_command_along() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = stage(scene, &echo)?;
        for caller in Caller::possible() {
            let mut exec = gateway
                .exec(caller, ["sh", "-c", "echo started; exec sleep 1000"])?
                .start()?;
            exec.wait_for_line("its start", 2 * wait::SOON, |line| line == "started")?;
            let below = proc::descendants(exec.pid());
            ensure!(!below.is_empty());
            exec.signal(Signal::KILL)?;
            exec.wait(wait::SOON)?;
            proc::wait_until_gone(&below, Duration::from_secs(2))?;
        }
        Ok(())
    })
}

#[test]
fn beside_an_up_of_the_same_user_it_joins_that_session() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = stage(scene, &echo)?;
        let mut up = Up::start(&gateway, Caller::Ordinary)?;
        let address = up.address_of("echo.demo")?.to_string();
        let links = proc::connections_at(gateway.address());
        ensure!(links == 1, "one session, {links} links");
        let exec = gateway
            .exec(
                Caller::Ordinary,
                ["sh", "-c", "getent hosts echo.demo; read line"],
            )?
            .start();
        // Its input is empty, so `read` ends it; it prints the address first.
        let mut exec = exec?;
        let line = exec.wait_for_line("the address", 2 * wait::SOON, |line| line.contains("echo.demo"))?;
        ensure!(line.starts_with(&address), "{line:?} is not {address}");
        exec.wait(wait::SOON)?;
        let script =
            format!("exec 3<>/dev/tcp/echo.demo/{PORT}; echo hi >&3; read -u 3 line; echo $line; sleep 0.3");
        let mut exec = gateway.exec(Caller::Ordinary, ["bash", "-c", &script])?.start()?;
        exec.wait_for_line("its answer", 2 * wait::SOON, |line| line == "hi")?;
        ensure!(proc::connections_at(gateway.address()) == 1, "a second tunnel");
        ensure!(exec.wait(wait::SOON)? == Exit::Code(0));
        // It displaced no session.
        ensure!(up.process_mut().ended()?.is_none());
        ensure!(up.address_of("echo.demo")?.to_string() == address);
        up.connect("echo.demo", PORT)?;
        Ok(())
    })
}

#[test]
fn beside_somebody_elses_up_it_takes_other_addresses() -> Outcome {
    scenario(|scene| {
        scene.need_root()?;
        let echo = Echo::start(scene)?;
        let gateway = stage(scene, &echo)?;
        let mut up = Up::start(&gateway, Caller::Root)?;
        let address = up.address_of("echo.demo")?.to_string();
        let script = format!(
            "getent hosts echo.demo; exec 3<>/dev/tcp/echo.demo/{PORT}; echo hi >&3; read -u 3 line; echo $line"
        );
        let out = gateway
            .exec(Caller::Ordinary, ["bash", "-c", &script])?
            .run(2 * wait::SOON)?
            .expect_success()?
            .output();
        ensure!(
            out.starts_with("127.77.") && out.lines().last() == Some("hi"),
            "{out}"
        );
        ensure!(
            out.split_ascii_whitespace().next() != Some(address.as_str()),
            "the same address as the other user's: {out}"
        );
        ensure!(up.process_mut().ended()?.is_none());
        Ok(())
    })
}

#[test]
fn a_change_of_the_catalog_reaches_the_running_command() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = stage(scene, &echo)?;
        let script = "echo started; until getent hosts late.demo; do sleep 0.05; done; \
                      while getent hosts echo.demo >/dev/null; do sleep 0.05; done; echo gone";
        for caller in Caller::possible() {
            gateway
                .catalog()
                .replace(&[Service::new("echo", "demo", PORT, echo.address())])?;
            let names_echo = || {
                gateway
                    .exec(caller, ["getent", "hosts", "echo.demo"])?
                    .run(wait::SOON)?
                    .expect_success()
            };
            wait::until_ok("the catalog of the start", 2 * wait::SOON, names_echo)?;
            let mut exec = gateway.exec(caller, ["sh", "-c", script])?.start()?;
            exec.wait_for_line("its start", 2 * wait::SOON, |line| line == "started")?;
            gateway
                .catalog()
                .replace(&[Service::new("late", "demo", PORT, echo.address())])?;
            exec.wait_for_line("the late name", wait::SOON, |line| line.contains("late.demo"))?;
            exec.wait_for_line("the end of the other name", wait::SOON, |line| line == "gone")?;
            ensure!(exec.wait(wait::SOON)? == Exit::Code(0));
        }
        Ok(())
    })
}

#[test]
fn a_low_port_is_degraded_for_an_ordinary_user_and_the_rest_works() -> Outcome {
    scenario(|scene| {
        let free =
            std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
        if free.trim().parse::<u16>().is_ok_and(|first| first <= 81) {
            return Err(Skip::new("every user may bind port 81 here (ip_unprivileged_port_start)").into());
        }
        let echo = Echo::start(scene)?;
        need_namespaces(scene)?;
        let catalog = scene.catalog(&[
            Service::new("low", "demo", 81, echo.address()),
            Service::new("echo", "demo", PORT, echo.address()),
        ])?;
        let gateway = Gateway::start(scene, &catalog)?;
        let out = gateway
            .exec(Caller::Ordinary, ["getent", "hosts", "echo.demo"])?
            .run(2 * wait::SOON)?
            .expect_success()?;
        let told = out.errors();
        let line = told
            .lines()
            .find(|line| line.contains("low") && line.contains("81"));
        ensure!(line.is_some(), "nothing is said of port 81:\n{told}");
        ensure!(told.contains("1024"), "the reason is missing:\n{told}");
        if Caller::own() == Caller::Root {
            let script = "exec 3<>/dev/tcp/low.demo/81; echo hi >&3; read -u 3 line; echo $line";
            let out = gateway
                .exec(Caller::Root, ["bash", "-c", script])?
                .run(2 * wait::SOON)?
                .expect_success()?;
            ensure!(out.output() == "hi\n", "{}", out.output());
        }
        Ok(())
    })
}

#[test]
fn forbidden_user_namespaces_are_named_with_the_setting() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let catalog = scene.catalog(&[Service::new("echo", "demo", PORT, echo.address())])?;
        let gateway = Gateway::start(scene, &catalog)?;
        let exec = gateway
            .exec(Caller::Ordinary, ["true"])?
            .without_user_namespaces();
        exec.run(2 * wait::SOON)?
            .expect_code(125)?
            .expect_text(&["user namespace"])?;
        // Root needs none, so nothing is forbidden for root.
        gateway
            .exec(Caller::Root, ["getent", "hosts", "echo.demo"])?
            .run(2 * wait::SOON)?
            .expect_success()?;
        Ok(())
    })
}

#[test]
fn ssh_works_inside_although_roots_files_look_foreign() -> Outcome {
    scenario(|scene| {
        scene.need_root()?;
        need_namespaces(scene)?;
        let sshd = Sshd::start(scene)?;
        let catalog = scene.catalog(&[Service::new("shell", "ops", PORT, sshd.address())])?;
        let gateway = Gateway::start(scene, &catalog)?;
        let machine = Machine::start(scene)?;
        // As systemd and cloud images set it up: a file owned by root that every ssh reads, and refuses if it is not root's.
        let folder = machine.etc().join("ssh/ssh_config.d");
        std::fs::create_dir_all(&folder)?;
        let own = folder.join("10-test.conf");
        std::fs::write(&own, "Host shell.ops\n  SetEnv FROM=system\n")?;
        std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o644))?;
        let config = std::fs::read_to_string(machine.etc().join("ssh/ssh_config")).unwrap_or_default();
        std::fs::write(
            machine.etc().join("ssh/ssh_config"),
            format!("Include /etc/ssh/ssh_config.d/*.conf\n{config}"),
        )?;
        for caller in [Caller::Ordinary, Caller::Root] {
            let ssh = sshd.client(scene, caller, "shell.ops", PORT)?;
            let exec = gateway
                .exec(caller, ssh)?
                .args(["shell.ops", "echo", "inside"])
                .inside(&machine);
            let out = exec.run(2 * wait::SOON)?.expect_success()?;
            ensure!(out.output() == "inside\n", "{}", out.everything());
        }
        hosts::expect_original(&machine.hosts())
    })
}

#[test]
fn a_resolver_that_asks_elsewhere_first_is_overruled_inside() -> Outcome {
    scenario(|scene| {
        scene.need_root()?;
        need_namespaces(scene)?;
        let echo = Echo::start(scene)?;
        let catalog = scene.catalog(&[Service::new("echo", "demo", PORT, echo.address())])?;
        let gateway = Gateway::start(scene, &catalog)?;
        let machine = Machine::start(scene)?;
        // Without `files`, our names would not be seen at all; systemd puts `resolve [!UNAVAIL=return]` before it.
        std::fs::write(
            machine.etc().join("nsswitch.conf"),
            "passwd: files\ngroup: files\nhosts: dns\n",
        )?;
        for caller in [Caller::Ordinary, Caller::Root] {
            let exec = gateway
                .exec(caller, ["getent", "hosts", "echo.demo"])?
                .inside(&machine);
            let out = exec.run(2 * wait::SOON)?.expect_success()?;
            ensure!(out.output().starts_with("127.77."), "{}", out.output());
        }
        Ok(())
    })
}

#[test]
fn two_at_once_do_not_disturb_each_other() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = stage(scene, &echo)?;
        let script = format!(
            "exec 3<>/dev/tcp/echo.demo/{PORT}; echo hi >&3; read -u 3 line; echo $line; \
             until [ -e \"$0\" ]; do sleep 0.05; done; echo again >&3; read -u 3 line; echo $line"
        );
        let go = scene.folder().join("go");
        let start = || {
            gateway
                .exec(
                    Caller::Ordinary,
                    [
                        "bash".into(),
                        "-c".into(),
                        script.clone().into(),
                        go.clone().into_os_string(),
                    ],
                )?
                .start()
        };
        let mut both = [start()?, start()?];
        for exec in &both {
            exec.wait_for_line("its first answer", 2 * wait::SOON, |line| line == "hi")?;
        }
        scene.write("go", "")?;
        for exec in &mut both {
            exec.wait_for_line("its second answer", wait::SOON, |line| line == "again")?;
            ensure!(exec.wait(wait::SOON)? == Exit::Code(0));
        }
        Ok(())
    })
}

#[test]
fn an_up_that_comes_later_does_not_displace_it() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = stage(scene, &echo)?;
        let script = format!(
            "exec 3<>/dev/tcp/echo.demo/{PORT}; echo hi >&3; read -u 3 line; echo $line; \
             until [ -e \"$0\" ]; do sleep 0.05; done; echo again >&3; read -u 3 line; echo $line; \
             exec 4<>/dev/tcp/echo.demo/{PORT}; echo new >&4; read -u 4 line; echo $line"
        );
        let go = scene.folder().join("go");
        let command = ["bash".into(), "-c".into(), script.into(), go.into_os_string()];
        let mut exec = gateway.exec(Caller::Ordinary, command)?.start()?;
        exec.wait_for_line("its first answer", 2 * wait::SOON, |line| line == "hi")?;
        let up = Up::start(&gateway, Caller::Ordinary)?;
        Echo::ask(std::net::SocketAddr::new(up.address_of("echo.demo")?, PORT))?;
        scene.write("go", "")?;
        exec.wait_for_line("the old connection's answer", wait::SOON, |line| line == "again")?;
        exec.wait_for_line("a new connection's answer", wait::SOON, |line| line == "new")?;
        ensure!(exec.wait(wait::SOON)? == Exit::Code(0));
        Ok(())
    })
}

#[test]
fn it_runs_inside_itself() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = stage(scene, &echo)?;
        for caller in Caller::possible() {
            let inner = gateway.exec(caller, ["sh", "-c", "getent hosts echo.demo; id -u; exit 3"])?;
            let words = inner.words().to_vec();
            let out = gateway.exec(caller, words)?.run(3 * wait::SOON)?.expect_code(3)?;
            ensure!(out.output().starts_with("127.77."), "{}", out.everything());
            ensure!(
                out.output().ends_with(&format!("\n{}\n", caller.uid())),
                "{}",
                out.output()
            );
        }
        Ok(())
    })
}
