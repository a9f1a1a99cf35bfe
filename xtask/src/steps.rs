//! A list of checks: one line each, with its time, and a summary at the end of what failed and what was skipped.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::say::{begin, say};

/// How a step ended, unless it failed.
pub(crate) enum Done {
    /// It passed, with an optional note.
    Passed(String),
    /// It could not be run here, and why.
    Skipped(String),
}

impl Done {
    pub(crate) fn passed() -> Self {
        Self::Passed(String::new())
    }
}

/// The steps done so far.
#[derive(Default)]
pub(crate) struct Steps {
    failed: Vec<String>,
    skipped: Vec<String>,
    passed: usize,
    took: Duration,
}

impl Steps {
    /// Runs a step that prints nothing while it runs. A failure does not stop the steps after it.
    pub(crate) fn step(&mut self, name: &str, work: impl FnOnce(&mut Vec<String>) -> Result<Done>) {
        begin(&format!("{name:<10} "));
        self.finish(name, "", work);
    }

    /// Runs a step that prints its own lines; the line with its time follows them.
    pub(crate) fn loud_step(
        &mut self,
        name: &str,
        what: &str,
        work: impl FnOnce(&mut Vec<String>) -> Result<Done>,
    ) {
        say(&format!("{name:<10} {what}"));
        self.finish(name, &format!("{name:<10} "), work);
    }

    fn finish(&mut self, name: &str, prefix: &str, work: impl FnOnce(&mut Vec<String>) -> Result<Done>) {
        let start = Instant::now();
        let result = work(&mut self.skipped);
        let took = start.elapsed();
        self.took += took;
        let seconds = took.as_secs_f64();
        match result {
            Ok(Done::Passed(note)) => {
                self.passed += 1;
                let note = if note.is_empty() {
                    note
                } else {
                    format!("  {note}")
                };
                say(&format!("{prefix}ok {seconds:7.1} s{note}"));
            }
            Ok(Done::Skipped(why)) => {
                say(&format!("{prefix}SKIP {seconds:5.1} s  {why}"));
                self.skipped.push(format!("{name}: {why}"));
            }
            Err(error) => {
                say(&format!("{prefix}FAILED {seconds:.1} s"));
                say(&format!("{error:#}"));
                self.failed.push(name.to_owned());
            }
        }
    }

    /// Prints what was skipped and what failed, and returns the exit code.
    pub(crate) fn summary(self) -> ExitCode {
        if !self.skipped.is_empty() {
            say(&"\nskipped:");
            for line in &self.skipped {
                say(&format!("  {line}"));
            }
        }
        if !self.failed.is_empty() {
            say(&format!("\nfailed: {}", self.failed.join(", ")));
        }
        say(&format!(
            "\n{} steps ok, {} failed, {} skipped, {:.0} s",
            self.passed,
            self.failed.len(),
            self.skipped.len(),
            self.took.as_secs_f64()
        ));
        if self.failed.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_fails_the_run_and_the_other_steps_still_run() {
        let mut steps = Steps::default();
        steps.step("first", |_| anyhow::bail!("broken"));
        let mut ran = false;
        steps.step("second", |_| {
            ran = true;
            Ok(Done::passed())
        });
        assert!(ran);
        assert_eq!(
            format!("{:?}", steps.summary()),
            format!("{:?}", ExitCode::FAILURE)
        );
    }

    #[test]
    fn a_skipped_step_is_listed_and_does_not_fail_the_run() {
        let mut steps = Steps::default();
        steps.step("wine", |_| Ok(Done::Skipped("not installed".into())));
        assert_eq!(steps.skipped, ["wine: not installed"]);
        assert_eq!(
            format!("{:?}", steps.summary()),
            format!("{:?}", ExitCode::SUCCESS)
        );
    }
}
