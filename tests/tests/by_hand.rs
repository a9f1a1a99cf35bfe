//! `devbox hosts` on the system's own file: through the helper, and restored byte for byte.
#![cfg(target_os = "linux")]

use anyhow::ensure;
use devbox_tests::{Caller, Machine, Outcome, Result, hosts, scenario, wait};

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
