//! `devbox exec -- bash` on a terminal works as a shell should.
#![cfg(target_os = "linux")]

use anyhow::ensure;
use devbox_tests::peers::Echo;
use devbox_tests::pty::Terminal;
use devbox_tests::{Caller, Exit, Gateway, Outcome, Result, Scene, Service, Skip, scenario, wait};

/// An ordinary user's interactive bash on a terminal, with the words `devbox exec … --` in its variable `EXEC`.
fn shell(scene: &Scene, gateway: &Gateway<'_>) -> Result<Terminal> {
    let probe = scene
        .command(["unshare", "--user", "--map-root-user", "--mount", "true"])
        .by(Caller::Ordinary);
    if probe.run(wait::SOON)?.exit != Exit::Code(0) {
        return Err(Skip::new("this system allows no user namespace here").into());
    }
    let flags: Vec<String> = gateway
        .flags(Caller::Ordinary)?
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let words = format!(
        "{} exec {} --",
        scene.devbox_program()?.display(),
        flags.join(" ")
    );
    let bash = scene
        .command(["bash", "--norc", "--noprofile", "-i"])
        .by(Caller::Ordinary);
    let terminal = bash
        .env("PS1", "outer> ")
        .env("EXEC", words)
        .env("TERM", "dumb")
        .start_on_terminal()?;
    terminal.wait_for("outer> ", 0)?;
    Ok(terminal)
}

fn with_shell(body: impl FnOnce(&mut Terminal) -> Result, scene: &Scene) -> Result {
    let echo = Echo::start(scene)?;
    let catalog = scene.catalog(&[Service::new("echo", "demo", 7600, echo.address())])?;
    let gateway = Gateway::start(scene, &catalog)?;
    let mut terminal = shell(scene, &gateway)?;
    body(&mut terminal)
}

#[test]
fn a_shell_inside_has_interrupts_job_control_and_the_windows_size() -> Outcome {
    scenario(|scene| {
        with_shell(
            |terminal| {
                terminal.line("PS1='inner> ' $EXEC bash --norc --noprofile -i")?;
                let at = terminal.wait_for("inner> ", 0)?;
                terminal.line("getent hosts echo.demo")?;
                let at = terminal.wait_for("127.77.", at)?;
                let at = terminal.wait_for("inner> ", at)?;
                // Ctrl-C reaches the command inside, but neither the shell nor devbox.
                terminal.line("sleep 1001")?;
                terminal.wait_for_foreground("sleep 1001")?;
                terminal.keys("\x03")?;
                let at = terminal.wait_for("inner> ", at)?;
                terminal.line("echo code $?")?;
                let at = terminal.wait_for("code 130\n", at)?;
                // Ctrl-Z returns to the inner shell's prompt.
                terminal.line("sleep 1002")?;
                terminal.wait_for_foreground("sleep 1002")?;
                terminal.keys("\x1a")?;
                let at = terminal.wait_for("Stopped", at)?;
                let at = terminal.wait_for("inner> ", at)?;
                terminal.line("fg")?;
                terminal.wait_for_foreground("sleep 1002")?;
                terminal.keys("\x03")?;
                let at = terminal.wait_for("inner> ", at)?;
                terminal.resize(123, 45)?;
                terminal.line("stty size")?;
                let at = terminal.wait_for("45 123\n", at)?;
                let at = terminal.wait_for("inner> ", at)?;
                terminal.line("exit 9")?;
                let at = terminal.wait_for("outer> ", at)?;
                terminal.line("echo code $?")?;
                let at = terminal.wait_for("code 9\n", at)?;
                terminal.wait_for("outer> ", at)?;
                terminal.line("exit")?;
                terminal.wait(wait::SOON)?;
                Ok(())
            },
            scene,
        )
    })
}

#[test]
fn a_command_is_stopped_and_continued_from_the_shell_outside() -> Outcome {
    scenario(|scene| {
        with_shell(
            |terminal| {
                terminal.line("$EXEC sh -c 'echo begun; read a; echo got $a; exit 5'")?;
                let at = terminal.wait_for("begun\n", 0)?;
                terminal.keys("\x1a")?;
                let at = terminal.wait_for("Stopped", at)?;
                let at = terminal.wait_for("outer> ", at)?;
                terminal.line("fg")?;
                // Anything typed before the shell has released the terminal would be read in the shell's own mode.
                terminal.wait_for_foreground_of(|command_line| command_line.contains(" exec "))?;
                terminal.line("some words")?;
                let at = terminal.wait_for("got some words", at)?;
                let at = terminal.wait_for("outer> ", at)?;
                terminal.line("echo code $?")?;
                terminal.wait_for("code 5\n", at)?;
                Ok(())
            },
            scene,
        )
    })
}

#[test]
fn an_interrupt_ends_the_command_and_is_seen_outside() -> Outcome {
    scenario(|scene| {
        with_shell(
            |terminal| {
                terminal.line("$EXEC sh -c 'echo begun; exec sleep 1003'")?;
                let at = terminal.wait_for("begun\n", 0)?;
                terminal.keys("\x03")?;
                let at = terminal.wait_for("outer> ", at)?;
                terminal.line("echo code $?")?;
                terminal.wait_for("code 130\n", at)?;
                ensure!(!terminal.screen().contains("panicked"));
                Ok(())
            },
            scene,
        )
    })
}
