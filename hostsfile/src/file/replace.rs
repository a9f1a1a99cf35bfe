//! Replaces a file with new bytes.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};

use super::lock::Lock;
use super::options::FileOptions;
use super::sys::Directory;
use super::target::{Target, holds, os_error};
use super::{Method, fail, in_place, sys};
use crate::error::Error;
use crate::plan::Plan;
use crate::scan::Markers;

/// The result of an attempt.
pub(super) enum Attempt {
    /// With the file that was there before, if another one took its place.
    Written(Method, Option<File>),
    /// The file's content is no longer what the plan was made from.
    Stale,
    /// It was written in place, but contained something else afterwards.
    NotVerified,
}

/// The file that another one took the place of, still open: a program that opened it for appending before that writes into
/// it all the same, and holds no lock of ours.
pub(super) struct Replaced<'p> {
    file: File,
    /// What the new file was made from.
    content: Cow<'p, [u8]>,
    /// How much of it has been read.
    known: u64,
    /// Whether what has been read ends where a line does.
    ends_line: bool,
}

/// Text that was appended to a file after it was replaced.
#[derive(Default)]
pub(super) struct Appended {
    pub(super) text: Vec<u8>,
    /// Whether it is not the rest of a line that was there before.
    pub(super) starts_line: bool,
}

impl Appended {
    /// Appends more, which may be from another file.
    pub(super) fn add(&mut self, more: Appended) {
        if self.text.is_empty() {
            *self = more;
            return;
        }
        let separator = more.separator(&self.text);
        self.text.extend_from_slice(separator);
        self.text.extend(more.text);
    }

    /// The line end that the text needs where it follows these bytes: they may have lost their own.
    pub(super) fn separator(&self, before: &[u8]) -> &'static [u8] {
        if !self.starts_line || before.last().is_none_or(|last| *last == b'\n') {
            return b"";
        }
        let ending = Markers::of(before).line_ending();
        ending.unwrap_or(sys::PLATFORM_LINE_ENDING).as_str().as_bytes()
    }
}

impl<'p> Replaced<'p> {
    pub(super) fn new(file: File, content: Cow<'p, [u8]>) -> Self {
        Replaced {
            file,
            known: content.len() as u64,
            ends_line: content.last().is_none_or(|last| *last == b'\n'),
            content,
        }
    }

    /// What was appended since it was last asked. Nothing if the file was written anew instead: the end of another content is no
    /// text by itself.
    pub(super) fn appended(&mut self) -> io::Result<Option<Appended>> {
        let mut text = Vec::new();
        self.file.seek(SeekFrom::Start(self.known))?;
        self.known += self.file.read_to_end(&mut text)? as u64;
        let Some(last) = text.last() else {
            return Ok(None);
        };
        let ends_line = *last == b'\n';
        // After the text was read: whoever writes the file anew has written its beginning by then.
        self.file.seek(SeekFrom::Start(0))?;
        let beginning = (&self.file).take(self.content.len() as u64);
        if !holds(beginning, std::iter::once(&*self.content))? {
            return Ok(None);
        }
        let starts_line = std::mem::replace(&mut self.ends_line, ends_line);
        Ok(Some(Appended { text, starts_line }))
    }

    /// Whether somebody may still append to it.
    pub(super) fn has_writer(&self) -> bool {
        sys::has_writer(&self.file)
    }
}

/// Writes the plan.
pub(super) fn replace(
    target: &Target,
    plan: &Plan<'_>,
    lock: &Lock,
    options: &FileOptions,
) -> Result<Attempt, Error> {
    let old = if target.exists() {
        Some(target.open()?)
    } else {
        None
    };
    if let Some(old) = &old {
        sys::check_writable(target, old, options.override_read_only)?;
    }
    let _marks = sys::clear_marks(target, options.override_read_only)?;
    if old.is_some() && options.in_place {
        return in_place::write(target, plan, lock);
    }
    let (temp, file) = match Temp::create_in(&target.directory, target) {
        Ok(made) => made,
        Err(e)
            if old.is_some()
                && (e.kind() == ErrorKind::PermissionDenied || e.kind() == ErrorKind::ReadOnlyFilesystem) =>
        {
            return in_place::write(target, plan, lock);
        }
        Err(e) => return Err(os_error(&target.shown, "write a file beside", e)),
    };
    fail::point("temp-created");
    plan.write_to(&file)
        .map_err(|e| os_error(&target.shown, "write a file beside", e))?;
    fail::point("temp-written");
    match &old {
        Some(old) => match sys::copy_attributes(old, &file) {
            Ok(()) => {}
            // A new file could not get all the attributes; a write in place keeps them.
            Err(e) if sys::is_refused(&e) => {
                drop(temp);
                return in_place::write(target, plan, lock);
            }
            Err(e) => return Err(os_error(&target.shown, "copy the attributes of", e)),
        },
        None => sys::set_default_mode(&file).map_err(|e| os_error(&target.shown, "set the mode of", e))?,
    }
    fail::point("attributes-copied");
    file.sync_all()
        .map_err(|e| os_error(&target.shown, "sync a file beside", e))?;
    fail::point("temp-synced");
    let replaced = old.and_then(sys::kept_open);
    if !target.holds(plan.old_bytes())? {
        return Ok(Attempt::Stale);
    }
    fail::point("compared");
    match temp.rename_over(target, file) {
        Ok(()) => {}
        Err((temp, e)) if sys::must_stay(&e) && target.exists() => {
            drop(temp);
            return in_place::write(target, plan, lock);
        }
        Err((_, e)) => return Err(sys::rename_error(target, e)),
    }
    fail::point("renamed");
    target
        .directory
        .sync()
        .map_err(|e| os_error(&target.shown, "sync the directory of", e))?;
    Ok(Attempt::Written(Method::Renamed, replaced))
}

/// A file beside the target that is removed when dropped.
pub(super) struct Temp<'d> {
    directory: &'d Directory,
    name: OsString,
    there: bool,
}

impl<'d> Temp<'d> {
    /// Creates a file with a random name that nobody else can read, for the target's new content.
    pub(super) fn create_in(directory: &'d Directory, target: &Target) -> io::Result<(Self, File)> {
        for _ in 0..TRIES {
            let name = target.beside(&format!("{:016x}.tmp", fastrand::u64(..)));
            match directory.create_file(&name) {
                Ok(file) => {
                    return Ok((
                        Temp {
                            directory,
                            name,
                            there: true,
                        },
                        file,
                    ));
                }
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
        Err(ErrorKind::AlreadyExists.into())
    }

    /// Renames it, so that it stays.
    pub(super) fn rename_to(mut self, name: &OsStr) -> io::Result<()> {
        self.directory.rename(&self.name, name)?;
        self.there = false;
        Ok(())
    }

    fn rename_over(mut self, target: &Target, file: File) -> Result<(), (Self, io::Error)> {
        match sys::replace_file(self.directory, &self.name, file, &target.name, target.exists()) {
            Ok(()) => {
                self.there = false;
                Ok(())
            }
            Err(e) => Err((self, e)),
        }
    }
}

impl Drop for Temp<'_> {
    fn drop(&mut self) {
        if self.there {
            // If it cannot be removed now, the next change removes it.
            let _removed = self.directory.remove(&self.name);
        }
    }
}

const TRIES: usize = 16;
