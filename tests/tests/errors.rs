//! Errors are reported with what to do about them, and with the exit code that scripts rely on.
#![cfg(target_os = "linux")]

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use devbox_tests::peers::Echo;
use devbox_tests::{
    Caller, Exit, Gateway, Outcome, Service, Signal, Skip, TOKEN, Up, UpOptions, hosts, scenario, wait,
};

const PORT: u16 = 7400;

#[test]
fn bad_flags_exit_with_1() -> Outcome {
    scenario(|scene| {
        let bad: [&[&str]; 7] = [
            &[],
            &["up", "--nonsense"],
            &["up", "--output", "yaml"],
            &["up", "--gateway", "not a url"],
            &["up", "--no-hosts", "--hosts-file", "/tmp/x"],
            &["sideways"],
            &["gateway", "serve"],
        ];
        for arguments in bad {
            let out = scene
                .devbox(arguments.iter().copied())?
                .by(Caller::Ordinary)
                .run(wait::SOON)?
                .expect_code(1)?;
            ensure!(
                !out.errors().is_empty(),
                "`{}` says nothing on standard error",
                out.label
            );
        }
        Ok(())
    })
}

#[test]
fn help_and_version_exit_with_0() -> Outcome {
    scenario(|scene| {
        for argument in ["--help", "--version"] {
            let out = scene
                .devbox([argument])?
                .by(Caller::Ordinary)
                .run(wait::SOON)?
                .expect_success()?;
            ensure!(out.output().contains("devbox"), "{}", out.output());
        }
        Ok(())
    })
}

#[test]
fn up_without_a_gateway_says_how_to_name_one() -> Outcome {
    scenario(|scene| {
        let out = scene
            .devbox(["up"])?
            .by(Caller::Ordinary)
            .run(wait::SOON)?
            .expect_code(1)?;
        out.expect_text(&["gateway", "--token-file", "devbox.yaml"])?;
        Ok(())
    })
}

#[test]
fn a_bad_configuration_file_is_named_with_the_line() -> Outcome {
    scenario(|scene| {
        let file = scene.write("devbox.yaml", "gateway: ws://127.0.0.1:1\n\nenvirnment: dev\n")?;
        let out = scene
            .devbox(["up", "--config"])?
            .args([&file])
            .by(Caller::Ordinary)
            .run(wait::SOON)?
            .expect_code(1)?;
        out.expect_text(&[&file.display().to_string(), "envirnment", "3"])?;
        let missing = scene.folder().join("missing.yaml");
        let out = scene
            .devbox(["up", "--config"])?
            .args([&missing])
            .by(Caller::Ordinary)
            .run(wait::SOON)?
            .expect_code(1)?;
        out.expect_text(&[&missing.display().to_string()])?;
        Ok(())
    })
}

#[test]
fn a_refused_token_exits_with_1() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let file = scene.hosts_file(Caller::Ordinary)?;
        let wrong = scene.write_secret("wrong-token", "let-me-in\n", Caller::Ordinary)?;
        let out = scene
            .devbox([
                "up",
                "--gateway",
                &gateway.url(),
                "--env",
                scene.environment(),
                "--token-file",
            ])?
            .args([&wrong])
            .args(["--hosts-file"])
            .args([&file])
            .by(Caller::Ordinary)
            .run(2 * wait::SOON)?
            .expect_code(1)?
            .expect_text(&["token", &wrong.display().to_string()])?;
        ensure!(!out.everything().contains("let-me-in"), "the token is shown");
        hosts::expect_original(&file)
    })
}

#[test]
fn a_token_file_that_cannot_be_used_is_named() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let missing = scene.folder().join("no-such-token");
        let empty = scene.write_secret("empty-token", "\n", Caller::Ordinary)?;
        for file in [missing, empty] {
            let out = scene
                .devbox([
                    "up",
                    "--no-hosts",
                    "--gateway",
                    &gateway.url(),
                    "--env",
                    scene.environment(),
                    "--token-file",
                ])?
                .args([&file])
                .by(Caller::Ordinary)
                .run(wait::SOON)?
                .expect_code(1)?;
            out.expect_text(&[&file.display().to_string()])?;
        }
        Ok(())
    })
}

#[test]
fn an_unknown_environment_exits_with_1() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let token = gateway.token_file(Caller::Ordinary)?;
        let out = scene
            .devbox([
                "up",
                "--no-hosts",
                "--gateway",
                &gateway.url(),
                "--env",
                "elsewhere",
                "--token-file",
            ])?
            .args([&token])
            .by(Caller::Ordinary)
            .run(2 * wait::SOON)?
            .expect_code(1)?;
        out.expect_text(&["elsewhere"])?;
        Ok(())
    })
}

#[test]
fn a_gateway_that_never_answers_is_told_with_what_is_waited_for() -> Outcome {
    scenario(|scene| {
        // The system takes the connection; nobody says anything on it.
        let silent = std::net::TcpListener::bind((scene.address(), 0))?;
        let address = silent.local_addr()?;
        let token = scene.write_secret("token", "t0ken\n", Caller::Ordinary)?;
        let mut up = scene
            .devbox([
                "up",
                "--no-hosts",
                "--gateway",
                &format!("ws://{address}"),
                "--token-file",
            ])?
            .args([&token])
            .by(Caller::Ordinary)
            .start()?;
        let handshake = format!("waiting for the WebSocket handshake with {address}");
        up.wait_for_line("word of what is tried", wait::SOON, |line| {
            line.contains(&handshake)
        })?;
        ensure!(!up.errors().contains("did not answer"), "{}", up.errors());
        up.signal(Signal::TERM)?;
        ensure!(up.wait(wait::SOON)? == Exit::Code(0));
        Ok(())
    })
}

#[test]
fn a_namespace_without_services_is_told_with_the_nearest_one() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let up = Up::start_with(
            &gateway,
            &UpOptions::new(Caller::Ordinary).arguments(["--namespace", "dmeo"]),
        )?;
        up.process()
            .wait_for_line("word of the namespace", wait::SOON, |line| {
                line.contains("no service is in the namespace `dmeo`") && line.contains("`demo`?")
            })?;
        Ok(())
    })
}

#[test]
fn an_unreachable_gateway_exits_with_2_and_says_what_was_tried_for_how_long() -> Outcome {
    scenario(|scene| {
        let nobody = scene.free_address()?;
        let file = scene.hosts_file(Caller::Ordinary)?;
        let token = scene.write_secret("token", "t0ken\n", Caller::Ordinary)?;
        let started = Instant::now();
        let out = scene
            .devbox([
                "up",
                "--gateway",
                &format!("ws://{nobody}"),
                "--env",
                scene.environment(),
                "--token-file",
            ])?
            .args([&token])
            .args(["--hosts-file"])
            .args([&file])
            .by(Caller::Ordinary)
            .run(Duration::from_secs(60))?
            .expect_code(2)?
            .expect_text(&[&nobody.to_string(), "refused"])?;
        ensure!(
            out.errors().contains(" s") || out.errors().contains("ms"),
            "no time: {}",
            out.errors()
        );
        ensure!(
            started.elapsed() < Duration::from_secs(45),
            "it took {:?}",
            started.elapsed()
        );
        hosts::expect_original(&file)
    })
}

#[test]
fn something_that_is_no_gateway_is_told_apart() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let token = scene.write_secret("token", "t0ken\n", Caller::Ordinary)?;
        let out = scene
            .devbox([
                "up",
                "--no-hosts",
                "--gateway",
                &format!("ws://{}", echo.address()),
                "--token-file",
            ])?
            .args([&token])
            .by(Caller::Ordinary)
            .run(Duration::from_secs(60))?;
        ensure!(out.exit != Exit::Code(0), "it was content with an echo service");
        out.expect_text(&[&echo.address().to_string()])?;
        Ok(())
    })
}

#[test]
fn a_token_is_not_sent_unencrypted_to_another_machine() -> Outcome {
    scenario(|scene| {
        let token = scene.write_secret("token", "t0ken\n", Caller::Ordinary)?;
        // Nobody has an address in 192.0.2.0/24 (RFC 5737). A program that tried to connect would not return at once.
        for gateway in ["ws://192.0.2.1:8080", "ws://gateway.example"] {
            let out = scene
                .devbox(["up", "--no-hosts", "--gateway", gateway, "--token-file"])?
                .args([&token])
                .by(Caller::Ordinary)
                .run(Duration::from_secs(5))?
                .expect_code(1)?;
            out.expect_text(&["--insecure", "wss://"])?;
        }
        Ok(())
    })
}

#[test]
fn a_token_is_never_shown() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let up = Up::start_with(&gateway, &UpOptions::new(Caller::Ordinary).arguments(["-vv"]))?;
        let seen = up.process().everything() + &gateway.process()?.everything();
        ensure!(!seen.contains(TOKEN), "{seen}");
        ensure!(!devbox_tests::proc::command_line(up.process().pid()).contains(TOKEN));
        Ok(())
    })
}

#[test]
fn without_the_right_to_edit_the_hosts_file_it_says_what_to_do() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let file = if Caller::own() == Caller::Root {
            scene.hosts_file(Caller::Root)?
        } else {
            std::path::PathBuf::from("/etc/hosts")
        };
        let before = std::fs::read(&file)?;
        let out = gateway
            .devbox("up", Caller::Ordinary)?
            .args(["--hosts-file"])
            .args([&file])
            .run(2 * wait::SOON)?
            .expect_code(1)?
            .expect_text(&[&file.display().to_string(), "sudo", "--no-hosts", "devbox exec"])?;
        // The exact lines, with the addresses that a session with --no-hosts has.
        let text = out.everything();
        let line = text
            .lines()
            .find(|line| line.contains("127.77.") && line.contains("echo.demo"));
        let line = line.with_context(|| format!("the lines to add are not shown:\n{text}"))?;
        let digits = line.find("127.77.").map_or("", |at| &line[at..]);
        let words = digits.split_ascii_whitespace().next().unwrap_or_default();
        ensure!(std::fs::read(&file)? == before);
        // Run the printed command as someone with permission.
        if Caller::own() == Caller::Root {
            let script = text
                .lines()
                .skip_while(|line| !line.contains("mktemp") && !line.contains("sudo tee"));
            let script = script
                .take_while(|line| !line.contains("Other ways"))
                .collect::<Vec<_>>()
                .join("\n");
            let script = format!("sudo() {{ \"$@\"; }}\n{script}");
            scene
                .command(["sh", "-c", &script])
                .run(wait::SOON)?
                .expect_success()?;
            ensure!(hosts::address_of(&file, "echo.demo")?.to_string() == words);
            ensure!(
                hosts::lookup(&file, "last.lan").is_some(),
                "the command damaged the user's last line"
            );
        }
        let up = gateway
            .devbox("up", Caller::Ordinary)?
            .args(["--no-hosts"])
            .start()?;
        up.wait_for_line("the line `ready`", 2 * wait::SOON, |line| line == "ready")?;
        ensure!(
            up.output().contains(words),
            "--no-hosts has other addresses than {words}:\n{}",
            up.output()
        );
        Ok(())
    })
}

#[test]
fn a_locked_hosts_file_exits_with_2_and_says_how_long_it_tried() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let file = scene.hosts_file(Caller::Ordinary)?;
        // A session that takes the lock shows which file it is.
        let watch = hosts::Watch::start(&file)?;
        let options = UpOptions::new(Caller::Ordinary).hosts(&file);
        drop(Up::start_with(&gateway, &options)?);
        let made = watch.made_beside()?;
        let lock = made.iter().find(|name| name.to_string_lossy().contains("lock"));
        let lock = lock.with_context(|| format!("no lock among {made:?}"))?;
        let lock = file.with_file_name(lock);
        let held = std::fs::File::create(&lock)?;
        scene.give(&lock, Caller::Ordinary)?;
        held.lock()?;
        let mut up = Up::launch(&gateway, &options)?;
        let exit = up.process_mut().wait(2 * wait::SOON)?;
        ensure!(exit == Exit::Code(2), "{exit}");
        let text = up.process().errors();
        ensure!(
            text.contains("lock") && text.contains(&file.display().to_string()),
            "{text}"
        );
        ensure!(text.contains(" s"), "it does not say how long it tried: {text}");
        hosts::expect_original(&file)?;
        // If the lock is released in time, the session just waits for it.
        let mut up = Up::launch(&gateway, &options)?;
        wait::stays("no line `ready`", Duration::from_millis(300), || {
            !up.process().output().contains("ready")
        })?;
        held.unlock()?;
        up.wait_until_ready()?;
        ensure!(up.process_mut().ended()?.is_none());
        Ok(())
    })
}

#[test]
fn a_read_only_folder_is_no_lock() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        // The caller owns the file, but can write neither to it nor to its folder.
        let file = scene.hosts_file(Caller::Ordinary)?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o444))?;
        let folder = file.parent().map(std::path::Path::to_owned).unwrap_or_default();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o555))?;
        let started = Instant::now();
        let out = gateway
            .devbox("up", Caller::Ordinary)?
            .args(["--hosts-file"])
            .args([&file])
            .run(2 * wait::SOON)?
            .expect_code(1)?;
        ensure!(
            started.elapsed() < Duration::from_secs(5),
            "a missing right was taken for a lock"
        );
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755))?;
        out.expect_text(&[&file.display().to_string()])?;
        hosts::expect_original(&file)
    })
}

#[test]
fn a_port_that_somebody_holds_is_degraded_and_the_holder_named() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        // It is held on every address, so no other address of the pool would help.
        let holder = std::net::TcpListener::bind("0.0.0.0:0")?;
        let port = holder.local_addr()?.port();
        let catalog = scene.catalog(&[
            Service::new("held", "demo", port, echo.address()),
            Service::new("echo", "demo", PORT, echo.address()),
        ])?;
        let gateway = Gateway::start(scene, &catalog)?;
        let up = Up::start(&gateway, Caller::Ordinary)?;
        up.connect("echo.demo", PORT)?;
        ensure!(
            hosts::lookup(up.hosts(), "held.demo").is_none(),
            "a name without a listener"
        );
        let out = up.status(&[])?.run(wait::SOON)?.expect_success()?;
        out.expect_text(&["held.demo", &port.to_string(), "in use"])?;
        Ok(())
    })
}

#[test]
fn ports_that_only_root_may_bind_are_one_line_with_one_value() -> Outcome {
    scenario(|scene| {
        let free =
            std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
        let free: u16 = free.trim().parse().unwrap_or(1024);
        if free <= 443 {
            return Err(Skip::new("every user may bind port 443 here (ip_unprivileged_port_start)").into());
        }
        let echo = Echo::start(scene)?;
        let lowest = 81.min(free - 1);
        let catalog = scene.catalog(&[
            Service::new("web", "demo", lowest, echo.address()).port(443, echo.address()),
            Service::new("mail", "demo", 443, echo.address()),
            Service::new("echo", "demo", PORT, echo.address()),
        ])?;
        let gateway = Gateway::start(scene, &catalog)?;
        let up = Up::start(&gateway, Caller::Ordinary)?;
        up.connect("echo.demo", PORT)?;
        let told = up.process().errors();
        let lines: Vec<_> = told.lines().filter(|line| line.contains("not offered")).collect();
        let [line] = lines.as_slice() else {
            anyhow::bail!("not one line:\n{told}")
        };
        ensure!(line.contains("2 services") && line.contains("3 ports"), "{line}");
        let value = format!("ip_unprivileged_port_start={lowest}`");
        ensure!(line.ends_with(&value), "{line}");
        // The table has no other value.
        let status = up.status(&[])?.run(wait::SOON)?.expect_success()?;
        ensure!(!status.output().contains("_start="), "{}", status.output());
        Ok(())
    })
}
