//! Makes a write in place complete even if its process is killed: a file beside the hosts file contains both the old and the new
//! tail. It is written and synced before the first byte changes, and removed after the last one.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use super::in_place::write_tail;
use super::lock::Lock;
use super::options::FileOptions;
use super::replace::Temp;
use super::sys::{self, Directory};
use super::target::{Target, os_error, read_error};
use crate::error::Error;

/// A journal on disk, or none if no directory can hold one.
pub(super) struct Journal(Option<(Directory, OsString)>);

impl Journal {
    pub(super) fn write(
        target: &Target,
        lock: &Lock,
        from: usize,
        old: &[u8],
        new: &[u8],
    ) -> Result<Self, Error> {
        let name = target.beside(REDO);
        for (_, directory) in directories(target, lock) {
            let temp = match Temp::create_in(&directory, target) {
                Ok((temp, mut file)) => {
                    let head = format!("{MAGIC}{from} {} {}\n", old.len(), new.len());
                    [head.as_bytes(), old, new]
                        .iter()
                        .try_for_each(|part| file.write_all(part))
                        .and_then(|()| file.sync_all())
                        .map_err(|e| os_error(&target.shown, "write a file beside", e))?;
                    temp
                }
                Err(e)
                    if matches!(
                        e.kind(),
                        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
                    ) =>
                {
                    continue;
                }
                Err(e) => return Err(os_error(&target.shown, "write a file beside", e)),
            };
            temp.rename_to(&name)
                .map_err(|e| os_error(&target.shown, "write a file beside", e))?;
            return Ok(Journal(Some((directory, name))));
        }
        Ok(Journal(None))
    }

    pub(super) fn remove(self) {
        if let Some((directory, name)) = self.0 {
            // If it stays, recovery before the next change finds the write complete and removes it.
            let _removed = directory.remove(&name);
        }
    }
}

/// Whether there is anything to recover, determined without the lock.
pub(super) fn has_leftovers(target: &Target, options: &FileOptions) -> bool {
    let private = sys::private_lock_directory(target, options).and_then(|path| Directory::open(&path).ok());
    [Some(&target.directory), private.as_ref()]
        .into_iter()
        .flatten()
        .any(|directory| leftovers(directory, target).next().is_some())
        || target.directory.names().contains(&target.beside(sys::LOCK_NAME))
}

/// Finishes interrupted writes in place, and removes the files that killed writers left.
pub(super) fn recover(target: &Target, lock: &Lock) -> Result<(), Error> {
    for (path, directory) in directories(target, lock) {
        for name in leftovers(&directory, target) {
            if name == target.beside(REDO) {
                redo(target, &path, &directory, &name)?;
            }
            directory
                .remove(&name)
                .map_err(|e| os_error(&target.shown, "remove a file beside", e))?;
        }
    }
    Ok(())
}

/// The directories that may hold a journal, with their paths.
fn directories(target: &Target, lock: &Lock) -> Vec<(PathBuf, Directory)> {
    let private = lock
        .private_directory
        .as_ref()
        .and_then(|path| Some((path.clone(), Directory::open(path).ok()?)));
    let beside = target
        .real
        .parent()
        .and_then(|path| Some((path.to_owned(), target.directory.try_clone().ok()?)));
    beside.into_iter().chain(private).collect()
}

/// Our files in a directory. They are leftovers, since no other writer is active while we hold the lock.
fn leftovers<'d>(directory: &'d Directory, target: &Target) -> impl Iterator<Item = OsString> + 'd {
    let (prefix, redo) = (target.beside(""), target.beside(REDO));
    directory
        .names()
        .into_iter()
        .filter(move |name| *name == redo || is_temp(name, &prefix))
}

fn is_temp(name: &OsStr, prefix: &OsStr) -> bool {
    let rest = name.as_encoded_bytes().strip_prefix(prefix.as_encoded_bytes());
    rest.and_then(|rest| rest.strip_suffix(b".tmp"))
        .is_some_and(|id| id.len() == 16 && id.iter().all(u8::is_ascii_hexdigit))
}

/// Completes the write described by a journal, if the file contains a mixture of the two tails and nothing else.
fn redo(target: &Target, path: &Path, directory: &Directory, name: &OsStr) -> Result<(), Error> {
    let foreign = || Error::ForeignJournal {
        path: path.join(name),
    };
    // In a directory such as /tmp anybody may plant a file of this name, or a link to another one.
    let mut file = match directory.open_file(name) {
        Err(e) if sys::is_symlink_loop(&e) => return Err(foreign()),
        opened => opened.map_err(|e| read_error(&target.shown, e))?,
    };
    if !sys::is_own_private_file(&file).map_err(|e| read_error(&target.shown, e))? {
        return Err(foreign());
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)
        .map_err(|e| read_error(&target.shown, e))?;
    let Some((from, old, new)) = parse(&bytes) else {
        return Ok(());
    };
    let current = target.read()?;
    let Some(tail) = current.get(from..) else {
        return Ok(());
    };
    if !is_mixture(tail, old, new) {
        return Ok(());
    }
    let mut file: File = target
        .directory
        .open_for_writing(&target.name)
        .map_err(|e| sys::open_error(target, e))?;
    write_tail(&mut file, from, new).map_err(|e| os_error(&target.shown, "finish writing", e))
}

fn parse(bytes: &[u8]) -> Option<(usize, &[u8], &[u8])> {
    let rest = bytes.strip_prefix(MAGIC.as_bytes())?;
    let end = memchr::memchr(b'\n', rest)?;
    let mut numbers = std::str::from_utf8(&rest[..end])
        .ok()?
        .split(' ')
        .map(str::parse::<usize>);
    let (from, old, new) = (
        numbers.next()?.ok()?,
        numbers.next()?.ok()?,
        numbers.next()?.ok()?,
    );
    let ends = &rest[end + 1..];
    if ends.len() != old.checked_add(new)? {
        return None;
    }
    let (old, new) = ends.split_at(old);
    Some((from, old, new))
}

/// Whether the text is a prefix of the new tail followed by the rest of the old tail, and equal to neither tail.
fn is_mixture(text: &[u8], old: &[u8], new: &[u8]) -> bool {
    if text == old || text == new {
        return false;
    }
    let written = text.iter().zip(new).take_while(|(a, b)| a == b).count();
    // The file is as long as the old tail until the new one reaches beyond it.
    if text.len() < old.len() {
        return false;
    }
    if text.len() > old.len() {
        return written == text.len();
    }
    let kept = text
        .iter()
        .rev()
        .zip(old.iter().rev())
        .take_while(|(a, b)| a == b)
        .count();
    written + kept >= text.len()
}

const REDO: &str = "redo";
const MAGIC: &str = "hostsfile-redo 1 ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_of_an_interrupted_write_is_a_mixture() {
        for (old, new) in [
            ("abc", "xyz"),
            ("abc", "abcdef"),
            ("abcdef", "xy"),
            ("", "abc"),
            ("aaa", "aab"),
        ] {
            for written in 0..=new.len() {
                let mut text = new.as_bytes()[..written].to_vec();
                text.extend_from_slice(old.as_bytes().get(written..).unwrap_or_default());
                let whole = text == old.as_bytes() || text == new.as_bytes();
                assert_eq!(
                    is_mixture(&text, old.as_bytes(), new.as_bytes()),
                    !whole,
                    "{old} {new} {written}"
                );
            }
        }
        assert!(!is_mixture(b"foreign", b"abcdefg", b"xyz"));
        assert!(!is_mixture(b"ab", b"abc", b"xyz"));
    }
}
