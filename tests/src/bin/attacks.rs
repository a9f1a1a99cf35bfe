//! The campaign of hostile peers, which takes minutes: `cargo xtask attack`, or with names only some of them. It prints a table and
//! fails where a bound is broken.
#![forbid(unsafe_code)]

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    linux::run()
}

#[cfg(target_os = "linux")]
#[expect(
    clippy::print_stdout,
    reason = "a program of its own, without the test runner"
)]
mod linux {
    use std::process::ExitCode;

    use devbox_tests::attacks::{ALL, Attack, Scale};
    use devbox_tests::{Row, scenario};

    pub(crate) fn run() -> ExitCode {
        let wanted: Vec<String> = std::env::args()
            .skip(1)
            .filter(|word| !word.starts_with('-'))
            .collect();
        println!("{}", Row::heading());
        let mut failed = 0;
        for (name, attack) in ALL {
            if wanted.is_empty() || wanted.iter().any(|word| word == name) {
                failed += usize::from(!one(name, attack));
            }
        }
        println!("{failed} failed");
        if failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    /// Whether all bounds held.
    fn one(name: &str, attack: Attack) -> bool {
        let mut held = true;
        let outcome = scenario(|scene| {
            let row = attack(scene, Scale::FULL)?;
            println!("{row}");
            held = row.broken().is_empty();
            Ok(())
        });
        if let Err(failed) = &outcome {
            println!("{name}: {failed:?}");
        }
        held && outcome.is_ok()
    }
}
