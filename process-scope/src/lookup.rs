//! What a failed `execvp` means: is there no such command, or is there one that cannot be run?

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

/// Why `execvp` failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing of that name is there.
    NotFound,
    /// This file is there, and cannot be run.
    NotExecutable(PathBuf),
}

/// Tells the two apart as shells do. `ENOENT` alone does not: it is also the answer for a script whose interpreter is
/// missing; nor does `EACCES`: it is also the answer where a folder of `PATH` may not be searched (execvp(3)).
pub(crate) fn judge(
    program: &OsStr,
    path: &OsStr,
    error: &io::Error,
    exists: impl Fn(&Path) -> bool,
) -> Verdict {
    if program.is_empty() {
        return Verdict::NotFound;
    }
    if program.as_encoded_bytes().contains(&b'/') {
        let file = PathBuf::from(program);
        // `file/x` is an answer about something that is there, as env(1) has it.
        return if error.kind() == io::ErrorKind::NotFound && !exists(&file) {
            Verdict::NotFound
        } else {
            Verdict::NotExecutable(file)
        };
    }
    let search = error.kind() == io::ErrorKind::NotFound
        || error.kind() == io::ErrorKind::PermissionDenied
        || error.kind() == io::ErrorKind::NotADirectory;
    let found = std::env::split_paths(path)
        .map(|folder| folder.join(program))
        .find(|file| exists(file));
    match found {
        Some(file) => Verdict::NotExecutable(file),
        None if search => Verdict::NotFound,
        None => Verdict::NotExecutable(PathBuf::from(program)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(program: &str, kind: io::ErrorKind, there: &[&str]) -> Verdict {
        judge(OsStr::new(program), OsStr::new("/a:/b"), &kind.into(), |file| {
            there.iter().any(|path| Path::new(path) == file)
        })
    }

    #[test]
    fn absent_is_not_found() {
        assert_eq!(verdict("x", io::ErrorKind::NotFound, &[]), Verdict::NotFound);
        assert_eq!(verdict("/a/x", io::ErrorKind::NotFound, &[]), Verdict::NotFound);
        assert_eq!(verdict("", io::ErrorKind::NotFound, &["/a"]), Verdict::NotFound);
    }

    #[test]
    fn an_unsearchable_folder_of_path_is_not_found() {
        assert_eq!(
            verdict("x", io::ErrorKind::PermissionDenied, &[]),
            Verdict::NotFound
        );
    }

    #[test]
    fn a_missing_interpreter_is_not_executable() {
        assert_eq!(
            verdict("x", io::ErrorKind::NotFound, &["/b/x"]),
            Verdict::NotExecutable("/b/x".into())
        );
        assert_eq!(
            verdict("./x", io::ErrorKind::NotFound, &["./x"]),
            Verdict::NotExecutable("./x".into())
        );
    }

    #[test]
    fn everything_else_is_not_executable() {
        assert_eq!(
            verdict("./x", io::ErrorKind::PermissionDenied, &["./x"]),
            Verdict::NotExecutable("./x".into())
        );
        assert_eq!(
            verdict("f/x", io::ErrorKind::NotADirectory, &[]),
            Verdict::NotExecutable("f/x".into())
        );
        assert_eq!(
            verdict("x", io::ErrorKind::ArgumentListTooLong, &[]),
            Verdict::NotExecutable("x".into())
        );
    }
}
