//! A store in a directory.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::{Part, Store};
use crate::Error;

/// A store in a directory, which is made when the store is first used.
#[derive(Debug)]
pub struct FileStore {
    directory: PathBuf,
    patience: Duration,
    lock: Option<File>,
    /// Open for as long as nobody replaces it, so that a change costs a write and a sync.
    journal: Option<File>,
}

impl FileStore {
    /// How long the lock is waited for. Others hold it for the time of a write, or of a fold.
    pub const PATIENCE: Duration = Duration::from_secs(10);

    /// The store in this directory. Nothing is touched yet.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            patience: Self::PATIENCE,
            lock: None,
            journal: None,
        }
    }

    /// Waits so long for the lock instead of [`FileStore::PATIENCE`].
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn path(&self, part: Part) -> PathBuf {
        self.directory.join(match part {
            Part::Snapshot => "snapshot.json",
            Part::Journal => "journal",
        })
    }

    /// Makes what was renamed in the directory durable.
    fn sync_directory(&self) -> io::Result<()> {
        match File::open(&self.directory) {
            Ok(directory) => directory.sync_all(),
            // Windows opens no directory as a file; there a rename is in the log of the file system already.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn try_read(&mut self, part: Part, from: u64, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let mut file = match File::open(self.path(part)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        if from > 0 {
            file.seek(SeekFrom::Start(from))?;
        }
        let len = file.metadata()?.len().saturating_sub(from).min(limit);
        bytes.reserve_exact(usize::try_from(len).unwrap_or(0));
        file.take(limit).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    fn try_append(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(Part::Journal);
        let journal = match &mut self.journal {
            Some(journal) => journal,
            none => none.insert(
                OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .open(path)?,
            ),
        };
        if journal.metadata()?.len() != at {
            journal.set_len(at)?;
        }
        journal.seek(SeekFrom::Start(at))?;
        journal.write_all(bytes)?;
        journal.sync_data()
    }

    fn try_replace(&mut self, part: Part, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(part);
        let beside = path.with_extension("new");
        let mut file = File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        drop(file);
        fs::rename(&beside, &path)?;
        self.sync_directory()
    }

    fn try_set_aside(&mut self, part: Part) -> io::Result<Option<String>> {
        let path = self.path(part);
        if !path.try_exists()? {
            return Ok(None);
        }
        for number in 1_u32.. {
            let mut aside = path.clone().into_os_string();
            aside.push(format!(".damaged-{number}"));
            let aside = PathBuf::from(aside);
            if !aside.try_exists()? {
                fs::rename(&path, &aside)?;
                self.sync_directory()?;
                return Ok(Some(aside.display().to_string()));
            }
        }
        Ok(None)
    }

    fn io(&self, verb: &'static str, part: Part) -> impl FnOnce(io::Error) -> Error {
        let file = self.name(part);
        move |source| Error::Io { verb, file, source }
    }
}

impl Store for FileStore {
    fn lock(&mut self) -> Result<(), Error> {
        let path = self.directory.join("lock");
        let name = path.display().to_string();
        let failed = |source| Error::Io {
            verb: "lock",
            file: name.clone(),
            source,
        };
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .or_else(|error| {
                if error.kind() != io::ErrorKind::NotFound {
                    return Err(error);
                }
                fs::create_dir_all(&self.directory)?;
                OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .open(&path)
            });
        let file = file.map_err(failed)?;
        let started = Instant::now();
        let mut pause = Duration::from_micros(50);
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(error)) => return Err(failed(error)),
                Err(TryLockError::WouldBlock) if started.elapsed() >= self.patience => {
                    return Err(Error::Locked {
                        file: name,
                        waited: started.elapsed(),
                    });
                }
                Err(TryLockError::WouldBlock) => thread::sleep(pause),
            }
            pause = (pause * 2).min(Duration::from_millis(10));
        }
        self.lock = Some(file);
        Ok(())
    }

    fn unlock(&mut self) {
        // Closing the file gives the lock back. The journal may be another file by the next time.
        self.lock = None;
        self.journal = None;
    }

    fn read(&mut self, part: Part, from: u64, limit: u64) -> Result<Option<Vec<u8>>, Error> {
        self.try_read(part, from, limit).map_err(self.io("read", part))
    }

    fn append(&mut self, at: u64, bytes: &[u8]) -> Result<(), Error> {
        self.try_append(at, bytes)
            .map_err(self.io("append to", Part::Journal))
    }

    fn replace(&mut self, part: Part, bytes: &[u8]) -> Result<(), Error> {
        if part == Part::Journal {
            self.journal = None;
        }
        self.try_replace(part, bytes).map_err(self.io("write", part))
    }

    fn set_aside(&mut self, part: Part) -> Result<Option<String>, Error> {
        self.journal = None;
        self.try_set_aside(part).map_err(self.io("move aside", part))
    }

    fn name(&self, part: Part) -> String {
        self.path(part).display().to_string()
    }
}
