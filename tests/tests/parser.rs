//! What the parser gives beside parsing: help, completions, manual pages, and the same flags everywhere.
#![cfg(target_os = "linux")]

use std::cell::Cell;

use anyhow::{Context, ensure};
use devbox_tests::pty::Terminal;
use devbox_tests::{Outcome, Scene, files_below, need_program, scenario, wait};

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

/// A shell on a terminal that completes `devbox`, which is in its `PATH`, in the scene's folder.
struct Shell {
    terminal: Terminal,
    at: Cell<usize>,
}

impl Shell {
    fn start(scene: &Scene, argv: &[&str], setting_up: &[&str]) -> devbox_tests::Result<Self> {
        let program = scene.devbox_program()?;
        let folder = program.parent().context("the program is in a folder")?.display();
        let shell = scene.command(argv.iter().copied());
        let shell = shell.env("PATH", format!("{folder}:/usr/bin:/bin"));
        let shell = shell.env("HOME", scene.folder()).env("TERM", "dumb");
        let terminal = shell.start_on_terminal()?;
        let at = Cell::new(0);
        let shell = Self { terminal, at };
        shell.terminal.resize(200, 24)?;
        for line in setting_up {
            shell.terminal.line(line)?;
        }
        shell
            .terminal
            .line(&format!("cd '{}'", scene.folder().display()))?;
        // What is typed has a quote in it, and what is printed has none.
        shell.terminal.line("echo rea'dy'")?;
        shell.sees("ready")?;
        Ok(shell)
    }

    fn sees(&self, text: &str) -> devbox_tests::Result {
        self.at.set(self.terminal.wait_for(text, self.at.get())?);
        Ok(())
    }

    /// Types, presses TAB and waits for what comes of it. The line is thrown away.
    fn completes(&self, typed: &str, offered: &[&str]) -> devbox_tests::Result {
        self.terminal.keys(typed)?;
        self.sees(typed)?;
        self.terminal.keys("\t")?;
        for text in offered {
            self.sees(text)
                .with_context(|| format!("{typed} should offer {text}"))?;
        }
        self.terminal.keys("\x15")?;
        self.terminal.line("echo nex't'")?;
        self.sees("next")
    }

    /// What every shell does.
    fn completes_devbox(&self) -> devbox_tests::Result {
        self.completes("devbox st", &["atus"])?;
        self.completes("devbox status --js", &["on"])?;
        self.completes("devbox hosts --file h get prin", &["ter.test"])?;
        self.completes("devbox hosts --file=h get prin", &["ter.test"])?;
        self.completes("devbox hosts --file h rm ord", &["ers.test"])?;
        self.completes("devbox hosts --file h rm --tag oth", &["er"])?;
        self.completes("devbox hosts --file h --tag other rm b", &["illing.test"])?;
        self.completes("devbox hosts rm --own --file h p", &["rinter.test"])?;
        self.terminal.line("exit")
    }
}

const COMPLETED: &str = "\
10.0.0.9 printer.test
# BEGIN devbox
10.0.0.1 orders.test
# END devbox
# BEGIN other
10.0.0.2 billing.test
# END other
";

#[test]
fn bash_completes_commands_names_and_tags() -> Outcome {
    scenario(|scene| {
        need_program("bash", "bash")?;
        scene.write("h", COMPLETED)?;
        let source = "source <(devbox completions bash)";
        Shell::start(scene, &["bash", "--norc", "--noprofile", "-i"], &[source])?.completes_devbox()
    })
}

#[test]
fn zsh_completes_commands_names_and_tags() -> Outcome {
    scenario(|scene| {
        need_program("zsh", "zsh")?;
        scene.write("h", COMPLETED)?;
        // A package installs it this way.
        let script = scene.devbox(["completions", "zsh"])?.run(wait::SOON)?;
        scene.write("_devbox", script.expect_success()?.output())?;
        let found = format!("fpath=('{}' $fpath)", scene.folder().display());
        let setting_up = [found.as_str(), "autoload -Uz compinit; compinit -u -D"];
        Shell::start(scene, &["zsh", "-f", "-i"], &setting_up)?.completes_devbox()
    })
}

#[test]
fn fish_completes_commands_names_and_tags() -> Outcome {
    scenario(|scene| {
        need_program("fish", "fish")?;
        scene.write("h", COMPLETED)?;
        let program = scene.devbox_program()?;
        let folder = program.parent().context("the program is in a folder")?.display();
        for (typed, offered) in [
            ("devbox st", "status\tShow running sessions"),
            ("devbox hosts --file h get prin", "printer.test\t10.0.0.9"),
            ("devbox hosts --file=h get prin", "printer.test\t10.0.0.9"),
            ("devbox hosts --file h rm ", "orders.test\t10.0.0.1"),
            ("devbox hosts --file h --tag o", "other\ton"),
            ("devbox hosts --file h rm --tag other b", "billing.test\t10.0.0.2"),
        ] {
            let ask = format!("devbox completions fish | source; complete --do-complete '{typed}'");
            let fish = scene.command(["fish", "--no-config", "-c", &ask]);
            let fish = fish.env("PATH", format!("{folder}:/usr/bin:/bin"));
            let fish = fish.in_folder(scene.folder());
            let shown = fish.run(wait::SOON)?.expect_success()?.output();
            ensure!(shown.lines().next() == Some(offered), "{typed}: {shown}");
        }
        Ok(())
    })
}

#[test]
fn what_cannot_be_completed_prints_nothing() -> Outcome {
    scenario(|scene| {
        scene.write("latin1", b"10.0.0.1 caf\xe9 cafe\n")?;
        scene.write("hostile", "10.0.0.1 $(reboot) `reboot` * a\x1b[2J a;b good\n")?;
        scene.write(
            "broken",
            "# BEGIN devbox\n# BEGIN other\n10.0.0.1 a\n# END devbox\n",
        )?;
        let pipe = scene.folder().join("pipe");
        scene
            .command(["mkfifo"])
            .args([&pipe])
            .run(wait::SOON)?
            .expect_success()?;
        let asked = |words: &[&str]| -> devbox_tests::Result<String> {
            let asking = scene.devbox(["--", "devbox", "hosts"])?;
            let asking = asking.args(words.iter().copied()).in_folder(scene.folder());
            let asking = asking.env("DEVBOX_COMPLETE", "bash").env("_CLAP_IFS", "\n");
            let answer = asking.env("_CLAP_COMPLETE_INDEX", (words.len() + 1).to_string());
            let answer = answer.run(wait::SOON)?.expect_success()?;
            ensure!(answer.stderr.is_empty(), "{words:?}: {}", answer.errors());
            Ok(String::from_utf8(answer.stdout)?)
        };
        for file in ["missing", "pipe", ".", "/dev/zero", ""] {
            let offered = asked(&["--file", file, "rm", "x"])?;
            ensure!(offered.is_empty(), "{file}: {offered}");
            let offered = asked(&["--file", file, "--tag", "x"])?;
            ensure!(offered.is_empty(), "{file}: {offered}");
        }
        let offered = asked(&["--file", "latin1", "get", "caf"])?;
        ensure!(offered == "cafe", "{offered}");
        for typed in ["$", "`", "*", "a"] {
            let offered = asked(&["--file", "hostile", "get", typed])?;
            ensure!(offered.is_empty(), "{offered}");
        }
        let offered = asked(&["--file", "hostile", "get", "g"])?;
        ensure!(offered == "good", "{offered}");
        let offered = asked(&["--file", "broken", "--tag", "o"])?;
        ensure!(offered == "other", "{offered}");
        // As bash gives `--file=broken`, and as it gives what has quotes.
        let offered = asked(&["--file", "=", "broken", "--tag", "o"])?;
        ensure!(offered == "other", "{offered}");
        let offered = asked(&["--file", "'bro'ken", "--tag", "o"])?;
        ensure!(offered == "other", "{offered}");
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
                script.contains("DEVBOX_COMPLETE") && script.contains(shell),
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
