//! What the parser gives beside parsing: help, completions, manual pages, and the same flags everywhere.
#![cfg(target_os = "linux")]

use anyhow::{Context, ensure};
use devbox_tests::{Outcome, files_below, need_program, scenario, wait};

#[test]
fn help_is_a_command_too() -> Outcome {
    scenario(|scene| {
        for command in [&["up"][..], &["gateway", "serve"], &["hosts", "add"]] {
            let by_command = scene.devbox(["help"])?.args(command.iter().copied());
            let by_command = by_command.run(wait::SOON)?.expect_success()?;
            let by_flag = scene.devbox(command.iter().copied())?.args(["--help"]);
            let by_flag = by_flag.run(wait::SOON)?.expect_success()?;
            ensure!(by_command.output() == by_flag.output(), "{}", by_command.output());
        }
        scene
            .devbox(["help", "upp"])?
            .run(wait::SOON)?
            .expect_code(1)?
            .expect_text(&["upp"])?;
        Ok(())
    })
}

#[test]
fn json_is_short_for_output_json_and_contradictions_are_refused() -> Outcome {
    scenario(|scene| {
        let hosts = scene.write("hosts", "127.0.0.1 localhost\n")?;
        let list = |flags: &[&str]| {
            let list = scene.devbox(["hosts", "list"])?.args(flags.iter().copied());
            list.args(["--file".into(), hosts.clone().into_os_string()])
                .run(wait::SOON)
        };
        let long = list(&["--output", "json"])?.expect_success()?;
        let short = list(&["--json"])?.expect_success()?;
        ensure!(long.json()?["address"] == "127.0.0.1", "{}", long.output());
        ensure!(long.stdout == short.stdout, "{}", short.output());
        list(&["--json", "--output", "text"])?
            .expect_code(1)?
            .expect_text(&["--json", "cannot be used with", "--output"])?;
        Ok(())
    })
}

#[test]
fn bash_completes_a_command_as_it_is_typed() -> Outcome {
    scenario(|scene| {
        need_program("bash", "bash")?;
        let program = scene.devbox_program()?;
        let bash = scene.command(["bash", "--norc", "--noprofile", "-i"]);
        let terminal = bash.env("PS1", "ready> ").start_on_terminal()?;
        let at = terminal.wait_for("ready> ", 0)?;
        terminal.line(&format!("source <({} completions bash)", program.display()))?;
        let at = terminal.wait_for("ready> ", at)?;
        terminal.keys("devbox st\t")?;
        let at = terminal.wait_for("devbox status ", at)?;
        terminal.keys("--js\t")?;
        terminal.wait_for("--json", at)?;
        // Nothing is run: the line is thrown away.
        terminal.keys("\x03")?;
        terminal.line("exit")?;
        Ok(())
    })
}

#[test]
fn every_shell_gets_a_script() -> Outcome {
    scenario(|scene| {
        for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
            let script = scene.devbox(["completions", shell])?.run(wait::SOON)?;
            let script = script.expect_success()?.output();
            ensure!(
                script.contains("status") && script.contains("token-file"),
                "{shell}: {script}"
            );
        }
        Ok(())
    })
}

#[test]
fn manual_pages_render_without_complaint() -> Outcome {
    scenario(|scene| {
        need_program("mandoc", "mandoc")?;
        let folder = scene.folder().join("man1");
        let written = scene.devbox(["man", "--dir"])?.args([&folder]).run(wait::SOON)?;
        written.expect_success()?;
        let pages = files_below(&folder);
        for name in ["devbox.1", "devbox-up.1", "devbox-gateway-serve.1"] {
            ensure!(
                pages.iter().any(|page| page.ends_with(name)),
                "no {name}: {pages:?}"
            );
        }
        let lint = scene
            .command(["mandoc", "-T", "lint", "-W", "error"])
            .args(&pages);
        lint.run(wait::SOON)?.expect_success()?;

        let main = scene.devbox(["man"])?.run(wait::SOON)?.expect_success()?;
        let page = scene.command(["mandoc", "-T", "ascii"]).stdin(main.stdout);
        let text = page.run(wait::SOON)?.expect_success()?.output();
        // A letter, a backspace and the letter again: bold.
        let plain = text.split('\u{8}').map(|part| {
            let mut letters = part.chars();
            letters.next_back();
            letters.as_str().to_owned()
        });
        let plain: String = plain.collect();
        plain
            .contains("devbox-status(1)")
            .then_some(())
            .with_context(|| plain.clone())
    })
}
