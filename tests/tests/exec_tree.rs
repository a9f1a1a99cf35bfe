//! How long `devbox exec` keeps the names and connections: until the last process of the command's tree has ended, and for as
//! long as another `exec` shares the session.
#![cfg(target_os = "linux")]

use std::ffi::OsString;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use devbox_tests::peers::Echo;
use devbox_tests::pty::Terminal;
use devbox_tests::{
    Caller, Exit, Gateway, Outcome, Process, Result, Scene, Service, Signal, Skip, files_below, proc,
    scenario, wait,
};

const PORT: u16 = 7650;
const WHO: Caller = Caller::Ordinary;

/// A gateway whose one service answers with what it is told, and a file that tells commands to go on.
struct Stage<'a> {
    scene: &'a Scene,
    gateway: Gateway<'a>,
    echo: Echo,
}

impl<'a> Stage<'a> {
    fn new(scene: &'a Scene) -> Result<Self> {
        let probe = scene
            .command(["unshare", "--user", "--map-root-user", "--mount", "true"])
            .by(WHO);
        if probe.run(wait::SOON)?.exit != Exit::Code(0) {
            return Err(Skip::new("this system allows no user namespace here").into());
        }
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        Ok(Self { scene, gateway, echo })
    }

    /// `devbox exec` with these flags and a bash script, which can `ask` the service and wait until a file is `there`.
    fn exec(&self, flags: &[&str], script: &str) -> Result<devbox_tests::Exec<'a>> {
        let script = format!(
            "ask() {{ exec 3<>/dev/tcp/echo.demo/{PORT} && echo $1 >&3 && read -u 3 line && echo $line; }}; \
             there() {{ until [ -e '{}'/$1 ]; do sleep 0.02; done; }}; {script}",
            self.scene.folder().display()
        );
        let words = ["--", "bash", "-c", &script];
        Ok(self.gateway.devbox("exec", WHO)?.args(flags.to_vec()).args(words))
    }

    fn start(&self, script: &str) -> Result<Process> {
        let exec = self.exec(&[], script)?.start()?;
        exec.wait_for_line("its first answer", 2 * wait::SOON, |line| line == "hi")?;
        Ok(exec)
    }

    fn go(&self, name: &str) -> Result {
        self.scene.write(name, "")?;
        Ok(())
    }

    /// What a command left in its folder, once it is whole.
    fn written(&self, name: &str) -> Result<String> {
        let path = self.scene.working_directory(WHO)?.join(name);
        wait::until(&format!("the file {name}"), wait::SOON, || {
            std::fs::read_to_string(&path)
                .ok()
                .filter(|text| text.ends_with('\n'))
        })
    }

    fn sockets(&self) -> Vec<PathBuf> {
        files_below(&self.scene.folder().join(format!("run-{}", WHO.uid())))
    }

    fn links(&self) -> usize {
        proc::connections_at(self.gateway.address())
    }

    /// Nothing of any `exec` is there any more.
    fn expect_nothing_left(&self) -> Result {
        self.expect_nothing_left_but(&[])
    }

    fn expect_nothing_left_but(&self, programs: &[&str]) -> Result {
        let what = "the end of every exec and its session";
        let folder = self.scene.folder().display().to_string();
        wait::until_ok(what, wait::SOON, || {
            let left: Vec<_> = proc::with_environment(&folder)
                .into_iter()
                .map(proc::command_line)
                .filter(|line| !line.contains(" gateway serve"))
                .filter(|line| !programs.iter().any(|program| line.starts_with(program)))
                .collect();
            ensure!(left.is_empty(), "{left:?}");
            ensure!(self.links() == 0, "{} links", self.links());
            ensure!(self.sockets().is_empty(), "{:?}", self.sockets());
            Ok(())
        })
    }
}

#[test]
fn the_exit_code_comes_at_once_and_the_names_stay_for_what_still_runs() -> Outcome {
    scenario(|scene| {
        let stage = Stage::new(scene)?;
        let script = "(there go; ask late) >answer 2>&1 & exit 7";
        // It could not end before `go` if it waited for what it left behind.
        stage.exec(&[], script)?.run(2 * wait::SOON)?.expect_code(7)?;
        stage.go("go")?;
        ensure!(
            stage.written("answer")? == "late\n",
            "{}",
            stage.written("answer")?
        );
        stage.expect_nothing_left()
    })
}

#[test]
fn a_pipe_ends_although_something_still_runs() -> Outcome {
    scenario(|scene| {
        let stage = Stage::new(scene)?;
        let exec = stage.exec(
            &[],
            "(there go; ask late) >answer 2>&1 </dev/null & echo hi; exit 7",
        )?;
        let piped = ["sh", "-c", "{ \"$@\"; echo code $? >&2; } 2>&1 | cat", "sh"].map(OsString::from);
        let out = scene
            .command(piped)
            .args(exec.words().to_vec())
            .by(WHO)
            .run(2 * wait::SOON)?
            .expect_success()?;
        ensure!(out.output() == "hi\ncode 7\n", "{}", out.output());
        stage.go("go")?;
        ensure!(
            stage.written("answer")? == "late\n",
            "{}",
            stage.written("answer")?
        );
        stage.expect_nothing_left()
    })
}

#[test]
fn daemons_that_leave_their_session_are_waited_for_too() -> Outcome {
    scenario(|scene| {
        let stage = Stage::new(scene)?;
        let script =
            "export -f ask there; setsid --fork bash -c 'there go; ask late >answer 2>&1' >/dev/null 2>&1";
        stage.exec(&[], script)?.run(2 * wait::SOON)?.expect_success()?;
        stage.go("go")?;
        ensure!(
            stage.written("answer")? == "late\n",
            "{}",
            stage.written("answer")?
        );
        stage.expect_nothing_left()
    })
}

#[test]
fn no_wait_ends_everything_with_the_command() -> Outcome {
    scenario(|scene| {
        let stage = Stage::new(scene)?;
        let script = "(there go; ask late || echo refused) >answer 2>/dev/null & exit 7";
        stage
            .exec(&["--no-wait"], script)?
            .run(2 * wait::SOON)?
            .expect_code(7)?;
        ensure!(stage.sockets().is_empty(), "{:?}", stage.sockets());
        stage.go("go")?;
        ensure!(
            stage.written("answer")? == "refused\n",
            "{}",
            stage.written("answer")?
        );
        stage.expect_nothing_left()
    })
}

#[test]
fn what_remains_is_ended_by_a_signal_in_good_order() -> Outcome {
    scenario(|scene| {
        let stage = Stage::new(scene)?;
        let script = "(there go; ask late || echo refused) >answer 2>/dev/null & exit 7";
        stage.exec(&[], script)?.run(2 * wait::SOON)?.expect_code(7)?;
        let folder = scene.folder().display().to_string();
        let back = proc::with_environment(&folder)
            .into_iter()
            .find(|pid| proc::command_line(*pid).contains(" exec "));
        let back = back.and_then(|pid| rustix::process::Pid::from_raw(pid.try_into().ok()?));
        let Some(back) = back else {
            anyhow::bail!("nobody keeps the names up");
        };
        wait::until("the end of the session", wait::SOON, || {
            // What comes within a moment of the front's end counts as passed on by it, and is for the command alone. Fails once
            // it has ended.
            let _gone_or_told = rustix::process::kill_process(back, Signal::TERM);
            (stage.links() == 0 && stage.sockets().is_empty()).then_some(())
        })?;
        stage.go("go")?;
        ensure!(
            stage.written("answer")? == "refused\n",
            "{}",
            stage.written("answer")?
        );
        stage.expect_nothing_left()
    })
}

#[test]
fn eight_at_once_share_one_session() -> Outcome {
    scenario(|scene| {
        let stage = Stage::new(scene)?;
        let exec = stage.exec(&[], "ask hi; there go; ask again")?;
        let started: Result<Vec<_>> = (0..8).map(|_| exec.start()).collect();
        let mut started = started?;
        for exec in &started {
            exec.wait_for_line("its answer", 2 * wait::SOON, |line| line == "hi")?;
        }
        ensure!(stage.links() == 1, "{} links", stage.links());
        ensure!(stage.sockets().len() == 1, "{:?}", stage.sockets());
        stage.go("go")?;
        for exec in &mut started {
            let exit = exec.wait(wait::SOON)?;
            ensure!(exit == Exit::Code(0), "{exit}");
            ensure!(exec.output() == "hi\nagain\n", "{}", exec.everything());
        }
        stage.expect_nothing_left()
    })
}

#[test]
fn the_one_that_came_first_may_end_first() -> Outcome {
    scenario(|scene| {
        let stage = Stage::new(scene)?;
        let mut first = stage.start("ask hi; there first; exit 3")?;
        let mut second = stage.start("ask hi; there second; ask again")?;
        ensure!(stage.links() == 1, "{} links", stage.links());
        stage.go("first")?;
        // At once, although somebody still needs its session.
        ensure!(first.wait(wait::SOON)? == Exit::Code(3));
        ensure!(stage.links() == 1, "{} links", stage.links());
        // Whoever comes now joins as well.
        let mut third = stage.start("ask hi; there second; ask again")?;
        ensure!(stage.links() == 1, "{} links", stage.links());
        stage.go("second")?;
        for exec in [&mut second, &mut third] {
            ensure!(exec.wait(wait::SOON)? == Exit::Code(0));
            ensure!(exec.output() == "hi\nagain\n", "{}", exec.everything());
        }
        stage.expect_nothing_left()
    })
}

#[test]
fn a_command_that_is_not_there_does_not_end_the_session_of_others() -> Outcome {
    scenario(|scene| {
        let stage = Stage::new(scene)?;
        // Whichever of them comes first has the session.
        let missing = stage.gateway.exec(WHO, ["no-such-command"])?;
        let asking = stage.exec(&[], "ask hi; sleep 0.2; ask again")?;
        for _ in 0..4 {
            let mut missing = missing.start()?;
            let mut asking = asking.start()?;
            ensure!(
                missing.wait(2 * wait::SOON)? == Exit::Code(127),
                "{}",
                missing.everything()
            );
            ensure!(
                asking.wait(2 * wait::SOON)? == Exit::Code(0),
                "{}",
                asking.everything()
            );
            ensure!(asking.output() == "hi\nagain\n", "{}", asking.everything());
        }
        stage.expect_nothing_left()
    })
}

#[test]
fn coming_and_going_at_the_same_moment_never_leaves_a_command_without_names() -> Outcome {
    scenario(|scene| {
        let stage = Stage::new(scene)?;
        let exec = stage.exec(&[], "ask hi")?;
        std::thread::scope(|scope| {
            let one_after_the_other = || -> Result {
                for _ in 0..12 {
                    let out = exec.run(2 * wait::SOON)?.expect_success()?;
                    ensure!(out.output() == "hi\n", "{}", out.everything());
                }
                Ok(())
            };
            let running: Vec<_> = (0..3).map(|_| scope.spawn(one_after_the_other)).collect();
            let mut outcomes = running.into_iter().map(std::thread::ScopedJoinHandle::join);
            outcomes.try_for_each(|outcome| outcome.map_err(|_| anyhow::anyhow!("a panic"))?)
        })?;
        stage.expect_nothing_left()
    })
}

#[test]
fn ten_with_different_namespaces_all_have_addresses() -> Outcome {
    scenario(|scene| {
        let stage = Stage::new(scene)?;
        let start = |number: usize| {
            let namespace = format!("n{number}");
            let script = "ask hi; getent hosts echo.demo; there go";
            stage.exec(&["--namespace", &namespace], script)?.start()
        };
        let started: Result<Vec<_>> = (0..10).map(start).collect();
        let mut started = started?;
        let mut addresses = Vec::new();
        for exec in &started {
            let line =
                exec.wait_for_line("its address", 4 * wait::SOON, |line| line.starts_with("127.77."))?;
            addresses.extend(line.split_ascii_whitespace().next().map(str::to_owned));
        }
        addresses.sort();
        addresses.dedup();
        ensure!(addresses.len() == 10, "{addresses:?}");
        stage.go("go")?;
        for exec in &mut started {
            ensure!(exec.wait(wait::SOON)? == Exit::Code(0));
            ensure!(exec.output().starts_with("hi\n"), "{}", exec.everything());
        }
        stage.expect_nothing_left()
    })
}

#[test]
fn killed_it_takes_its_command_along_and_not_the_session_of_others() -> Outcome {
    scenario(|scene| {
        let stage = Stage::new(scene)?;
        let mut first = stage.start("ask hi; exec sleep 1000")?;
        // The shell turns into it after its answer is out.
        let command = wait::until("the command", wait::SOON, || {
            let is_it = |pid: &u32| proc::command_line(*pid) == "sleep 1000";
            proc::descendants(first.pid()).into_iter().find(is_it)
        })?;
        let mut second = stage.start("ask hi; there go; ask again")?;
        first.signal(Signal::KILL)?;
        first.wait(wait::SOON)?;
        proc::wait_until_gone(&[command], Duration::from_secs(2))?;
        stage.go("go")?;
        ensure!(second.wait(wait::SOON)? == Exit::Code(0));
        ensure!(second.output() == "hi\nagain\n", "{}", second.everything());
        stage.expect_nothing_left()
    })
}

#[test]
fn killed_behind_its_back_it_ends_and_the_next_one_works() -> Outcome {
    scenario(|scene| {
        let stage = Stage::new(scene)?;
        let mut exec = stage.start("ask hi; exec sleep 1000")?;
        let below = proc::descendants(exec.pid());
        let back = below
            .first()
            .and_then(|pid| rustix::process::Pid::from_raw((*pid).try_into().ok()?));
        let Some(back) = back else {
            anyhow::bail!("there is nobody behind it");
        };
        rustix::process::kill_process(back, Signal::KILL)?;
        ensure!(exec.wait(wait::SOON)? == Exit::Signal(9));
        proc::wait_until_gone(&below, Duration::from_secs(2))?;
        stage.exec(&[], "ask hi")?.run(2 * wait::SOON)?.expect_success()?;
        stage.expect_nothing_left()
    })
}

#[test]
fn without_a_name_that_works_the_command_does_not_run() -> Outcome {
    scenario(|scene| {
        let stage = Stage::new(scene)?;
        let catalog = stage.gateway.catalog();
        // A program that listens on every address leaves none to a service with the same port.
        let everywhere = TcpListener::bind("0.0.0.0:0")?;
        let port = everywhere.local_addr()?.port();
        let blocked = Service::new("blocked", "demo", port, stage.echo.address());
        let cases: [(&[Service], &[&str]); 2] = [
            (&[blocked], &["in use", &port.to_string(), "--allow-none"]),
            (&[], &["no services", scene.environment(), "--allow-none"]),
        ];
        for (services, reasons) in cases {
            catalog.replace(services)?;
            let refused = || {
                let out = stage.exec(&[], "echo ran")?.run(2 * wait::SOON)?;
                let out = out.expect_code(125)?.expect_text(reasons)?;
                ensure!(out.output().is_empty(), "{}", out.output());
                Ok(())
            };
            // The gateway follows the file.
            wait::until_ok("a refusal", 2 * wait::SOON, refused)?;
            let out = stage.exec(&["--allow-none"], "echo ran")?.run(2 * wait::SOON)?;
            ensure!(out.expect_success()?.output() == "ran\n");
        }
        stage.expect_nothing_left()
    })
}

#[test]
fn status_and_down_mean_the_sessions_of_up() -> Outcome {
    scenario(|scene| {
        let stage = Stage::new(scene)?;
        let mut exec = stage.start("ask hi; there go; ask again")?;
        for arguments in [&["status"][..], &["down", "--all"]] {
            let out = scene.devbox(arguments.iter().copied())?.by(WHO).run(wait::SOON)?;
            out.expect_code(1)?.expect_text(&["no session is running"])?;
        }
        stage.go("go")?;
        ensure!(exec.wait(wait::SOON)? == Exit::Code(0));
        ensure!(exec.output() == "hi\nagain\n", "{}", exec.everything());
        stage.expect_nothing_left()
    })
}

#[test]
fn nobody_waits_long_for_one_that_fails_to_start() -> Outcome {
    scenario(|scene| {
        let mut stage = Stage::new(scene)?;
        stage.gateway.kill()?;
        let exec = stage.exec(&[], "true")?;
        let started: Result<Vec<_>> = (0..4).map(|_| exec.start()).collect();
        for mut exec in started? {
            ensure!(
                exec.wait(4 * wait::SOON)? == Exit::Code(125),
                "{}",
                exec.everything()
            );
            ensure!(exec.errors().contains("refused"), "{}", exec.everything());
        }
        stage.expect_nothing_left()
    })
}

/// An interactive bash on a terminal, with `devbox exec … --` in its variable `EXEC`.
fn shell(stage: &Stage<'_>) -> Result<Terminal> {
    let flags: Vec<String> = stage
        .gateway
        .flags(WHO)?
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let words = format!(
        "{} exec {} --",
        stage.scene.devbox_program()?.display(),
        flags.join(" ")
    );
    let bash = stage
        .scene
        .command(["bash", "--norc", "--noprofile", "-i"])
        .by(WHO);
    let terminal = bash
        .env("PS1", "outer> ")
        .env("EXEC", words)
        .env("TERM", "dumb")
        .start_on_terminal()?;
    terminal.wait_for("outer> ", 0)?;
    Ok(terminal)
}

#[test]
fn ctrl_c_ends_it_while_there_is_no_command() -> Outcome {
    scenario(|scene| {
        let stage = Stage::new(scene)?;
        let terminal = shell(&stage)?;
        // It takes connections and says nothing on them.
        let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
        let flag = format!("--gateway ws://{}", silent.local_addr()?);
        terminal.line(&format!(
            "${{EXEC/--gateway */{flag} ${{EXEC#*--gateway * }}}} touch started"
        ))?;
        let at = terminal.wait_for("trying ", 0)?;
        terminal.keys("\x03")?;
        let at = terminal.wait_for("outer> ", at)?;
        terminal.line("echo code $?")?;
        terminal.wait_for("code 130\n", at)?;
        let started = scene.working_directory(WHO)?.join("started");
        ensure!(!started.exists(), "the command was run");
        stage.expect_nothing_left_but(&["bash"])
    })
}

#[test]
fn a_lock_of_the_caller_is_free_when_the_command_has_ended() -> Outcome {
    scenario(|scene| {
        let stage = Stage::new(scene)?;
        let terminal = shell(&stage)?;
        let go = scene.folder().join("go");
        let left = format!(
            "(until [ -e {} ]; do sleep 0.02; done) 9>&- & exit 0",
            go.display()
        );
        terminal.line(&format!("(flock 9; $EXEC sh -c '{left}') 9>lock; echo done"))?;
        let at = terminal.wait_for("done\n", 0)?;
        terminal.line("flock --timeout 5 lock printf 'fr%s' ee")?;
        terminal.wait_for("free", at)?;
        stage.go("go")?;
        stage.expect_nothing_left_but(&["bash"])
    })
}

#[test]
fn one_that_is_stopped_keeps_the_session_of_others_going() -> Outcome {
    scenario(|scene| {
        let stage = Stage::new(scene)?;
        let terminal = shell(&stage)?;
        terminal.line("$EXEC sh -c 'echo begun; read a; echo got $a; exit 5'")?;
        let at = terminal.wait_for("begun\n", 0)?;
        let mut other = stage.start("ask hi; there go; ask again")?;
        ensure!(stage.links() == 1, "{} links", stage.links());
        terminal.keys("\x1a")?;
        let at = terminal.wait_for("Stopped", at)?;
        let at = terminal.wait_for("outer> ", at)?;
        stage.go("go")?;
        ensure!(other.wait(wait::SOON)? == Exit::Code(0));
        ensure!(other.output() == "hi\nagain\n", "{}", other.everything());
        terminal.line("fg")?;
        terminal.wait_for_foreground_of(|command_line| command_line.contains(" exec "))?;
        terminal.line("some words")?;
        let at = terminal.wait_for("got some words", at)?;
        terminal.line("echo code $?")?;
        terminal.wait_for("code 5\n", at)?;
        stage.expect_nothing_left_but(&["bash"])
    })
}

#[test]
fn an_interrupt_leaves_what_runs_in_the_background_its_names() -> Outcome {
    scenario(|scene| {
        let stage = Stage::new(scene)?;
        let terminal = shell(&stage)?;
        let go = scene.folder().join("go");
        // A shell without job control starts background jobs that ignore Ctrl-C, from their first command on.
        let script = format!(
            "(echo begun; until [ -e {} ]; do sleep 0.02; done; getent hosts echo.demo >answer) & exec sleep 1004",
            go.display()
        );
        terminal.line(&format!("$EXEC sh -c '{script}'"))?;
        let at = terminal.wait_for("begun\n", 0)?;
        terminal.keys("\x03")?;
        let at = terminal.wait_for("outer> ", at)?;
        terminal.line("echo code $?")?;
        terminal.wait_for("code 130\n", at)?;
        stage.go("go")?;
        ensure!(stage.written("answer")?.contains("echo.demo"));
        stage.expect_nothing_left_but(&["bash"])
    })
}

#[test]
fn a_shell_that_suspends_itself_gives_the_terminal_back() -> Outcome {
    scenario(|scene| {
        let stage = Stage::new(scene)?;
        let terminal = shell(&stage)?;
        terminal.line("PS1='inner> ' $EXEC bash --norc --noprofile -i")?;
        let at = terminal.wait_for("inner> ", 0)?;
        terminal.line("suspend")?;
        let at = terminal.wait_for("Stopped", at)?;
        let at = terminal.wait_for("outer> ", at)?;
        terminal.line("fg")?;
        terminal.wait_for_foreground_of(|line| line.starts_with("bash --norc --noprofile -i"))?;
        terminal.line("getent hosts echo.demo; exit 5")?;
        let at = terminal.wait_for("127.77.", at)?;
        let at = terminal.wait_for("outer> ", at)?;
        terminal.line("echo code $?")?;
        terminal.wait_for("code 5\n", at)?;
        stage.expect_nothing_left_but(&["bash"])
    })
}
