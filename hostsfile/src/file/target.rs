//! The file that a path leads to.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::sys::{self, Directory};
use crate::error::Error;

/// A hosts file with its links resolved, and the directory that it is really in.
pub(super) struct Target {
    /// The path as the caller gave it, for messages.
    pub(super) shown: PathBuf,
    /// The file it leads to.
    pub(super) real: PathBuf,
    pub(super) directory: Directory,
    pub(super) name: OsString,
    exists: bool,
}

impl Target {
    pub(super) fn resolve(path: &Path, may_be_missing: bool) -> Result<Self, Error> {
        let (real, exists) = match std::fs::canonicalize(path) {
            Ok(real) => (real, true),
            Err(e) if e.kind() == ErrorKind::NotFound && may_be_missing => (missing_target(path)?, false),
            Err(e) if sys::is_symlink_loop(&e) => {
                return Err(Error::SymlinkLoop {
                    path: path.to_owned(),
                });
            }
            Err(e) => return Err(read_error(path, e)),
        };
        let (Some(parent), Some(name)) = (real.parent(), real.file_name()) else {
            return Err(Error::NotAFile {
                path: path.to_owned(),
            });
        };
        if exists
            && !std::fs::metadata(&real)
                .map_err(|e| read_error(path, e))?
                .is_file()
        {
            return Err(Error::NotAFile {
                path: path.to_owned(),
            });
        }
        let directory = Directory::open(parent).map_err(|e| read_error(parent, e))?;
        Ok(Target {
            shown: path.to_owned(),
            name: name.to_owned(),
            directory,
            real,
            exists,
        })
    }

    /// False for a file that has yet to be created.
    pub(super) fn exists(&self) -> bool {
        self.exists
    }

    pub(super) fn read(&self) -> Result<Vec<u8>, Error> {
        self.read_stamped().map(|(bytes, _)| bytes)
    }

    /// The content, and a stamp with which a later change can be noticed cheaply. A comparison finds what the stamp misses.
    pub(super) fn read_stamped(&self) -> Result<(Vec<u8>, Option<sys::Stamp>), Error> {
        let mut bytes = Vec::new();
        let mut stamp = None;
        if self.exists {
            let mut file = self.open()?;
            stamp = sys::stamp(&file).ok();
            // Room for more than its length, so that reading up to the end does not reallocate.
            let length = file
                .metadata()
                .map_or(0, |m| usize::try_from(m.len()).unwrap_or(0));
            bytes.reserve_exact(length + 1);
            file.read_to_end(&mut bytes)
                .map_err(|e| read_error(&self.shown, e))?;
        }
        Ok((bytes, stamp))
    }

    pub(super) fn stamp(&self) -> Option<sys::Stamp> {
        self.directory
            .open_file(&self.name)
            .and_then(|file| sys::stamp(&file))
            .ok()
    }

    /// Opens the file for reading.
    pub(super) fn open(&self) -> Result<File, Error> {
        self.directory
            .open_file(&self.name)
            .map_err(|e| read_error(&self.shown, e))
    }

    /// Whether the file contains exactly these bytes right now.
    pub(super) fn holds(&self, expected: &[u8]) -> Result<bool, Error> {
        match self.directory.open_file(&self.name) {
            Ok(mut file) => {
                holds(&mut file, std::iter::once(expected)).map_err(|e| read_error(&self.shown, e))
            }
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(!self.exists && expected.is_empty()),
            // Someone replaced it with a link.
            Err(e) if sys::is_symlink_loop(&e) => Ok(false),
            Err(e) => Err(read_error(&self.shown, e)),
        }
    }

    /// The name for one of our files beside it: hidden, and recognised by its ending.
    pub(super) fn beside(&self, end: &str) -> OsString {
        beside(&self.name, end)
    }
}

pub(super) fn beside(name: &OsStr, end: &str) -> OsString {
    let mut beside = OsString::from(".");
    beside.push(name);
    beside.push(".hostsfile-");
    beside.push(end);
    beside
}

/// Whether a reader yields exactly these pieces.
pub(super) fn holds<'p>(mut from: impl Read, pieces: impl Iterator<Item = &'p [u8]>) -> io::Result<bool> {
    let mut buffer = vec![0_u8; COMPARE_BYTES];
    let mut at = 0;
    let mut filled = 0;
    for mut piece in pieces {
        while !piece.is_empty() {
            if at == filled {
                filled = read_some(&mut from, &mut buffer)?;
                at = 0;
                if filled == 0 {
                    return Ok(false);
                }
            }
            let length = piece.len().min(filled - at);
            if piece[..length] != buffer[at..at + length] {
                return Ok(false);
            }
            piece = &piece[length..];
            at += length;
        }
    }
    Ok(at == filled && read_some(&mut from, &mut buffer)? == 0)
}

fn read_some(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match from.read(buffer) {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

/// Where to create a file that does not exist. Links are followed by hand, since the last one is dangling.
fn missing_target(path: &Path) -> Result<PathBuf, Error> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let Some(name) = path.file_name() else {
            return Err(Error::NotAFile { path });
        };
        let real = std::fs::canonicalize(parent).map_err(|e| read_error(parent, e))?;
        let candidate = real.join(name);
        match std::fs::read_link(&candidate) {
            Ok(link) => path = real.join(link),
            Err(_) => return Ok(candidate),
        }
    }
    Err(Error::SymlinkLoop { path })
}

/// The error for a failure to read.
pub(super) fn read_error(path: &Path, source: io::Error) -> Error {
    os_error(path, "read", source)
}

/// The variant for an error of the operating system.
pub(super) fn os_error(path: &Path, doing: &'static str, source: io::Error) -> Error {
    let path = path.to_owned();
    if sys::is_held_by_other(&source) {
        return Error::Locked {
            path,
            waited: sys::PATIENCE,
        };
    }
    match source.kind() {
        ErrorKind::NotFound => Error::NotFound { path },
        ErrorKind::PermissionDenied => Error::PermissionDenied { path, doing, source },
        ErrorKind::ReadOnlyFilesystem => Error::ReadOnlyFileSystem { path },
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::NoSpace { path, source },
        _ => Error::Io { path, doing, source },
    }
}

const MAX_LINKS: usize = 40;
/// Small enough to stay in a core's cache.
const COMPARE_BYTES: usize = 128 * 1024;
