//! The log of a session in the background: appended to, bounded in size, readable by its owner alone.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::sys;

/// A log that has grown beyond this is set aside, in place of the one that was set aside before.
const MAX_BYTES: u64 = 5 * 1024 * 1024;

/// The folder of the logs.
pub(crate) fn folder(state: &Path) -> PathBuf {
    state.join("logs")
}

/// The log of an environment's sessions.
pub(crate) fn path(state: &Path, environment: &str) -> PathBuf {
    folder(state).join(format!("{environment}.log"))
}

/// Where a log is set aside.
pub(crate) fn set_aside(path: &Path) -> PathBuf {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".1");
    aside.into()
}

/// An open log. Standard output and standard error of the process go there too, for what a panic says.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: File,
}

impl LogFile {
    /// Opens the log of an environment, or begins one.
    pub(crate) fn open(state: &Path, environment: &str) -> io::Result<Self> {
        sys::make_private_folder(&folder(state))?;
        let path = path(state, environment);
        let file = sys::append_privately(&path)?;
        Ok(Self { path, file })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The open file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Appends text. What cannot be written (a full disk) is lost: there is nobody left to tell.
    pub(crate) fn write(&mut self, text: &str) {
        if is_full(&self.file, MAX_BYTES)
            && let Ok(file) = begin_anew(&self.file, &self.path)
        {
            drop(sys::redirect_output(&file));
            self.file = file;
        }
        drop(self.file.write_all(text.as_bytes()));
    }
}

fn is_full(file: &File, max_bytes: u64) -> bool {
    file.metadata().is_ok_and(|file| file.len() >= max_bytes)
}

/// Sets the log aside, unless another session of the environment has done so, and opens the new one.
fn begin_anew(file: &File, path: &Path) -> io::Result<File> {
    if sys::is_at(file, path) {
        fs::rename(path, set_aside(path))?;
    }
    sys::append_privately(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_is_full_is_set_aside_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dev.log");
        let mut file = sys::append_privately(&path).unwrap();
        for number in 0..50 {
            if is_full(&file, 100) {
                file = begin_anew(&file, &path).unwrap();
            }
            writeln!(file, "line {number:04}").unwrap();
        }
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        // Ten bytes a line: the newest ten, and the ten before.
        assert!(read(&path).ends_with("line 0049\n"));
        assert!(read(&set_aside(&path)).ends_with("line 0039\n"));
        assert_eq!(read(&path).len() + read(&set_aside(&path)).len(), 200);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn of_two_sessions_with_one_log_one_sets_it_aside_and_both_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dev.log");
        let mut first = sys::append_privately(&path).unwrap();
        let second = sys::append_privately(&path).unwrap();
        writeln!(first, "{}", "x".repeat(200)).unwrap();
        for (file, line) in [(first, "first"), (second, "second")] {
            assert!(is_full(&file, 100));
            let mut file = begin_anew(&file, &path).unwrap();
            writeln!(file, "{line}").unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "first\nsecond\n");
    }
}
