//! `devbox status --watch`: running sessions, shown anew whenever something changes.

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use devbox_engine::{Error, Running, StatusReport, Watch};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::args::Output;
use crate::failure::Failure;
use crate::output::{self, Stream};
use crate::print;
use crate::sys::Signals;

/// However much happens, the next state is shown this much later at the earliest.
const BETWEEN: Duration = Duration::from_millis(250);

/// States that wait to be shown. While it is full, the sessions wait, and give newer ones later.
const WAITING: usize = 1;

/// One of the sessions that are watched.
#[derive(Debug)]
struct Watched {
    /// How it is, or was when it ended.
    report: StatusReport,
    running: bool,
    /// Whether this state was shown.
    shown: bool,
}

/// Shows these sessions until all of them have ended, or a signal comes.
pub(crate) async fn watch(found: Vec<Running>, output: Output) -> Result<ExitCode, Failure> {
    let mut signals = Signals::new().map_err(Failure::because)?;
    let (sender, mut states) = mpsc::channel(WAITING);
    let mut following = JoinSet::new();
    let mut sessions = Vec::new();
    for (index, session) in found.into_iter().enumerate() {
        // One that cannot be followed has most likely ended since it was found.
        let running = match session.watch().await {
            Ok(watch) => {
                following.spawn(follow(index, watch, sender.clone()));
                true
            }
            Err(error) => told_lost(&error),
        };
        sessions.push(Watched {
            report: session.report,
            running,
            shown: false,
        });
    }
    drop(sender);
    let mut screen = Screen::new(output);
    let mut next = Instant::now();
    loop {
        let changed = sessions.iter().any(|session| !session.shown);
        tokio::select! {
            biased;
            signal = signals.next() => {
                tracing::debug!(signal, "no longer watched");
                return Ok(ExitCode::SUCCESS);
            }
            () = tokio::time::sleep_until(next), if changed => {
                if output::write(Stream::Out, &screen.show(&mut sessions)).is_err() {
                    // Nobody reads it any more.
                    return Ok(ExitCode::SUCCESS);
                }
                next = Instant::now() + BETWEEN;
                if sessions.iter().all(|session| !session.running) {
                    return Ok(ExitCode::SUCCESS);
                }
            }
            Some((index, state)) = states.recv() => {
                let Some(session) = sessions.get_mut(index) else { continue };
                match state {
                    Ok(Some(report)) => session.report = report,
                    Ok(None) => session.running = false,
                    Err(error) => session.running = told_lost(&error),
                }
                session.shown = false;
            }
        }
    }
}

/// A session that breaks off, as when it is killed in mid-sentence, does not end the watch of the others. It runs no more.
fn told_lost(error: &Error) -> bool {
    tracing::debug!(error = %devbox_provider::with_causes(error), "a session is followed no longer");
    false
}

/// Passes on what a session says of itself until it has ended.
async fn follow(
    index: usize,
    mut watch: Watch,
    states: mpsc::Sender<(usize, Result<Option<StatusReport>, Error>)>,
) {
    loop {
        let state = watch.next().await;
        let last = !matches!(state, Ok(Some(_)));
        if states.send((index, state)).await.is_err() || last {
            return;
        }
    }
}

/// How states are shown.
#[derive(Debug)]
enum Screen {
    /// In place, each over the one before, which has this many lines.
    Terminal { lines: usize },
    /// One after the other, with an empty line between them.
    Text,
    /// A line each.
    Json,
}

impl Screen {
    fn new(output: Output) -> Self {
        match output {
            Output::Json => Self::Json,
            Output::Text if io::stdout().is_terminal() => Self::Terminal { lines: 0 },
            Output::Text => Self::Text,
        }
    }

    /// What to write so that the sessions are shown as they are.
    fn show(&mut self, sessions: &mut [Watched]) -> String {
        let news = sessions
            .iter_mut()
            .filter_map(|session| (!std::mem::replace(&mut session.shown, true)).then_some(&*session));
        match self {
            Self::Json => news.map(json).collect(),
            Self::Text => news.map(|session| text(session) + "\n").collect(),
            Self::Terminal { lines } => {
                news.for_each(drop);
                let texts: Vec<_> = sessions.iter().map(text).collect();
                let size = terminal_size::terminal_size()
                    .map(|(width, height)| (usize::from(width.0), usize::from(height.0)));
                let fits = fitting(&texts.join("\n"), size.unwrap_or((usize::MAX, usize::MAX)));
                over(std::mem::replace(lines, fits.len()), &fits)
            }
        }
    }
}

fn text(session: &Watched) -> String {
    if session.running {
        print::plain(&print::status(&session.report)).into_owned()
    } else {
        format!("session {} has ended\n", session.report.identity.session)
    }
}

fn json(session: &Watched) -> String {
    if session.running {
        return print::json_line(&session.report);
    }
    let id = &session.report.identity.session;
    print::json_line(&serde_json::json!({ "event": "ended", "session": id }))
}

/// What fits on a screen of this width and height, the cursor's line below included.
fn fitting(text: &str, (width, height): (usize, usize)) -> Vec<String> {
    let lines = text.lines().map(|line| line.chars().take(width).collect());
    let lines: Vec<String> = lines.collect();
    let room = height.saturating_sub(1).max(1);
    let Some(hidden) = lines.len().checked_sub(room).filter(|hidden| *hidden > 0) else {
        return lines;
    };
    let mut fits: Vec<_> = lines.into_iter().take(room - 1).collect();
    fits.push(format!("… {} more lines; `devbox status` shows them", hidden + 1));
    fits
}

/// The lines, written over the last ones on the terminal: each is replaced up to its end, so that nothing is empty in between and
/// nothing flickers. A line takes one line even where its characters are wide ones: nothing is wrapped (DECAWM). The cursor
/// stays below the last one, where the shell goes on.
fn over(last: usize, lines: &[String]) -> String {
    const NO_WRAP: &str = "\x1b[?7l";
    const WRAP: &str = "\x1b[?7h";
    const TO_END_OF_LINE: &str = "\x1b[K";
    const BELOW: &str = "\x1b[J";
    let up = if last > 0 {
        format!("\x1b[{last}A\r")
    } else {
        String::new()
    };
    let lines: String = lines
        .iter()
        .map(|line| format!("{line}{TO_END_OF_LINE}\n"))
        .collect();
    format!("{up}{NO_WRAP}{lines}{BELOW}{WRAP}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_written_over_the_one_before() {
        let lines = |text: &str| fitting(text, (80, 24));
        assert_eq!(
            over(0, &lines("a\nb\n")),
            "\x1b[?7la\x1b[K\nb\x1b[K\n\x1b[J\x1b[?7h"
        );
        assert!(over(2, &lines("c\n")).starts_with("\x1b[2A\r\x1b[?7lc\x1b[K\n\x1b[J"));
    }

    #[test]
    fn what_does_not_fit_on_the_screen_is_counted() {
        let text: String = (1..=10).map(|number| format!("line {number}\n")).collect();
        assert_eq!(fitting(&text, (80, 11)).len(), 10);
        assert_eq!(
            fitting(&text, (80, 4)),
            ["line 1", "line 2", "… 8 more lines; `devbox status` shows them"]
        );
        assert_eq!(fitting(&text, (80, 0)).len(), 1);
        assert_eq!(
            fitting(&text, (3, 3)),
            ["lin", "… 9 more lines; `devbox status` shows them"]
        );
    }
}
