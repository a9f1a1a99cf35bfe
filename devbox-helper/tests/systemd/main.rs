//! The installed helper under a real systemd: `cargo xtask vm-test --systemd` runs this, as root, in a virtual machine of its own, once
//! after each start of it. One story, in order: what one scene installs the next one uses.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a program of tests, without the usual harness"
)]

mod after;
mod before;
mod sandbox;
mod stage;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitCode};

use stage::Stage;

/// What was passed and failed before the machine was started anew.
const TALLY: &str = "/var/lib/vm-tally";

type Scene = (&'static str, fn(&mut Stage));

fn main() -> ExitCode {
    match std::env::var("VM_START").as_deref() {
        Ok("1") => {
            let mut stage = Stage::new();
            stage.remember();
            let tally = play(&before::SCENES, &mut stage, (0, 0));
            fs::write(TALLY, format!("{} {}", tally.0, tally.1)).unwrap();
            before::leave_everything_and_start_anew(&stage)
        }
        Ok("2") => {
            let text = fs::read_to_string(TALLY).unwrap();
            let (passed, failed) = text.split_once(' ').unwrap();
            let tally = (passed.parse().unwrap(), failed.parse().unwrap());
            let (passed, failed) = play(&after::SCENES, &mut Stage::new(), tally);
            let word = if failed == 0 { "ok" } else { "FAILED" };
            println!("test result: {word}. {passed} passed; {failed} failed");
            ExitCode::from(u8::from(failed > 0))
        }
        _ => {
            println!(
                "SKIP systemd: it changes the machine that it runs on; `cargo xtask vm-test --systemd` has one for it"
            );
            ExitCode::SUCCESS
        }
    }
}

/// In the form of libtest. Returns how many passed and failed in all.
fn play(scenes: &[Scene], stage: &mut Stage, (mut passed, mut failed): (u32, u32)) -> (u32, u32) {
    for (name, scene) in scenes {
        let begun = std::time::Instant::now();
        // What a scene has left half-way is for the next one to find.
        if catch_unwind(AssertUnwindSafe(|| scene(stage))).is_ok() {
            passed += 1;
            println!("  {name}: {:.1} s", begun.elapsed().as_secs_f32());
            println!("test systemd::{name} ... ok");
        } else {
            failed += 1;
            println!("test systemd::{name} ... FAILED");
            // For whoever reads the failure: it may say nothing.
            Command::new("journalctl")
                .args(["-b", "-n", "40", "--no-pager", "-o", "short-monotonic"])
                .status()
                .ok();
        }
    }
    (passed, failed)
}
