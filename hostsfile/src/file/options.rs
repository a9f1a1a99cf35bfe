//! Options for opening a hosts file.

use std::path::PathBuf;
use std::time::Duration;

use super::HostsFile;
use super::backup::BackupRules;
use crate::edit::Options;
use crate::error::Error;

/// Options for opening a [`HostsFile`].
/// ```no_run
/// use hostsfile::FileOptions;
/// let hosts = FileOptions::new().in_place(true).open("/etc/hosts")?;
/// # Ok::<(), hostsfile::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct FileOptions {
    pub(crate) plan: Options,
    pub(crate) in_place: bool,
    pub(crate) create_missing: bool,
    pub(crate) override_read_only: bool,
    pub(crate) first_lock_wait: Duration,
    pub(crate) lock_directory: Option<PathBuf>,
    pub(crate) backup: Option<BackupRules>,
}

impl FileOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        FileOptions {
            plan: Options::default(),
            in_place: false,
            create_missing: false,
            override_read_only: false,
            first_lock_wait: Duration::from_millis(250),
            lock_directory: None,
            backup: None,
        }
    }

    /// Sets how edits are planned.
    #[must_use]
    pub fn plan_options(mut self, options: Options) -> Self {
        self.plan = options;
        self
    }

    /// Writes the file in place and never replaces it, for a file that is bind-mounted and must keep its inode. A reader may then
    /// see part of a change. Default: false.
    #[must_use]
    pub fn in_place(mut self, in_place: bool) -> Self {
        self.in_place = in_place;
        self
    }

    /// Treats a missing file as empty and creates it (mode 0644) at the first change. Default: false.
    #[must_use]
    pub fn create_missing(mut self, create: bool) -> Self {
        self.create_missing = create;
        self
    }

    /// Changes a file even if it is marked read-only (no write bit in its mode, or Windows' attribute), and keeps the mark.
    /// Default: false, which returns [`Error::ReadOnlyFile`].
    #[must_use]
    pub fn override_read_only(mut self, override_it: bool) -> Self {
        self.override_read_only = override_it;
        self
    }

    /// Sets how long the first attempt waits for the lock. Each of three retries waits twice as long as the one before, so
    /// [`Error::Locked`] is returned after fifteen times this duration. Default: 250 ms (3.75 s in total).
    #[must_use]
    pub fn first_lock_wait(mut self, wait: Duration) -> Self {
        self.first_lock_wait = wait;
        self
    }

    /// Sets the directory for the lock file. It is created with mode 0700 and removed again when it is empty; only its owner may
    /// have access to it. Default: when root edits the system's file, `/run/hostsfile` (`/var/run/hostsfile` on systems other than
    /// Linux); otherwise the directory of the hosts file itself. All programs that edit the same file must agree on it.
    #[must_use]
    pub fn lock_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.lock_directory = Some(directory.into());
        self
    }

    /// Makes a backup before the first change through this [`HostsFile`]. Default: no backup.
    #[must_use]
    pub fn backup(mut self, rules: BackupRules) -> Self {
        self.backup = Some(rules);
        self
    }

    /// Opens a hosts file.
    ///
    /// # Errors
    /// [`Error::NotFound`] unless a missing file is to be created, [`Error::NotAFile`], [`Error::SymlinkLoop`].
    pub fn open(self, path: impl Into<PathBuf>) -> Result<HostsFile, Error> {
        HostsFile::with_options(path.into(), self)
    }

    /// Opens the system's hosts file.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn system(self) -> Result<HostsFile, Error> {
        self.open(super::system_path())
    }
}

impl Default for FileOptions {
    fn default() -> Self {
        FileOptions::new()
    }
}
