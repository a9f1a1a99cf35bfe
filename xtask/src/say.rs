//! How this program prints.

use std::fmt::Display;
use std::io::{self, Write};

/// Prints a line to standard output.
pub(crate) fn say(line: &impl Display) {
    write_to(&mut io::stdout().lock(), format_args!("{line}\n"));
}

/// Prints the beginning of a line that is finished when the work is done.
pub(crate) fn begin(text: &str) {
    write_to(&mut io::stdout().lock(), format_args!("{text}"));
}

/// Prints a line to standard error.
pub(crate) fn complain(line: &str) {
    write_to(&mut io::stderr().lock(), format_args!("{line}\n"));
}

/// A closed output (`cargo xtask test | head`) does not fail the checks; the exit code still reports how they went.
#[cfg(not(test))]
fn write_to(out: &mut impl Write, text: std::fmt::Arguments<'_>) {
    if out.write_fmt(text).and_then(|()| out.flush()).is_err() {
        // The reader is gone.
    }
}

/// In tests, through the macro, so that the test runner captures the text.
#[cfg(test)]
fn write_to(_out: &mut impl Write, text: std::fmt::Arguments<'_>) {
    print!("{text}");
}
