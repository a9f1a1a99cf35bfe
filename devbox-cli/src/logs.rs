//! `devbox logs`: what sessions in the background have said.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use service_catalog::Label;

use crate::args::LogsArgs;
use crate::failure::{Failure, code};
use crate::log_file::{self, set_aside};
use crate::output::{self, Stream};
use crate::sys::Signals;
use crate::{background, print, runtime, sys};

/// How soon after it was said a line is shown, with `--follow`.
const PAUSE: Duration = Duration::from_millis(200);

/// Runs it.
pub(crate) fn run(args: &LogsArgs) -> Result<ExitCode, Failure> {
    let caller = sys::caller().map_err(Failure::because)?;
    sys::drop_to_caller(&caller).map_err(Failure::because)?;
    let state = background::state_folder(&caller)?;
    let path = find(&state, args.which.environment())?;
    let failed = |error: io::Error| Failure::new(code::FAILED, format!("{}: {error}", path.display()));
    let mut log = BufReader::new(File::open(&path).map_err(failed)?);
    print::out(&last_lines(&path, &mut log, args.lines).map_err(failed)?);
    if !args.follow {
        return Ok(ExitCode::SUCCESS);
    }
    runtime::run(0, async {
        let mut signals = Signals::new().map_err(Failure::because)?;
        tokio::select! {
            ended = follow(&path, log) => match ended {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(failed(error)),
                // Nobody reads it any more.
                _ => Ok(ExitCode::SUCCESS),
            },
            _ = signals.next() => Ok(ExitCode::SUCCESS),
        }
    })
}

/// Shows what is appended to a log, and goes on in the new one where it is set aside.
async fn follow(path: &Path, mut log: BufReader<File>) -> io::Result<()> {
    loop {
        show_rest(&mut log)?;
        if !sys::is_at(log.get_ref(), path)
            && let Ok(newer) = File::open(path)
        {
            // It may have grown before it was set aside.
            show_rest(&mut log)?;
            log = BufReader::new(newer);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The log of an environment, or the one that was written to last.
fn find(state: &Path, environment: Option<&Label>) -> Result<PathBuf, Failure> {
    let found = match environment {
        Some(environment) => Some(log_file::path(state, environment.as_ref())).filter(|path| path.is_file()),
        None => newest(&log_file::folder(state)),
    };
    found.ok_or_else(|| {
        let of = environment.map_or_else(String::new, |environment| {
            format!(" for the environment {environment}")
        });
        Failure::new(code::FAILED, format!("there is no log{of}")).help(
            "`devbox up --detach` writes one; without --detach a session says everything on its terminal",
        )
    })
}

fn newest(folder: &Path) -> Option<PathBuf> {
    let logs = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let logs = logs.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    logs.max_by_key(|path| fs::metadata(path).and_then(|found| found.modified()).ok())
}

/// The last lines, of the log that was set aside too if there are fewer in this one, which is read to its end.
fn last_lines(path: &Path, log: &mut impl BufRead, count: usize) -> io::Result<String> {
    let mut last = VecDeque::new();
    let mut add = |line: io::Result<Vec<u8>>| {
        last.push_back(String::from_utf8_lossy(&line?).into_owned());
        if last.len() > count {
            last.pop_front();
        }
        io::Result::Ok(())
    };
    match File::open(set_aside(path)) {
        Ok(aside) => BufReader::new(aside).split(b'\n').try_for_each(&mut add)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    log.split(b'\n').try_for_each(&mut add)?;
    Ok(last.into_iter().map(|line| line + "\n").collect())
}

fn show_rest(log: &mut impl Read) -> io::Result<()> {
    let mut rest = Vec::new();
    log.read_to_end(&mut rest)?;
    if rest.is_empty() {
        return Ok(());
    }
    output::write(Stream::Out, &String::from_utf8_lossy(&rest))
}
