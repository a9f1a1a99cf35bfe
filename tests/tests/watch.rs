//! `devbox status --watch`: in place on a terminal, one state after the other on a pipe, until the session ends.
#![cfg(target_os = "linux")]

use anyhow::ensure;
use devbox_tests::peers::Echo;
use devbox_tests::{Caller, Exit, Gateway, Outcome, Service, Signal, Up, scenario, wait};

const PORT: u16 = 7230;

#[test]
fn on_a_pipe_each_state_follows_the_one_before_until_the_session_ends() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let up = Up::start(&gateway, Caller::Ordinary)?;
        let mut text = up.status(&["--watch"])?.start()?;
        let mut json = up.status(&["--watch", "--json"])?.start()?;
        for watching in [&text, &json] {
            watching.wait_for_line("the state", wait::SOON, |line| line.contains("echo.demo"))?;
        }
        let services = ["echo", "late"].map(|name| Service::new(name, "demo", PORT, echo.address()));
        gateway.catalog().edit_in_place(&services)?;
        for watching in [&text, &json] {
            watching.wait_for_line("a new service", wait::SOON, |line| line.contains("late.demo"))?;
        }
        up.down()?.run(wait::SOON)?.expect_success()?;
        for watching in [&mut text, &mut json] {
            ensure!(watching.wait(wait::SOON)? == Exit::Code(0));
        }
        ensure!(text.output().ends_with("has ended\n\n"), "{}", text.output());
        let output = json.output();
        let mut sizes = Vec::new();
        for line in output.lines() {
            let state: serde_json::Value = serde_json::from_str(line)?;
            sizes.push(state["services"].as_array().map(Vec::len));
        }
        ensure!(
            sizes.first() == Some(&Some(1)) && sizes.contains(&Some(2)) && sizes.last() == Some(&None),
            "{output}"
        );
        Ok(())
    })
}

#[test]
fn a_reader_that_goes_away_ends_it() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let up = Up::start(&gateway, Caller::Ordinary)?;
        let mut watching = up.status(&["--watch"])?.output_closed().start()?;
        ensure!(watching.wait(wait::SOON)? == Exit::Code(0));
        Ok(())
    })
}

#[test]
fn on_a_terminal_it_is_one_table_that_changes() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let up = Up::start(&gateway, Caller::own())?;
        let mut terminal = up.status(&["--watch"])?.start_on_terminal()?;
        let at = terminal.wait_for("echo.demo", 0)?;
        let services = ["echo", "late"].map(|name| Service::new(name, "demo", PORT, echo.address()));
        gateway.catalog().edit_in_place(&services)?;
        let at_new = terminal.wait_for("late.demo", at)?;
        let between = terminal.screen()[at..at_new].to_owned();
        // From the line below the table up to its first line, which is written anew.
        let (table, _) = between.split_once("\x1b[J").unwrap_or_default();
        let lines = terminal.screen()[..at].matches('\n').count() + table.matches('\n').count();
        ensure!(
            between.contains(&format!("\x1b[{lines}A\x1b[?7l")),
            "{lines}: {between:?}"
        );
        terminal.keys("\x03")?;
        ensure!(terminal.wait(wait::SOON)? == Exit::Code(0));
        ensure!(
            terminal.screen().contains("\x1b[J\x1b[?7h"),
            "the terminal wraps no lines"
        );
        ensure!(
            !terminal.screen().contains("\x1b[?1049h"),
            "the screen was taken away"
        );
        Ok(())
    })
}

#[test]
fn colours_are_for_terminals_and_not_for_whoever_wants_none() -> Outcome {
    scenario(|scene| {
        let echo = Echo::start(scene)?;
        let gateway = Gateway::of_echo(scene, &echo, PORT)?;
        let up = |no_color: &str| {
            let file = scene.hosts_file(Caller::own())?;
            let up = gateway
                .devbox("up", Caller::own())?
                .args(["--verbose", "--hosts-file"]);
            up.args([file]).env("NO_COLOR", no_color).start_on_terminal()
        };
        for (no_color, coloured) in [("", true), ("1", false)] {
            let mut terminal = up(no_color)?;
            let at = terminal.wait_for("DEBUG", 0)?;
            terminal.wait_for("ready\n", at)?;
            ensure!(
                terminal.screen().contains('\x1b') == coloured,
                "{:?}",
                terminal.screen()
            );
            terminal.process().signal(Signal::TERM)?;
            ensure!(terminal.wait(wait::SOON)? == Exit::Code(0));
        }
        Ok(())
    })
}
