//! `devbox hosts` on the system's own file: through the helper, and restored byte for byte.
#![cfg(target_os = "linux")]

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, ensure};
use devbox_tests::{Caller, Machine, Outcome, Result, Scene, hosts, need_program, scenario, wait};

#[test]
fn the_systems_file_is_edited_and_put_back() -> Outcome {
    scenario(|scene| {
        let machine = Machine::start(scene)?;
        let home = scene.home(Caller::own())?;
        let run = |arguments: &[&str], code: i32| -> Result<String> {
            let command = scene
                .devbox(["hosts"])?
                .args(arguments)
                .env("HOME", &home)
                .inside(&machine);
            Ok(command.run(wait::SOON)?.expect_code(code)?.everything())
        };
        run(&["backup"], 0)?;
        run(&["add", "127.77.5.5", "road.test", "other.test", "--dry-run"], 0)?;
        hosts::expect_original(&machine.hosts())?;

        run(&["add", "127.77.5.5", "road.test", "other.test"], 0)?;
        let found = run(&["get", "road.test"], 0)?;
        ensure!(found.contains("127.77.5.5"), "{found}");
        run(&["disable"], 0)?;
        ensure!(
            hosts::lookup(&machine.hosts(), "road.test").is_none(),
            "a disabled block is read"
        );
        run(&["enable"], 0)?;
        run(&["rm", "road.test", "other.test"], 0)?;
        hosts::expect_original(&machine.hosts())?;

        run(&["add", "127.77.5.5", "road.test"], 0)?;
        run(&["restore"], 0)?;
        hosts::expect_original(&machine.hosts())?;

        for bad in [
            ["add", "localhost", "x"],
            ["add", "127.0.0.2", "bad name"],
            ["add", "127.1", "x"],
        ] {
            run(&bad, 1)?;
        }
        hosts::expect_original(&machine.hosts())
    })
}

#[test]
fn a_user_without_the_right_is_told_what_to_type() -> Outcome {
    scenario(|scene| {
        let machine = Machine::start(scene)?;
        let command = scene.devbox(["hosts", "add", "127.77.5.6", "road.test"])?;
        let refused = command
            .by(Caller::Ordinary)
            .inside(&machine)
            .run(wait::SOON)?
            .expect_code(1)?;
        refused.expect_text(&["/etc/hosts", "sudo tee '/etc/hosts'", "127.77.5.6 road.test"])?;
        hosts::expect_original(&machine.hosts())
    })
}

/// A hosts file with a comment in Latin-1, an escape sequence and a thousand lines.
fn long_file(change: &str) -> Vec<u8> {
    let mut file = b"127.0.0.1 localhost # caf\xE9 \x1B[31m\n".to_vec();
    for n in 0..1000 {
        let name = if matches!(n, 3 | 990) { change } else { "host" };
        file.extend(format!("10.0.{}.{} {name}-{n}\n", n / 256, n % 256).into_bytes());
    }
    file
}

/// What people type into a shell with files as arguments.
fn in_shell(scene: &Scene, script: &str, files: [&Path; 2], code: i32) -> Result<String> {
    let program = scene.devbox_program()?;
    let words = ["sh", "-eu", "-c", script].map(OsString::from);
    let files = [program.as_os_str(), files[0].as_os_str(), files[1].as_os_str()];
    let command = scene.command(words.into_iter().chain(files.map(OsString::from)));
    Ok(command.run(wait::SOON)?.expect_code(code)?.everything())
}

#[test]
fn a_shown_change_is_the_change_byte_for_byte() -> Outcome {
    scenario(|scene| {
        need_program("patch", "patch")?;
        let folder = scene.folder_of("files", Caller::own())?;
        let (file, other) = (folder.join("hosts"), folder.join("other"));
        std::fs::write(&file, long_file("host"))?;
        std::fs::write(&other, long_file("moved"))?;
        let same = |at: &str| -> Result {
            ensure!(
                std::fs::read(&other)? == std::fs::read(&file)?,
                "{at}: the patched copy differs"
            );
            Ok(())
        };
        let run = |script: &str| in_shell(scene, script, [&file, &other], 0);

        let hunks = run(r#""$0" hosts --file "$1" diff "$2" >"$1.diff"; grep -c ^@@ "$1.diff""#)?;
        ensure!(hunks.trim() == "2", "two changes far apart are {hunks} hunks");
        run(r#"patch -s --binary "$2" "$1.diff""#)?;
        same("diff OTHER")?;

        let before = std::fs::read(&file)?;
        run(r#""$0" hosts --file "$1" add --dry-run 127.77.5.5 road.test | patch -s --binary "$2""#)?;
        ensure!(std::fs::read(&file)? == before, "a dry run changed the file");
        run(r#""$0" hosts --file "$1" add 127.77.5.5 road.test"#)?;
        same("add --dry-run")?;

        let json = run(r#""$0" hosts --file "$1" rm localhost --own --dry-run --output json"#)?;
        let json: serde_json::Value = serde_json::from_str(&json)?;
        std::fs::write(
            folder.join("hosts.base64"),
            json["diff_base64"].as_str().context("no diff_base64")?,
        )?;
        run(r#"base64 -d "$1.base64" | patch -s --binary "$2""#)?;
        run(r#""$0" hosts --file "$1" rm localhost --own"#)?;
        same("rm --dry-run --output json")
    })
}

#[test]
fn a_full_standard_output_is_a_failure() -> Outcome {
    scenario(|scene| {
        let file = scene.folder_of("files", Caller::own())?.join("hosts");
        std::fs::write(&file, long_file("host"))?;
        for verb in ["list", "get host-3", "diff /dev/null"] {
            let script = format!(r#""$0" hosts --file "$1" {verb} >/dev/full"#);
            let said = in_shell(scene, &script, [&file, &file], 1)?;
            ensure!(said.contains("cannot write to standard output"), "{verb}: {said}");
        }
        Ok(())
    })
}

#[test]
fn entries_and_blocks_are_chosen_by_what_is_known_of_them() -> Outcome {
    scenario(|scene| {
        let folder = scene.folder_of("a folder", Caller::own())?;
        let file = folder.join("hosts");
        let steps: [(&str, i32, &str, &str); 22] = [
            ("add 10.0.0.1 a", 1, "--create makes it", ""),
            ("add --create 10.0.0.1 a --comment one", 0, "", "10.0.0.1 a # one"),
            (
                "add 10.0.0.2 a b --flush",
                0,
                "a no longer has the address 10.0.0.1",
                "10.0.0.2 a b",
            ),
            (
                "add 10.0.0.1 c --comment one --one-per-line",
                0,
                "",
                "10.0.0.1 c # one",
            ),
            ("comment 10.0.0.2 two", 0, "", "10.0.0.2 a b # two"),
            ("comment b", 0, "", "10.0.0.2 a b\n"),
            ("rm --comment one", 0, "", "!10.0.0.1"),
            ("rm 10.0.0.0/24", 0, "", "!BEGIN"),
            ("rm b", 0, "b is not in the block devbox", "!BEGIN"),
            (
                "add --own 10.1.0.1 own --comment mine",
                0,
                "",
                "10.1.0.1 own # mine",
            ),
            ("add --own 10.1.0.2 own2", 0, "", "10.1.0.2 own2"),
            ("comment --own own2 mine", 0, "", "10.1.0.2 own2 # mine"),
            (
                "add --own 10.1.0.3 own",
                1,
                "hosts: own already has the address 10.1.0.1",
                "",
            ),
            ("rm --own 10.1.0.2 own2", 0, "", "!own2"),
            ("rm --own --comment mine", 0, "", "!mine"),
            ("add --tag t 10.0.0.5 x_y", 1, "--underscore", ""),
            ("add --tag t 10.0.0.5 x", 0, "", "# BEGIN t"),
            ("toggle --tag t", 0, "", "# 10.0.0.5 x"),
            ("tags", 0, "off", ""),
            ("toggle --tag t --in-place", 0, "", "\n10.0.0.5 x"),
            ("toggle --tag none", 1, "devbox hosts tags", ""),
            ("rm --all --tag t", 0, "", "!10.0.0.5"),
        ];
        for (words, code, said, written) in steps {
            let command = scene
                .devbox(["hosts", "--file"])?
                .args([&file])
                .args(words.split(' '));
            let done = command.run(wait::SOON)?.expect_code(code)?.everything();
            ensure!(done.contains(said), "{words}: {done}");
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let right = match written.strip_prefix('!') {
                Some(absent) => !text.contains(absent),
                None => text.contains(written),
            };
            ensure!(right, "{words}: {text}");
        }
        ensure!(std::fs::read(&file)? == b"", "something is left");
        Ok(())
    })
}

#[test]
fn other_tools_blocks_are_converted() -> Outcome {
    scenario(|scene| {
        let file = scene.folder_of("files", Caller::own())?.join("hosts");
        let original = "127.0.0.1 localhost\n# profile.on dev\n10.9.0.1 api web # x\n# end\n# profile.off old\n\
                        # 10.9.0.2 legacy\n# end\n# DO NOT EDIT wg BEGIN\n10.8.0.1 peer\n# DO NOT EDIT wg END\n";
        std::fs::write(&file, original)?;
        let run = |words: &str, code: i32| -> Result<String> {
            let command = scene
                .devbox(["hosts", "--file"])?
                .args([&file])
                .args(words.split(' '));
            Ok(command.run(wait::SOON)?.expect_code(code)?.output())
        };
        run("import --from hostctl", 0)?;
        run("import --from innernet", 0)?;
        let ours = "# BEGIN dev\n10.9.0.1 api web # x\n# END dev\n# BEGIN old\n# 10.9.0.2 legacy\n# END old\n\
                    # BEGIN wg\n10.8.0.1 peer\n# END wg\n";
        let text = std::fs::read_to_string(&file)?;
        ensure!(text == format!("{original}{ours}"), "{text}");
        // Once more changes nothing, and removing them leaves the file as it was.
        for words in ["import --from hostctl", "import --from innernet"] {
            ensure!(run(words, 0)?.contains("unchanged"), "{words} again");
        }
        for tag in ["dev", "old", "wg"] {
            run(&format!("rm --all --tag {tag}"), 0)?;
        }
        ensure!(std::fs::read_to_string(&file)? == original);
        run("import --from hostctl /dev/null", 1)?;
        Ok(())
    })
}

#[test]
fn repair_leaves_what_others_wrote() -> Outcome {
    scenario(|scene| {
        let file = scene.folder_of("files", Caller::own())?.join("hosts");
        let others = "# BEGIN work\n10.0.0.1 a\n# END of the work day\n# END play\n";
        std::fs::write(&file, format!("{others}# BEGIN devbox\n10.0.0.2 b\n"))?;
        let run = |words: &str| -> Result<String> {
            let command = scene
                .devbox(["hosts", "--file"])?
                .args([&file])
                .args(words.split(' '));
            Ok(command.run(wait::SOON)?.expect_success()?.everything())
        };
        let said = run("repair")?;
        ensure!(
            said.contains("--tag work") && said.contains("--tag play"),
            "{said}"
        );
        ensure!(std::fs::read_to_string(&file)? == format!("{others}10.0.0.2 b\n"));
        run("repair --tag work")?;
        ensure!(!std::fs::read_to_string(&file)?.contains("BEGIN work"));
        Ok(())
    })
}
