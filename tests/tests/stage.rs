//! The stage itself: each service answers its own client directly, processes end with their test, and a private view of the
//! machine is private. A failure here is not devbox's fault.
#![cfg(target_os = "linux")]

use std::time::Duration;

use anyhow::ensure;
use devbox_tests::peers::{AfterEnd, Echo, Greeter};
use devbox_tests::services::{GitDaemon, Nginx, Postgres, Redis, Rsyncd, Sshd, bare_repository};
use devbox_tests::{
    Caller, Exit, Machine, Outcome, Signal, hosts, need_netcat, need_program, proc, scenario, wait,
};

#[test]
fn postgres_answers_psql() -> Outcome {
    scenario(|scene| {
        let postgres = Postgres::start(scene)?;
        let address = postgres.address();
        let out = scene
            .command([
                "psql",
                "-h",
                &address.ip().to_string(),
                "-p",
                &address.port().to_string(),
                "-U",
                "dev",
            ])
            .args(["-d", "postgres", "-Atc", "select 6*7"])
            .run(wait::SOON)?
            .expect_success()?;
        ensure!(out.output() == "42\n");
        Ok(())
    })
}

#[test]
fn redis_answers_its_benchmark() -> Outcome {
    scenario(|scene| {
        let redis = Redis::start(scene)?;
        let address = redis.address();
        let out = scene
            .command([
                "redis-benchmark",
                "-h",
                &address.ip().to_string(),
                "-p",
                &address.port().to_string(),
            ])
            .args(["-q", "-n", "1000", "-t", "set"])
            .run(wait::SOON)?
            .expect_success()?;
        ensure!(out.output().contains("requests per second"), "{}", out.output());
        Ok(())
    })
}

#[test]
fn nginx_answers_curl_under_a_bound_name() -> Outcome {
    scenario(|scene| {
        need_program("curl", "curl")?;
        let nginx = Nginx::start(scene)?;
        let address = nginx.address();
        let line = format!("{} web.lan\n", address.ip());
        let names = scene.write("names", [hosts::ORIGINAL, b"\n", line.as_bytes()].concat())?;
        for caller in [Caller::own(), Caller::Ordinary] {
            let out = scene
                .command([
                    "curl",
                    "-sS",
                    "--noproxy",
                    "*",
                    &format!("http://web.lan:{}/", address.port()),
                ])
                .by(caller)
                .seeing_hosts(&names)
                .run(wait::SOON)?
                .expect_success()?;
            ensure!(out.output() == "hello from nginx\n");
        }
        Ok(())
    })
}

#[test]
fn sshd_lets_the_key_in_and_git_and_rsync_ride_on_it() -> Outcome {
    scenario(|scene| {
        need_program("rsync", "rsync")?;
        let sshd = Sshd::start(scene)?;
        let repository = bare_repository(scene, Caller::own())?;
        let ssh = sshd
            .client(scene, Caller::Ordinary, "shell.lan", sshd.address().port())?
            .join(" ");
        let names = scene.write(
            "names",
            format!("127.0.0.1 localhost\n{} shell.lan\n", sshd.address().ip()),
        )?;
        let here = repository.display();
        let script = format!(
            "set -e; test \"$({ssh} shell.lan echo inside)\" = inside; \
             GIT_SSH_COMMAND='{ssh}' git clone -q ssh://shell.lan{here}/things.git cloned; \
             rsync -rt -e '{ssh}' shell.lan:{here}/source/noise .; cmp noise cloned/noise"
        );
        let client = scene
            .command(["sh", "-c", &script])
            .by(Caller::Ordinary)
            .seeing_hosts(&names);
        client.run(2 * wait::SOON)?.expect_success()?;
        Ok(())
    })
}

#[test]
fn git_daemon_and_rsyncd_serve_a_folder() -> Outcome {
    scenario(|scene| {
        let repository = bare_repository(scene, Caller::Ordinary)?;
        let git = GitDaemon::start(scene, &repository)?;
        let rsyncd = Rsyncd::start(scene, &repository)?;
        let script = format!(
            "set -e; git clone -q git://{}/things.git cloned; rsync -rt rsync://{}/things/source/noise .; cmp noise cloned/noise",
            git.address(),
            rsyncd.address()
        );
        scene
            .command(["sh", "-c", &script])
            .by(Caller::Ordinary)
            .run(2 * wait::SOON)?
            .expect_success()?;
        Ok(())
    })
}

#[test]
fn a_half_closed_connection_still_gets_its_answer() -> Outcome {
    scenario(|scene| {
        let netcat = need_netcat()?;
        let peer = AfterEnd::start(scene)?;
        let address = peer.address();
        let out = scene
            .command([netcat])
            .args(["-N", &address.ip().to_string(), &address.port().to_string()])
            .stdin(vec![b'q'; 300_000])
            .run(wait::SOON)?
            .expect_success()?;
        ensure!(out.output().starts_with("got 300000 bytes\nxxx"));
        ensure!(out.stdout.len() == "got 300000 bytes\n".len() + AfterEnd::TAIL);
        Ok(())
    })
}

#[test]
fn peers_answer() -> Outcome {
    use std::io::{Read, Write};
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let mut stream = std::net::TcpStream::connect(echo.address())?;
        stream.write_all(b"there and back")?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        ensure!(text == "there and back" && echo.accepted() == 1);
        let greeter = Greeter::start(scene, "good day")?;
        let mut text = String::new();
        std::net::TcpStream::connect(greeter.address())?.read_to_string(&mut text)?;
        ensure!(text == "good day\n");
        Ok(())
    })
}

#[test]
fn a_machine_has_its_own_hosts_file() -> Outcome {
    scenario(|scene| {
        let before = std::fs::read("/etc/hosts")?;
        let machine = Machine::start(scene)?;
        let script = "cp /etc/hosts /etc/new && echo 10.1.1.1 new.lan > /etc/new && mv /etc/new /etc/hosts && getent hosts new.lan";
        scene
            .command(["sh", "-c", script])
            .inside(&machine)
            .run(wait::SOON)?
            .expect_success()?
            .expect_text(&["10.1.1.1"])?;
        ensure!(hosts::lookup(&machine.hosts(), "new.lan").is_some());
        ensure!(std::fs::read("/etc/hosts")? == before);
        Ok(())
    })
}

#[test]
fn a_process_and_its_group_end_with_the_test() -> Outcome {
    scenario(|scene| {
        let process = scene
            .command(["sh", "-c", "sleep 1000 & echo started; wait"])
            .start()?;
        process.wait_for_line("its start", wait::SOON, |line| line == "started")?;
        let pid = process.pid();
        let mut pids = proc::descendants(pid);
        ensure!(pids.len() == 1, "{pids:?}");
        pids.push(pid);
        drop(process);
        proc::wait_until_gone(&pids, wait::SOON)
    })
}

#[test]
fn a_signal_and_a_code_are_told_apart() -> Outcome {
    scenario(|scene| {
        let mut process = scene.command(["sleep", "1000"]).start()?;
        wait::until("sleep to be itself", wait::SOON, || {
            (proc::command_line(process.pid()) == "sleep 1000").then_some(())
        })?;
        process.signal(Signal::TERM)?;
        ensure!(process.wait(wait::SOON)? == Exit::Signal(15));
        let out = scene.command(["sh", "-c", "exit 143"]).run(wait::SOON)?;
        ensure!(out.exit == Exit::Code(143));
        ensure!(
            scene
                .command(["sleep", "1000"])
                .run(Duration::from_millis(200))
                .is_err()
        );
        Ok(())
    })
}

#[test]
fn a_terminal_passes_keys_and_its_size() -> Outcome {
    scenario(|scene| {
        let mut terminal = scene
            .command(["bash", "--norc", "-i"])
            .env("PS1", "ready> ")
            .start_on_terminal()?;
        let at = terminal.wait_for("ready> ", 0)?;
        terminal.line("sleep 1000")?;
        terminal.wait_for_foreground("sleep 1000")?;
        terminal.keys("\x03")?;
        let at = terminal.wait_for("ready> ", at)?;
        terminal.resize(101, 33)?;
        terminal.line("stty size")?;
        let at = terminal.wait_for("33 101\n", at)?;
        terminal.wait_for("ready> ", at)?;
        terminal.line("exit 7")?;
        ensure!(terminal.wait(wait::SOON)? == Exit::Code(7));
        Ok(())
    })
}
