//! Where what the command says goes: to the terminal, and from a session in the background to its log.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use service_catalog::is_format;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

use crate::log_file::LogFile;

/// What kind of text it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// What was asked for, for standard output.
    Out,
    /// What happens beside that, for standard error.
    Err,
    /// Lines of the log, whose times they carry themselves, for standard error.
    Log,
}

#[derive(Debug)]
enum Place {
    Terminal,
    /// To the terminal, as long as the command that starts a session in the background waits, and kept for its log.
    Starting(String),
    File(LogFile),
}

/// The first failure to write to standard output.
static LOST: OnceLock<String> = OnceLock::new();

static PLACE: Mutex<Place> = Mutex::new(Place::Terminal);

/// More than a start says, unless it is asked to trace every frame.
const KEPT_BYTES: usize = 256 * 1024;

/// Keeps what is said from here on for the log as well.
pub(crate) fn keep() {
    *PLACE.lock().unwrap_or_else(PoisonError::into_inner) = Place::Starting(String::new());
}

/// Has everything from here on go to a log, which begins with what was kept.
pub(crate) fn move_to(mut log: LogFile) {
    let mut place = PLACE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Place::Starting(kept) = &*place {
        log.write(kept);
    }
    *place = Place::File(log);
}

/// Whether to leave colours out: standard error is no terminal, or `NO_COLOR` is set (<https://no-color.org>).
pub(crate) fn is_plain() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let place = PLACE.lock().unwrap_or_else(PoisonError::into_inner);
    unwanted || !matches!(*place, Place::Terminal) || !io::stderr().is_terminal()
}

/// Shows it on the terminal alone: it is for whoever started a session in the background.
pub(crate) fn tell_starter(text: &str) {
    drop(show(Stream::Out, text));
}

/// Writes it to the log of a session in the background, where there is one: a terminal has seen what led to it.
pub(crate) fn tell_log(text: &str) {
    let mut place = PLACE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Place::File(log) = &mut *place {
        log.write(&dated(Stream::Err, text));
    }
}

/// Writes it. The error is for commands that only show something and end when their reader goes away (`| head`); a session
/// ignores it and goes on.
pub(crate) fn write(stream: Stream, text: &str) -> io::Result<()> {
    let mut place = PLACE.lock().unwrap_or_else(PoisonError::into_inner);
    match &mut *place {
        Place::Terminal => show(stream, text),
        Place::Starting(kept) => {
            let line = dated(stream, text);
            if kept.len() + line.len() <= KEPT_BYTES {
                kept.push_str(&line);
            }
            show(stream, text)
        }
        Place::File(log) => {
            log.write(&dated(stream, text));
            Ok(())
        }
    }
}

/// Writes bytes to standard output. For commands that only show something.
pub(crate) fn write_bytes(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(bytes).and_then(|()| out.flush());
    if let Err(error) = &written
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        LOST.get_or_init(|| error.to_string());
    }
    written
}

/// Why some of the output was lost, unless its reader had gone away.
pub(crate) fn lost() -> Option<&'static str> {
    LOST.get().map(String::as_str)
}

fn show(stream: Stream, text: &str) -> io::Result<()> {
    match stream {
        Stream::Out => write_bytes(text.as_bytes()),
        Stream::Err | Stream::Log => io::stderr().lock().write_all(text.as_bytes()),
    }
}

/// Lines with the time in front.
fn dated(stream: Stream, text: &str) -> String {
    if stream == Stream::Log {
        return text.to_owned();
    }
    let now = now();
    text.lines()
        .filter(|line| !line.is_empty())
        .map(|line| format!("{now} {line}\n"))
        .collect()
}

fn now() -> humantime::Rfc3339Timestamp {
    humantime::format_rfc3339_millis(SystemTime::now())
}

/// The time in lines of the log: UTC, RFC 3339, milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock;

impl FormatTime for Clock {
    fn format_time(&self, w: &mut Writer<'_>) -> std::fmt::Result {
        write!(w, "{}", now())
    }
}

/// Where the log goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogWriter;

impl Write for LogWriter {
    /// Called once an event, with all of its text. Escape codes in its fields are replaced already, which leaves what turns or
    /// hides text.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes).replace(is_format, "\u{fffd}");
        // Where nobody reads it there is nobody to tell either.
        drop(write(Stream::Log, &text));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for LogWriter {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_that_people_read_gets_the_time_and_no_other() {
        let dated = dated(Stream::Err, "first\n\nsecond\n");
        let lines: Vec<_> = dated.lines().map(|line| line.split_once(' ').unwrap()).collect();
        assert_eq!(
            lines.iter().map(|(_, rest)| *rest).collect::<Vec<_>>(),
            ["first", "second"]
        );
        for (time, _) in lines {
            assert!(humantime::parse_rfc3339(time).is_ok(), "{time}");
            assert_eq!(time.len(), "2026-01-01T00:00:00.000Z".len());
        }
        assert_eq!(super::dated(Stream::Log, "as it is\n"), "as it is\n");
    }
}
