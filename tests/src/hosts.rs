//! Reads hosts files without using any of devbox's code.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, bail};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

/// The initial content of every test's hosts file: tabs and blanks, a comment in Latin-1, unsorted aliases, empty lines, and no
/// final line end.
pub const ORIGINAL: &[u8] =
    b"127.0.0.1\tlocalhost\n::1             localhost ip6-localhost\n\n# caf\xe9, kept by hand   \n\
    10.9.8.7 printer.lan   a-printer\t# second floor\n\n10.9.8.8 last.lan";

/// The address that `file` gives `name`, if any: the first line counts, as for the system's resolver.
pub fn lookup(file: &Path, name: &str) -> Option<IpAddr> {
    lookup_all(file, name).first().copied()
}

/// The addresses that `file` gives `name`, in its order, each as often as it is there.
pub fn lookup_all(file: &Path, name: &str) -> Vec<IpAddr> {
    let bytes = std::fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let found = text.lines().filter_map(|line| {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_ascii_whitespace();
        let address = words.next()?.parse().ok()?;
        words
            .any(|word| word.eq_ignore_ascii_case(name))
            .then_some(address)
    });
    found.collect()
}

/// The address that `file` gives `name`.
///
/// # Errors
/// If it gives none.
pub fn address_of(file: &Path, name: &str) -> crate::Result<IpAddr> {
    lookup(file, name).with_context(|| format!("{name} is not in {}:\n{}", file.display(), shown(file)))
}

/// Whether `file` contains exactly [`ORIGINAL`].
pub fn is_original(file: &Path) -> bool {
    std::fs::read(file).is_ok_and(|bytes| bytes == ORIGINAL)
}

/// Checks that `file` contains exactly [`ORIGINAL`], byte for byte.
///
/// # Errors
/// If it does not; the error shows what it contains.
pub fn expect_original(file: &Path) -> crate::Result {
    if !is_original(file) {
        bail!("{} is not as before:\n{}", file.display(), shown(file));
    }
    Ok(())
}

/// The lines of `file` that begin one of devbox's blocks.
pub fn block_openings(file: &Path) -> Vec<String> {
    let bytes = std::fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    text.lines()
        .filter(|line| line.starts_with("# BEGIN devbox-"))
        .map(str::to_owned)
        .collect()
}

fn shown(file: &Path) -> String {
    match std::fs::read(file) {
        Ok(bytes) => bytes.escape_ascii().to_string().replace("\\n", "\n"),
        Err(error) => error.to_string(),
    }
}

/// Counts how often a file is changed: written to and closed, or replaced by a rename.
#[derive(Debug)]
pub struct Watch {
    inotify: OwnedFd,
    name: OsString,
}

impl Watch {
    /// Watches `file` from here on.
    ///
    /// # Errors
    /// Those of inotify(7).
    pub fn start(file: &Path) -> crate::Result<Watch> {
        let folder = file.parent().context("no folder")?;
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        inotify::add_watch(
            &inotify,
            folder,
            WatchFlags::CLOSE_WRITE | WatchFlags::CREATE | WatchFlags::MOVED_TO,
        )?;
        Ok(Watch {
            inotify,
            name: file.file_name().context("no name")?.to_owned(),
        })
    }

    /// How often it was changed since the start or the last call.
    ///
    /// # Errors
    /// Those of inotify(7).
    pub fn changes(&self) -> crate::Result<usize> {
        let (mut changes, mut moved) = (0, false);
        for (flags, _) in self.events()?.iter().filter(|(_, name)| *name == self.name) {
            if flags.contains(ReadFlags::MOVED_TO) {
                (changes, moved) = (changes + 1, true);
            } else if flags.contains(ReadFlags::CLOSE_WRITE) {
                // Whoever moved the file there closes it afterwards, when it has this name: that is no second change.
                changes += usize::from(!std::mem::take(&mut moved));
            }
        }
        Ok(changes)
    }

    /// The names of the files that were created beside it since the start or the last call.
    ///
    /// # Errors
    /// Those of inotify(7).
    pub fn made_beside(&self) -> crate::Result<BTreeSet<OsString>> {
        let events = self
            .events()?
            .into_iter()
            .filter(|(flags, _)| flags.contains(ReadFlags::CREATE));
        Ok(events
            .map(|(_, name)| name)
            .filter(|name| *name != self.name)
            .collect())
    }

    fn events(&self) -> crate::Result<Vec<(ReadFlags, OsString)>> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut events = Vec::new();
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event
                        .file_name()
                        .map(|name| OsStr::from_bytes(name.to_bytes()).to_owned());
                    events.push((event.events(), name.unwrap_or_default()));
                }
                Err(Errno::AGAIN) => return Ok(events),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
