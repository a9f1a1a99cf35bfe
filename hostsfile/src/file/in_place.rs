//! Writes a file that cannot be replaced, without ever making it shorter than necessary.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};

use super::journal::Journal;
use super::lock::Lock;
use super::replace::Attempt;
use super::target::{Target, holds, os_error, read_error};
use super::{Method, fail, sys};
use crate::error::Error;
use crate::plan::Plan;

/// Writes the plan from the first byte that differs, then sets the length, and reads the result back.
///
/// If the process dies in between, the next change finishes the write with the help of the [`Journal`].
pub(super) fn write(target: &Target, plan: &Plan<'_>, lock: &Lock) -> Result<Attempt, Error> {
    let mut file = target
        .directory
        .open_for_writing(&target.name)
        .map_err(|e| sys::open_error(target, e))?;
    if !holds(&mut file, std::iter::once(plan.old_bytes())).map_err(|e| read_error(&target.shown, e))? {
        return Ok(Attempt::Stale);
    }
    let from = plan.first_change();
    let old_tail = &plan.old_bytes()[from..];
    let new_tail = plan.new_tail(from);
    let journal = Journal::write(target, lock, from, old_tail, &new_tail)?;
    fail::point("journal-written");

    // A lack of space must show before the first byte is written.
    if new_tail.len() > old_tail.len() {
        let (start, more) = (
            plan.old_bytes().len() as u64,
            (new_tail.len() - old_tail.len()) as u64,
        );
        sys::reserve(&file, start, more).map_err(|e| os_error(&target.shown, "reserve space for", e))?;
    }
    if let Err(e) = write_tail(&mut file, from, &new_tail) {
        write_tail(&mut file, from, old_tail).map_err(|e| os_error(&target.shown, "restore", e))?;
        return Err(os_error(&target.shown, "write", e));
    }
    fail::point("in-place-written");
    let verified = file
        .seek(SeekFrom::Start(0))
        .and_then(|_| holds(&mut file, plan.pieces()));
    let verified = verified.map_err(|e| read_error(&target.shown, e))?;
    journal.remove();
    Ok(if verified {
        Attempt::Written(Method::InPlace, None)
    } else {
        Attempt::NotVerified
    })
}

/// Makes these bytes, at an offset, the end of a file.
pub(super) fn write_tail(file: &mut File, from: usize, tail: &[u8]) -> io::Result<()> {
    file.seek(SeekFrom::Start(from as u64))?;
    if cfg!(test) {
        let (first, second) = tail.split_at(tail.len() / 2);
        file.write_all(first)?;
        fail::point("half-written");
        file.write_all(second)?;
    } else {
        file.write_all(tail)?;
    }
    fail::point("tail-written");
    file.set_len((from + tail.len()) as u64)?;
    file.sync_all()
}
