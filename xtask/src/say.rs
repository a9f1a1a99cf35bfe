//! The two ways this program speaks.

use std::fmt::Display;
use std::io::{self, Write};

/// One line on standard output.
pub(crate) fn say(line: &impl Display) {
    write_to(&mut io::stdout().lock(), format_args!("{line}\n"));
}

/// The beginning of a line whose end follows when the work is done.
pub(crate) fn begin(text: &str) {
    write_to(&mut io::stdout().lock(), format_args!("{text}"));
}

/// One line on standard error.
pub(crate) fn complain(line: &str) {
    write_to(&mut io::stderr().lock(), format_args!("{line}\n"));
}

/// A closed output (`cargo xtask test | head`) is no failure of the checks: the exit code still tells.
#[cfg(not(test))]
fn write_to(out: &mut impl Write, text: std::fmt::Arguments<'_>) {
    if out.write_fmt(text).and_then(|()| out.flush()).is_err() {
        // Nobody reads any more.
    }
}

/// In a test: through the macro, so that the test runner keeps the text to itself.
#[cfg(test)]
fn write_to(_out: &mut impl Write, text: std::fmt::Arguments<'_>) {
    print!("{text}");
}
