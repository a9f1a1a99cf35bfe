//! Backups of a hosts file. Beside each one stands a file `<backup>.source` that holds the path it was copied from, so that files
//! of the same name can share a folder.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::HostsFile;
use super::target::{holds, os_error, read_error};
use crate::error::Error;

/// Where backups are kept, and how many.
#[derive(Debug, Clone)]
pub struct BackupRules {
    directory: PathBuf,
    keep: usize,
}

impl BackupRules {
    /// Keeps backups in this directory, which must exist: the very first one and the newest nine.
    #[must_use]
    pub fn in_directory(directory: impl Into<PathBuf>) -> Self {
        BackupRules {
            directory: directory.into(),
            keep: 10,
        }
    }

    /// Keeps this many, at least two: the very first one, which is the file before this crate touched it, and the newest.
    #[must_use]
    pub fn keep(mut self, keep: usize) -> Self {
        self.keep = keep.max(2);
        self
    }
}

/// A backup.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backup {
    /// The file, named `<name>.<YYYYMMDD>`, or `<name>.<YYYYMMDD>.<n>` if there is already one of that day; mode 0600.
    pub path: PathBuf,
    /// False if no backup was made because the newest one has the same bytes.
    pub created: bool,
}

impl HostsFile {
    /// Copies the file to a new one in a directory. An older backup is never overwritten.
    ///
    /// # Errors
    /// [`Error::NotFound`], and the other errors of reading the file and writing the copy.
    pub fn back_up(&self, rules: &BackupRules) -> Result<Backup, Error> {
        back_up(self.path(), rules)
    }

    /// The backups of this file in a directory, oldest first: those that record its path as their source, and those without a
    /// record.
    ///
    /// # Errors
    /// Those of listing the directory.
    pub fn backups(&self, rules: &BackupRules) -> Result<Vec<PathBuf>, Error> {
        Ok(list(self.path(), rules)?
            .into_iter()
            .map(|(_, path)| path)
            .collect())
    }
}

impl HostsFile {
    /// Whether a copy may be put in this file's place. One without a record of its source may.
    ///
    /// # Errors
    /// [`Error::BackupOfAnother`].
    pub fn check_backup(&self, copy: &Path) -> Result<(), Error> {
        match source_of(copy) {
            Some(source) if source != path_bytes(self.path()) => Err(Error::BackupOfAnother {
                copy: copy.to_owned(),
                original: String::from_utf8_lossy(&source).into_owned(),
                path: self.path().to_owned(),
            }),
            _ => Ok(()),
        }
    }
}

pub(super) fn back_up(hosts: &Path, rules: &BackupRules) -> Result<Backup, Error> {
    let content = std::fs::read(hosts).map_err(|e| read_error(hosts, e))?;
    let there = list(hosts, rules)?;
    if let Some((_, newest)) = there.last() {
        let file = File::open(newest).map_err(|e| read_error(newest, e))?;
        if holds(file, std::iter::once(content.as_slice())).map_err(|e| read_error(newest, e))? {
            return Ok(Backup {
                path: newest.clone(),
                created: false,
            });
        }
    }
    let day = today();
    let mut number = there
        .iter()
        .filter(|((d, _), _)| *d == day)
        .map(|((_, n), _)| n + 1)
        .max()
        .unwrap_or(0);
    loop {
        let path = rules.directory.join(backup_name(hosts, day, number));
        match create(&path) {
            Ok(mut file) => {
                let written = write_record(&record_of(&path), &path_bytes(hosts))
                    .and_then(|()| file.write_all(&content))
                    .and_then(|()| file.sync_all());
                if let Err(e) = written {
                    // Do not leave a partial backup.
                    let _removed = std::fs::remove_file(&path);
                    let _removed = std::fs::remove_file(record_of(&path));
                    return Err(os_error(&path, "write", e));
                }
                rotate(hosts, rules)?;
                return Ok(Backup { path, created: true });
            }
            Err(e) if e.kind() == ErrorKind::AlreadyExists => number += 1,
            Err(e) => return Err(os_error(&path, "write", e)),
        }
    }
}

fn rotate(hosts: &Path, rules: &BackupRules) -> Result<(), Error> {
    let there = list(hosts, rules)?;
    let surplus = there.len().saturating_sub(rules.keep);
    for (_, path) in there.iter().skip(1).take(surplus) {
        std::fs::remove_file(path).map_err(|e| os_error(path, "remove", e))?;
        match std::fs::remove_file(record_of(path)) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(os_error(path, "remove", e)),
            _ => {}
        }
    }
    Ok(())
}

/// Where the source of a backup is recorded.
fn record_of(backup: &Path) -> PathBuf {
    let mut name = backup.as_os_str().to_owned();
    name.push(".source");
    name.into()
}

/// Creates a file that nobody else can read. A link of that name is not followed.
fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn write_record(record: &Path, source: &[u8]) -> io::Result<()> {
    // A stale one, of a backup that is gone.
    match std::fs::remove_file(record) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = create(record)?;
    file.write_all(source)?;
    file.sync_all()
}

fn source_of(backup: &Path) -> Option<Vec<u8>> {
    let record = record_of(backup);
    // Neither a link nor a pipe, which would keep its reader waiting.
    std::fs::symlink_metadata(&record)
        .ok()
        .filter(Metadata::is_file)?;
    let mut source = Vec::new();
    let file = File::open(record).ok()?;
    file.take(MAX_RECORD).read_to_end(&mut source).ok()?;
    Some(source)
}

/// The path by which a hosts file is known, whatever links lead to it.
fn path_bytes(hosts: &Path) -> Vec<u8> {
    // The folder's is known also where the file was deleted.
    let beside = || {
        let whole = std::path::absolute(hosts)?;
        let folder = whole.parent().unwrap_or(&whole).canonicalize()?;
        Ok::<_, std::io::Error>(folder.join(whole.file_name().unwrap_or_default()))
    };
    let real = hosts.canonicalize().or_else(|_| beside());
    let path = real.unwrap_or_else(|_| hosts.to_owned());
    path.into_os_string().into_encoded_bytes()
}

/// YYYYMMDD, and the number of the backup on that day.
type DayAndNumber = (u32, u32);

/// The backups, sorted by day and number.
fn list(hosts: &Path, rules: &BackupRules) -> Result<Vec<(DayAndNumber, PathBuf)>, Error> {
    let failed = |e| read_error(&rules.directory, e);
    let own = path_bytes(hosts);
    // A clock may be a day ahead of another one, and no more.
    let latest = date(days_since_1970() + 1);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&rules.directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if let Some(order) = order_of(hosts, &name.to_string_lossy())
            && order.0 <= latest
        {
            let path = rules.directory.join(name);
            if source_of(&path).is_none_or(|source| source == own) {
                found.push((order, path));
            }
        }
    }
    found.sort();
    Ok(found)
}

fn order_of(hosts: &Path, name: &str) -> Option<DayAndNumber> {
    let rest = name
        .strip_prefix(&*hosts.file_name()?.to_string_lossy())?
        .strip_prefix('.')?;
    let (day, number) = rest.split_once('.').unwrap_or((rest, "0"));
    (day.len() == 8).then_some(())?;
    let (day, number): DayAndNumber = (day.parse().ok()?, number.parse().ok()?);
    // Others may have files of such names there as well.
    let is_date = (1..=12).contains(&(day / 100 % 100)) && (1..=31).contains(&(day % 100));
    is_date.then_some((day, number))
}

fn backup_name(hosts: &Path, day: u32, number: u32) -> std::ffi::OsString {
    let mut name = hosts.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{day:08}"));
    if number > 0 {
        name.push(format!(".{number}"));
    }
    name
}

/// Today's date as YYYYMMDD, in UTC.
fn today() -> u32 {
    date(days_since_1970())
}

fn days_since_1970() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs()) / 86_400
}

/// The date of a number of days since 1970-01-01, for days that fit in 32 bits (from Howard Hinnant's date algorithms).
fn date(days: u64) -> u32 {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 {
        month_shifted + 3
    } else {
        month_shifted - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    u32::try_from(year * 10_000 + month * 100 + day).unwrap_or(99_991_231)
}

/// Longer than any path that a system accepts.
const MAX_RECORD: u64 = 8 * 1024;

#[cfg(test)]
mod tests {
    #[test]
    fn days_become_calendar_dates() {
        for (days, date) in [
            (0, 19_700_101),
            (59, 19_700_301),
            (11_016, 20_000_229),
            (20_778, 20_261_121),
        ] {
            assert_eq!(super::date(days), date);
        }
    }
}
