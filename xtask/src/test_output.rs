//! Quiets the output of `cargo test`: passing tests are counted instead of listed, and skipped ones are collected.

/// Reads Cargo's output line by line.
#[derive(Default)]
pub(crate) struct TestOutput {
    /// Whether we are in the part where libtest shows what passing tests printed.
    of_passing_tests: bool,
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// What follows `SKIP ` in the lines that tests print, `<test>: <reason>`, and the same for ignored tests.
    pub(crate) skips: Vec<String>,
    /// The names of tests that failed.
    pub(crate) failures: Vec<String>,
}

impl TestOutput {
    /// Takes in a line and returns whether it is worth showing.
    pub(crate) fn line(&mut self, line: &str) -> bool {
        if let Some(skip) = skipped(line) {
            // The same line may come twice: through the runner's capture and past it.
            if !self.skips.iter().any(|known| known == skip) {
                self.skips.push(skip.to_owned());
            }
            return false;
        }
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.of_passing_tests = false;
            self.passed += count_before(counts, " passed");
            self.failed += count_before(counts, " failed");
            return true;
        }
        if line == "successes:" {
            self.of_passing_tests = true;
        } else if line == "failures:" {
            self.of_passing_tests = false;
        }
        if self.of_passing_tests || line.is_empty() {
            return false;
        }
        if let Some(test) = line.strip_prefix("test ") {
            if let Some(name) = test.strip_suffix(" ... FAILED") {
                self.failures.push(name.to_owned());
            }
            if let Some((name, why)) = test.split_once(" ... ignored") {
                let why = why.strip_prefix(", ").unwrap_or("ignored");
                self.skips.push(format!("{name}: {why}"));
                return false;
            }
            return !test.ends_with(" ... ok");
        }
        let word = line.split_whitespace().next().unwrap_or_default();
        !matches!(
            word,
            "running" | "Compiling" | "Downloading" | "Downloaded" | "Blocking" | "Finished"
        )
    }
}

/// The text after `SKIP `, at the start of a line or after what the test runner had begun to print.
fn skipped(line: &str) -> Option<&str> {
    const WORD: &str = "SKIP ";
    let at = line
        .find(WORD)
        .filter(|at| *at == 0 || line[..*at].ends_with(' '))?;
    // A step's own line has blanks there, for its columns.
    Some(&line[at + WORD.len()..]).filter(|told| !told.starts_with(' '))
}

/// The number before a word: 3 in `ok. 3 passed; 1 failed` for ` passed`.
fn count_before(text: &str, word: &str) -> u64 {
    let before = text.split(word).next().unwrap_or_default();
    let digits = before
        .rsplit(|c: char| !c.is_ascii_digit())
        .next()
        .unwrap_or_default();
    digits.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "\
     Running unittests src/lib.rs (target/debug/deps/ipalloc-1)

running 3 tests
test a ... ok
test b ... ignored, needs root
test c ... FAILED

successes:

---- a stdout ----
SKIP a: psql is not installed
loud

successes:
    a

failures:

---- c stdout ----
thread 'c' panicked at src/lib.rs:1:1:

failures:
    c

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    #[test]
    fn failures_are_shown_and_the_output_of_passing_tests_is_not() {
        let mut output = TestOutput::default();
        let shown: Vec<_> = RUN
            .lines()
            .filter(|line| output.line(line))
            .map(str::trim)
            .collect();
        assert_eq!(
            shown,
            [
                "Running unittests src/lib.rs (target/debug/deps/ipalloc-1)",
                "test c ... FAILED",
                "failures:",
                "---- c stdout ----",
                "thread 'c' panicked at src/lib.rs:1:1:",
                "failures:",
                "c",
                "test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            ]
        );
        assert_eq!((output.passed, output.failed), (1, 1));
        assert_eq!(output.failures, ["c"]);
        assert_eq!(output.skips, ["b: needs root", "a: psql is not installed"]);
    }

    #[test]
    fn counts_add_up_over_binaries() {
        let mut output = TestOutput::default();
        for _ in 0..3 {
            output.line("test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
        }
        assert_eq!((output.passed, output.failed), (36, 0));
    }

    #[test]
    fn a_skip_on_a_line_that_the_runner_began_is_found() {
        let mut output = TestOutput::default();
        output.line("test with_psql ... SKIP with_psql: psql is not installed");
        output.line("SKIP patch: not installed");
        output.line("SKIPPED is another word");
        output.line("wine       SKIP   0.0 s  not installed");
        assert_eq!(
            output.skips,
            ["with_psql: psql is not installed", "patch: not installed"]
        );
    }
}
