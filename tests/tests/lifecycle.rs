//! A session's life: what it changes while it runs, and that everything is undone, however it ends.
#![cfg(target_os = "linux")]

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use devbox_tests::peers::{Echo, is_closed};
use devbox_tests::{
    Caller, Exit, Gateway, Outcome, Result, Service, Signal, Up, files_below, hosts, proc, scenario, wait,
};

const PORT: u16 = 7100;

#[test]
fn interrupt_terminate_and_hangup_undo_everything() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        for caller in Caller::possible() {
            for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
                let mut up = Up::start(&gateway, caller)?;
                let address = up.address_of("echo.demo")?;
                Echo::ask(SocketAddr::new(address, PORT))?;
                let mut below = proc::descendants(up.process().pid());
                below.push(up.process().pid());
                up.process().signal(signal)?;
                let exit = up.process_mut().wait(wait::SOON)?;
                ensure!(exit == Exit::Code(0), "{signal:?} as {}: {exit}", caller.name());
                hosts::expect_original(up.hosts())?;
                ensure!(
                    is_closed(SocketAddr::new(address, PORT)),
                    "something still listens at {address}"
                );
                proc::wait_until_gone(&below, wait::SOON)?;
            }
        }
        Ok(())
    })
}

#[test]
fn a_dry_run_prints_the_change_and_makes_none() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let file = scene.hosts_file(Caller::Ordinary)?;
        let inode = std::fs::metadata(&file)?.ino();
        let out = gateway
            .devbox("up", Caller::Ordinary)?
            .args(["--dry-run", "--hosts-file"])
            .args([&file])
            .run(2 * wait::SOON)?
            .expect_success()?
            .expect_text(&["echo.demo", "127.77.", "# BEGIN devbox-", "# END devbox-"])?;
        ensure!(
            out.output()
                .lines()
                .any(|line| line.starts_with('+') && line.contains("echo.demo")),
            "no diff: {}",
            out.output()
        );
        hosts::expect_original(&file)?;
        ensure!(std::fs::metadata(&file)?.ino() == inode, "the file was replaced");
        ensure!(echo.accepted() == 0);
        Ok(())
    })
}

/// As data: who listens on a wanted port, and which other tool takes addresses of the pool, each with a way out.
#[test]
fn a_dry_run_tells_what_is_in_the_way_before_anything_changes() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let held = std::net::TcpListener::bind("0.0.0.0:0")?;
        let port = held.local_addr()?.port();
        let catalog = scene.catalog(&[Service::new("db", "demo", port, echo.address())])?;
        let file = scene.hosts_file(Caller::own())?;
        let up = scene.devbox(["up", "--dry-run", "--output", "json", "--pool", "127.1.27.0/24"])?;
        let up = up.args(["--catalog"]).args([catalog.path()]);
        let up = up.args(["--hosts-file"]).args([&file]);
        let plan = up.run(2 * wait::SOON)?.expect_success()?.json()?;
        let conflicts = plan["conflicts"].as_array().context("no conflicts")?;
        let with = |kind: &str| conflicts.iter().find(|found| found["clash"]["kind"] == kind);

        let listener = with("listener").with_context(|| plan.to_string())?;
        let clash = &listener["clash"]["listener"];
        ensure!(clash["address"] == format!("0.0.0.0:{port}"), "{listener}");
        ensure!(clash["program"]["pid"] == std::process::id(), "{listener}");
        ensure!(
            listener["verdict"] == "blocks" && listener["fix"] == "free_port",
            "{listener}"
        );
        let tool = with("tool").with_context(|| plan.to_string())?;
        ensure!(
            tool["clash"]["tool"] == "kubefwd" && tool["verdict"] == "warns",
            "{tool}"
        );
        ensure!(tool["fix"]["use_prefix"].is_string(), "{tool}");
        hosts::expect_original(&file)?;

        // A port that nobody has, and a pool that nobody else takes.
        drop(held);
        let free = scene.devbox(["up", "--dry-run", "--output", "json"])?;
        let free = free.args(["--catalog"]).args([catalog.path()]);
        let free = free.args(["--hosts-file"]).args([&file]);
        let plan = free.run(2 * wait::SOON)?.expect_success()?.json()?;
        ensure!(plan["conflicts"].as_array().is_some_and(Vec::is_empty), "{plan}");
        Ok(())
    })
}

#[test]
fn without_hosts_the_services_are_there_by_address() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let mut up = gateway
            .devbox("up", Caller::Ordinary)?
            .args(["--no-hosts"])
            .start()?;
        up.wait_for_line("the line `ready`", 2 * wait::SOON, |line| line == "ready")?;
        let line = up.wait_for_line("a row for echo.demo", wait::SOON, |line| {
            line.contains("echo.demo")
        })?;
        let address = line
            .split_ascii_whitespace()
            .find_map(|word| word.parse::<IpAddr>().ok());
        let address = address.with_context(|| format!("no address in {line:?}"))?;
        Echo::ask(SocketAddr::new(address, PORT))?;
        up.signal(Signal::TERM)?;
        ensure!(up.wait(wait::SOON)? == Exit::Code(0));
        ensure!(is_closed(SocketAddr::new(address, PORT)));
        Ok(())
    })
}

#[test]
fn json_output_is_one_object_a_line_and_tells_the_addresses() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let file = scene.hosts_file(Caller::Ordinary)?;
        let mut up = gateway
            .devbox("up", Caller::Ordinary)?
            .args(["--output", "json", "--hosts-file"])
            .args([&file])
            .start()?;
        let ready = |line: &str| {
            let value: serde_json::Value = serde_json::from_str(line).ok()?;
            (value["event"] == "ready").then_some(value)
        };
        let line = up.wait_for_line("the event `ready`", 2 * wait::SOON, |line| ready(line).is_some())?;
        let event = ready(&line).context("not ready")?;
        let service = &event["status"]["services"][0];
        ensure!(
            service["names"]
                .as_array()
                .is_some_and(|names| names.contains(&"echo.demo".into())),
            "{service}"
        );
        let address: IpAddr = service["addresses"][0].as_str().context("no address")?.parse()?;
        ensure!(address == hosts::address_of(&file, "echo.demo")?);
        Echo::ask(SocketAddr::new(address, PORT))?;
        up.signal(Signal::TERM)?;
        ensure!(up.wait(wait::SOON)? == Exit::Code(0));
        for line in up.output().lines() {
            let value: serde_json::Value =
                serde_json::from_str(line).with_context(|| format!("no JSON: {line:?}"))?;
            ensure!(value.is_object(), "{value}");
        }
        Ok(())
    })
}

#[test]
fn a_low_soft_limit_of_open_files_is_raised() -> Outcome {
    const SERVICES: usize = 300;
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let services: Vec<_> = (0..SERVICES)
            .map(|number| Service::new(&format!("s{number}"), "demo", PORT, echo.address()))
            .collect();
        let catalog = scene.catalog(&services)?;
        let file = scene.hosts_file(Caller::Ordinary)?;
        // Fewer than there are services, each of which needs a listener.
        let limited = ["sh", "-c", "ulimit -S -n 128; exec \"$0\" \"$@\""].map(OsString::from);
        let mut up = scene
            .command(limited)
            .args([
                scene.devbox_program()?.into_os_string(),
                "up".into(),
                "--catalog".into(),
            ])
            .args([
                catalog.path().as_os_str(),
                "--hosts-file".as_ref(),
                file.as_os_str(),
            ])
            .by(Caller::Ordinary)
            .start()?;
        up.wait_for_line("the line `ready`", 2 * wait::SOON, |line| {
            line.trim_end() == "ready"
        })?;
        ensure!(up.errors().is_empty(), "{}", up.errors());
        ensure!(up.output().lines().count() == SERVICES + 2, "{}", up.output());
        let last = format!("s{}.demo", SERVICES - 1);
        Echo::ask(SocketAddr::new(hosts::address_of(&file, &last)?, PORT))?;
        up.signal(Signal::TERM)?;
        ensure!(up.wait(wait::SOON)? == Exit::Code(0));
        hosts::expect_original(&file)
    })
}

#[test]
fn it_works_without_home_and_runtime_directory_and_writes_nothing_around() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let folder = scene.working_directory(Caller::Ordinary)?;
        let file = scene.hosts_file(Caller::Ordinary)?;
        let mut up = gateway
            .devbox("up", Caller::Ordinary)?
            .args(["--hosts-file"])
            .args([&file])
            .env("HOME", "/nonexistent")
            .env_remove("XDG_RUNTIME_DIR")
            .start()?;
        up.wait_for_line("the line `ready`", 2 * wait::SOON, |line| line == "ready")?;
        Echo::ask(SocketAddr::new(hosts::address_of(&file, "echo.demo")?, PORT))?;
        let told = up.errors().to_lowercase().matches("memory").count();
        ensure!(
            told == 1,
            "that state stays in memory is said {told} times:\n{}",
            up.errors()
        );
        up.signal(Signal::TERM)?;
        ensure!(up.wait(wait::SOON)? == Exit::Code(0));
        hosts::expect_original(&file)?;
        ensure!(
            files_below(&folder).is_empty(),
            "in the working directory: {:?}",
            files_below(&folder)
        );
        Ok(())
    })
}

#[test]
fn a_configuration_file_is_found_from_the_working_directory_upward() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let token = gateway.token_file(Caller::Ordinary)?;
        let project = scene.folder_of("project", Caller::Ordinary)?;
        let below = scene.folder_of("project/src/deep", Caller::Ordinary)?;
        let text = format!(
            "gateway: {}\ntoken_file: {}\nenvironment: {}\nnames: {{active: demo}}\npool: 127.76.0.0/16\n",
            gateway.url(),
            token.display(),
            scene.environment()
        );
        std::fs::write(project.join("devbox.yaml"), text)?;
        let file = scene.hosts_file(Caller::Ordinary)?;
        let up = scene
            .devbox(["up", "--hosts-file"])?
            .args([&file])
            .by(Caller::Ordinary)
            .in_folder(below)
            .start()?
            .stop_with(Signal::TERM);
        up.wait_for_line("the line `ready`", 2 * wait::SOON, |line| line == "ready")?;
        let address = hosts::address_of(&file, "echo")?;
        ensure!(address == hosts::address_of(&file, "echo.demo")?);
        ensure!(
            address.to_string().starts_with("127.76."),
            "the pool is not the file's: {address}"
        );
        Echo::ask(SocketAddr::new(address, PORT))
    })
}

#[test]
fn root_gets_ports_below_1024() -> Outcome {
    scenario(|scene| {
        scene.need_root()?;
        let echo = Echo::start(scene)?;
        let catalog = scene.catalog(&[Service::new("echo", "demo", 81, echo.address())])?;
        let gateway = Gateway::start(scene, &catalog)?;
        let up = Up::start(&gateway, Caller::Root)?;
        let mut stream = up.connect("echo.demo", 81)?;
        stream.write_all(b"low")?;
        let mut back = [0; 3];
        stream.read_exact(&mut back)?;
        ensure!(&back == b"low");
        Ok(())
    })
}

#[test]
fn an_open_connection_is_drained_for_a_while_and_then_cut() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let mut up = Up::start(&gateway, Caller::Ordinary)?;
        let mut open = up.connect("echo.demo", PORT)?;
        open.write_all(b"before")?;
        open.read_exact(&mut [0; 6])?;
        up.process().signal(Signal::TERM)?;
        // The names are removed first, while open connections still work.
        wait::until("the names withdrawn", wait::SOON, || {
            hosts::is_original(up.hosts()).then_some(())
        })?;
        open.write_all(b"while it drains")?;
        open.read_exact(&mut [0; 15])?;
        let exit = up.process_mut().wait(wait::SOON)?;
        ensure!(exit == Exit::Code(0), "{exit}");
        ensure!(
            open.read(&mut [0]).is_err(),
            "what was cut ended as if all had been said"
        );
        Ok(())
    })
}

#[test]
fn a_second_signal_does_not_wait_for_the_drain() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let mut up = Up::start(&gateway, Caller::Ordinary)?;
        let mut open = up.connect("echo.demo", PORT)?;
        open.write_all(b"before")?;
        open.read_exact(&mut [0; 6])?;
        up.process().signal(Signal::INT)?;
        wait::until("the names withdrawn", wait::SOON, || {
            hosts::is_original(up.hosts()).then_some(())
        })?;
        let started = Instant::now();
        up.process().signal(Signal::INT)?;
        up.process_mut().wait(wait::SOON)?;
        ensure!(
            started.elapsed() < Duration::from_secs(2),
            "it took {:?}",
            started.elapsed()
        );
        hosts::expect_original(up.hosts())
    })
}

#[test]
fn ctrl_c_with_open_connections_says_what_is_waited_for() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let mut up = Up::start(&gateway, Caller::Ordinary)?;
        let mut open = up.connect("echo.demo", PORT)?;
        open.write_all(b"before")?;
        open.read_exact(&mut [0; 6])?;
        up.process().signal(Signal::INT)?;
        up.process()
            .wait_for_line("word of the open connection", wait::SOON, |line| {
                line.contains("waiting up to 3 s for 1 open connection to end; press Ctrl-C again")
            })?;
        let status = up.status(&[])?.run(wait::SOON)?.expect_success()?;
        status.expect_text(&[", ending", "closed, ending"])?;
        ensure!(up.process_mut().wait(wait::SOON)? == Exit::Code(0));
        hosts::expect_original(up.hosts())
    })
}

/// A process that stands still for as long as this lives.
struct Halted(rustix::process::Pid);

impl Halted {
    fn new(pid: u32) -> Result<Halted> {
        let pid = rustix::process::Pid::from_raw(pid.try_into()?).context("no process id")?;
        rustix::process::kill_process(pid, Signal::STOP)?;
        Ok(Halted(pid))
    }
}

impl Drop for Halted {
    fn drop(&mut self) {
        // It may have ended.
        rustix::process::kill_process(self.0, Signal::CONT).ok();
    }
}

/// The limit is a second; the rest is for a machine that is busy.
const AT_ONCE: Duration = Duration::from_secs(2);

#[test]
fn a_second_signal_ends_it_at_once_although_the_helper_hangs() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let mut up = Up::start(&gateway, Caller::Ordinary)?;
        let helper = proc::helper_of(up.process().pid())?;
        let halted = Halted::new(helper)?;
        up.process().signal(Signal::TERM)?;
        wait::until("the session that ends", wait::SOON, || {
            let status = up.status(&[]).ok()?.run(wait::SOON).ok()?;
            status.output().contains(", ending").then_some(())
        })?;
        let started = Instant::now();
        up.process().signal(Signal::TERM)?;
        let exit = up.process_mut().wait(wait::SOON)?;
        ensure!(started.elapsed() < AT_ONCE, "it took {:?}", started.elapsed());
        ensure!(exit == Exit::Code(2), "{exit}");
        let errors = up.process().errors();
        ensure!(
            errors.contains(&format!("the helper (pid {helper}) undoes the rest")),
            "{errors}"
        );
        drop(halted);
        proc::wait_until_gone(&[helper], wait::SOON)?;
        hosts::expect_original(up.hosts())
    })
}

#[test]
fn a_second_signal_ends_it_at_once_although_nobody_reads_what_it_prints() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let file = scene.hosts_file(Caller::Ordinary)?;
        let pipe = scene.folder_of("pipe", Caller::Ordinary)?.join("full");
        scene
            .command(["mkfifo", "-m", "666"])
            .args([&pipe])
            .by(Caller::Ordinary)
            .run(wait::SOON)?
            .expect_success()?;
        // Opened for both, so that neither end waits for the other, and filled.
        let mut full = std::fs::OpenOptions::new();
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let mut full = full.read(true).write(true).custom_flags(flags).open(&pipe)?;
        while full.write(&[b'x'; 4096]).is_ok() {}
        let shell = ["sh", "-c", "exec \"$@\" >\"$0\" 2>\"$0\""].map(OsString::from);
        let mut up = scene
            .command(shell)
            .args([
                pipe.as_os_str(),
                scene.devbox_program()?.as_os_str(),
                "up".as_ref(),
            ])
            .args(gateway.flags(Caller::Ordinary)?)
            .args(["--hosts-file".as_ref(), file.as_os_str()])
            .by(Caller::Ordinary)
            .start()?;
        let waits_in = format!("/proc/{}/wchan", up.pid());
        wait::until("the session stuck in what it prints", 2 * wait::SOON, || {
            let kernel_function = std::fs::read_to_string(&waits_in).ok()?;
            kernel_function.contains("pipe_write").then_some(())
        })?;
        up.signal(Signal::TERM)?;
        wait::stays(
            "running, with nobody who reads",
            Duration::from_millis(300),
            || matches!(up.ended(), Ok(None)),
        )?;
        let started = Instant::now();
        up.signal(Signal::TERM)?;
        let exit = up.wait(wait::SOON)?;
        ensure!(started.elapsed() < AT_ONCE, "it took {:?}", started.elapsed());
        ensure!(exit == Exit::Code(2), "{exit}");
        drop(full);
        wait::until("everything undone", wait::SOON, || {
            hosts::is_original(&file).then_some(())
        })
    })
}

#[test]
fn a_reader_that_went_away_ends_nothing() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let file = scene.hosts_file(Caller::Ordinary)?;
        // Like `devbox up | head -n 1`, with a later change of the catalog, which is reported to closed streams.
        let up = gateway
            .devbox("up", Caller::Ordinary)?
            .args(["--hosts-file"])
            .args([&file])
            .output_closed();
        let up = up.start()?.stop_with(Signal::TERM);
        wait::until_ok("the names", 2 * wait::SOON, || {
            hosts::address_of(&file, "echo.demo")
        })?;
        gateway
            .catalog()
            .replace(&[Service::new("late", "demo", PORT, echo.address())])?;
        let address = wait::until_ok("the late name", wait::SOON, || {
            hosts::address_of(&file, "late.demo")
        })?;
        Echo::ask(SocketAddr::new(address, PORT))?;
        drop(up);
        hosts::expect_original(&file)
    })
}
