//! Reads a hosts file and replaces its content so that no reader ever sees a partial file.

pub(crate) mod backup;
mod fail;
pub(crate) mod flush;
mod in_place;
mod journal;
mod lock;
mod options;
mod replace;
mod target;

cfg_if::cfg_if! {
    if #[cfg(unix)] {
        mod unix;
        use unix as sys;
    } else if #[cfg(windows)] {
        #[expect(unsafe_code, reason = "ReplaceFileW and the registry have no safe wrapper in std")]
        mod windows;
        use windows as sys;
    }
}

#[cfg(all(test, unix))]
mod append_tests;
#[cfg(all(test, unix))]
mod crash_tests;

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub use options::FileOptions;
pub(crate) use sys::{PLATFORM_LINE_ENDING, PLATFORM_RESOLVER};

use crate::diff::Diff;
use crate::document::Document;
use crate::edit::Edit;
use crate::error::Error;
use crate::lint::Diagnostic;
use crate::name::{Owner, Tag};
use crate::plan::{Conflict, Plan, plan_bytes};
use lock::Lock;
use replace::{Appended, Attempt, Replaced};
use target::Target;

/// The path of this system's hosts file: `/etc/hosts`; on Windows, `hosts` in the directory given by the registry's
/// `DataBasePath`, or else in `%SystemRoot%\System32\drivers\etc`.
#[must_use]
pub fn system_path() -> PathBuf {
    sys::system_path()
}

/// A hosts file on disk.
///
/// A change takes these steps: read, plan, lock, write a file beside it with the same owner, mode and extended attributes
/// (including ACLs and the SELinux label), fsync, compare the hosts file with what was read, rename over it, fsync the directory.
/// Whatever fails or dies on the way, the file has either its old or its new content.
///
/// If a rename is not possible (`EBUSY`: a file that is bind-mounted, as in containers) or no file can be created beside it
/// (`EROFS`, `EACCES`, `EPERM`), the file is written in place: it is never truncated first, space is reserved before, and the result
/// is read back. Symbolic links are followed and stay links. If nothing changes, nothing is written.
///
/// ```
/// use hostsfile::{Block, Edit, Entry, HostsFile, Method, Tag};
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("hosts");
/// # std::fs::write(&path, "127.0.0.1 localhost\n")?;
/// let hosts = HostsFile::open(&path)?; // or HostsFile::system()?
/// let block = Block::new(Tag::new("devbox")?).with_entries([Entry::new("127.77.0.1".parse()?, ["orders"])?]);
///
/// let outcome = hosts.edit(&[Edit::SetBlock(block.clone())])?;
/// assert!(outcome.changed);
/// assert_eq!(hosts.edit(&[Edit::SetBlock(block)])?.method, Method::Unchanged);
///
/// hosts.edit(&[Edit::RemoveBlock(Tag::new("devbox")?)])?;
/// assert_eq!(hosts.read()?.render(), b"127.0.0.1 localhost\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct HostsFile {
    path: PathBuf,
    options: FileOptions,
    backed_up: AtomicBool,
}

impl HostsFile {
    /// Opens the system's hosts file with default options.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotAFile`], [`Error::SymlinkLoop`].
    pub fn system() -> Result<Self, Error> {
        FileOptions::new().system()
    }

    /// Opens any hosts file with default options.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotAFile`], [`Error::SymlinkLoop`].
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        FileOptions::new().open(path)
    }

    pub(crate) fn with_options(path: PathBuf, options: FileOptions) -> Result<Self, Error> {
        let file = HostsFile {
            path,
            options,
            backed_up: AtomicBool::new(false),
        };
        file.target()?;
        Ok(file)
    }

    /// The path as it was given.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file's content.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::PermissionDenied`], [`Error::Io`] and those of opening the file.
    pub fn read(&self) -> Result<Document, Error> {
        Ok(Document::parse(self.target()?.read()?))
    }

    /// Plans edits of the file's current content without writing anything: a dry run.
    ///
    /// # Errors
    /// Those of [`read`](Self::read) and of [`plan`](crate::plan).
    pub fn plan(&self, edits: &[Edit]) -> Result<Plan<'static>, Error> {
        plan_bytes(Cow::Owned(self.target()?.read()?), edits, &self.options.plan)
    }

    /// Applies edits to the file's current content, as one write.
    ///
    /// # Errors
    /// Those of [`plan`](crate::plan); [`Error::Locked`] if another program holds the lock during all retries;
    /// [`Error::Changed`] if the file keeps changing; and the variants that say why a file cannot be written. In all these cases the
    /// file is unchanged.
    pub fn edit(&self, edits: &[Edit]) -> Result<Outcome, Error> {
        self.change(|bytes| plan_bytes(Cow::Owned(bytes), edits, &self.options.plan))
    }

    /// Like [`edit`](Self::edit), with edits that depend on the content. The function is called again if the file changes
    /// meanwhile, so its decisions always match the content that its edits are applied to.
    ///
    /// # Errors
    /// Those of the function, and those of [`edit`](Self::edit).
    pub fn edit_with<E: From<Error>>(
        &self,
        mut edits: impl FnMut(&Document) -> Result<Vec<Edit>, E>,
    ) -> Result<Outcome, E> {
        self.change(|bytes| {
            let document = Document::parse(bytes);
            let edits = edits(&document)?;
            Ok(plan_bytes(
                Cow::Owned(document.into_bytes()),
                &edits,
                &self.options.plan,
            )?)
        })
    }

    /// Writes a plan if the file still has the content that the plan was made from.
    ///
    /// # Errors
    /// [`Error::Changed`] if it does not; otherwise those of [`edit`](Self::edit).
    pub fn apply(&self, plan: &Plan<'_>) -> Result<Outcome, Error> {
        let (_, outcome) = self.change_to(|bytes| {
            if bytes == plan.old_bytes() {
                Ok(plan.borrowed())
            } else {
                Err(Error::Changed {
                    path: self.path.clone(),
                    attempts: 1,
                })
            }
        })?;
        Ok(outcome)
    }

    /// Removes the blocks whose owner is not alive according to `alive`. Blocks without an owner stay. Of a damaged block the
    /// markers and the [sealed](crate::Block::sealed) lines go, and it stays if it has none.
    /// Also removes what a killed write may have left beside the file.
    ///
    /// # Errors
    /// Those of [`edit`](Self::edit).
    pub fn sweep(&self, alive: impl Fn(&Owner) -> bool) -> Result<Swept, Error> {
        self.recover()?;
        let mut removed = Vec::new();
        let outcome = self.edit_with::<Error>(|document| {
            removed = document.abandoned(&alive);
            let edits = removed
                .iter()
                .flat_map(|(tag, _)| [Edit::RepairBlock(tag.clone()), Edit::RemoveBlock(tag.clone())]);
            Ok(edits.collect())
        })?;
        Ok(Swept { removed, outcome })
    }

    /// Takes the lock that every change takes, to do several things as one or to keep others out. While it is held, every change
    /// through this crate returns [`Error::Locked`], even by the holder. Dropping it releases it.
    ///
    /// # Errors
    /// [`Error::Locked`], and those of creating the lock file.
    pub fn lock(&self) -> Result<HeldLock, Error> {
        Ok(HeldLock {
            _lock: Lock::take(&self.target()?, &self.options)?,
        })
    }

    /// The path of the lock file, which exists only while someone holds the lock. If no file can be created beside a hosts file,
    /// the hosts file itself is locked.
    ///
    /// # Errors
    /// Those of opening the file.
    pub fn lock_path(&self) -> Result<PathBuf, Error> {
        Ok(Lock::path(&self.target()?, &self.options))
    }

    /// Replaces the content with that of another file, normally a backup.
    ///
    /// # Errors
    /// Those of [`edit`](Self::edit), those of reading the other file, and [`Error::BackupOfAnother`].
    pub fn restore(&self, from: &Path) -> Result<Outcome, Error> {
        self.check_backup(from)?;
        let content = std::fs::read(from).map_err(|source| target::read_error(from, source))?;
        self.replace(&content)
    }

    /// Replaces the whole content with these bytes.
    ///
    /// # Errors
    /// Those of [`edit`](Self::edit).
    pub fn replace(&self, content: &[u8]) -> Result<Outcome, Error> {
        self.change(|bytes| Ok(Plan::replace_all(Cow::Owned(bytes), content.to_vec())))
    }

    fn target(&self) -> Result<Target, Error> {
        Target::resolve(&self.path, self.options.create_missing)
    }

    /// Finishes or removes what a killed write left behind.
    fn recover(&self) -> Result<(), Error> {
        let target = self.target()?;
        if !journal::has_leftovers(&target, &self.options) {
            return Ok(());
        }
        match Lock::take(&target, &self.options) {
            Ok(lock) => journal::recover(&target, &lock),
            // Its holder does this before it writes.
            Err(Error::Locked { .. }) => Ok(()),
            Err(e) => Err(e),
        }
    }

    fn change<E: From<Error>>(
        &self,
        make: impl FnMut(Vec<u8>) -> Result<Plan<'static>, E>,
    ) -> Result<Outcome, E> {
        let (plan, mut outcome) = self.change_to(make)?;
        outcome.plan = Some(plan);
        Ok(outcome)
    }

    /// Every change goes through here. The first plan is made before taking the lock: if nothing changes, no lock is needed, and
    /// otherwise the comparison before the rename detects a stale plan.
    fn change_to<'p, E: From<Error>>(
        &self,
        mut make: impl FnMut(Vec<u8>) -> Result<Plan<'p>, E>,
    ) -> Result<(Plan<'p>, Outcome), E> {
        let target = self.target()?;
        // Planning may fail because the file is being written in place; it is tried again under the lock.
        let (bytes, stamp) = target.read_stamped()?;
        let mut planned = make(bytes).ok();
        if let Some(plan) = planned.take_if(|plan| !plan.changed() && target.exists()) {
            return Ok((plan, Outcome::new(self.path.clone(), Method::Unchanged)));
        }
        let lock = Lock::take(&target, &self.options)?;
        journal::recover(&target, &lock)?;
        // The previous holder of the lock has probably changed the file.
        planned = planned.filter(|_| target.stamp() == stamp);
        let mut verified = true;
        for _ in 0..ATTEMPTS {
            let target = self.target()?;
            let plan = match planned.take() {
                Some(plan) => plan,
                None => make(target.read()?)?,
            };
            if !plan.changed() && target.exists() {
                return Ok((plan, Outcome::new(self.path.clone(), Method::Unchanged)));
            }
            self.back_up_once()?;
            match replace::replace(&target, &plan, &lock, &self.options)? {
                Attempt::Written(method, replaced) => {
                    if let Some(file) = replaced {
                        let replaced = Replaced::new(file, Cow::Borrowed(plan.old_bytes()));
                        self.take_over_appended(replaced, &lock)?;
                    }
                    return Ok((plan, Outcome::new(self.path.clone(), method)));
                }
                Attempt::Stale => {}
                Attempt::NotVerified => verified = false,
            }
        }
        if !verified {
            return Err(Error::NotVerified {
                path: self.path.clone(),
            }
            .into());
        }
        Err(Error::Changed {
            path: self.path.clone(),
            attempts: ATTEMPTS,
        }
        .into())
    }

    /// Appends to the new file what programs without a lock of ours appended to the old one between our last look at it and
    /// the rename.
    fn take_over_appended(&self, replaced: Replaced<'_>, lock: &Lock) -> Result<(), Error> {
        let mut olds = vec![replaced];
        let mut appended = Appended::default();
        let patience = Instant::now() + APPENDERS_TIME;
        let mut attempts = 1;
        loop {
            // Asked first: what a writer writes before it closes the file is read below.
            let is_open = olds.iter().any(Replaced::has_writer);
            for old in &mut olds {
                if let Some(more) = old.appended().map_err(|e| target::read_error(&self.path, e))? {
                    appended.add(more);
                }
            }
            if appended.text.is_empty() {
                if is_open && Instant::now() < patience {
                    std::thread::sleep(Duration::from_micros(100));
                    continue;
                }
                break;
            }
            attempts += 1;
            if attempts > ATTEMPTS {
                return Err(Error::Changed {
                    path: self.path.clone(),
                    attempts,
                });
            }
            let target = self.target()?;
            let bytes = target.read()?;
            let merged = [&bytes, appended.separator(&bytes), &appended.text].concat();
            let plan = Plan::replace_all(Cow::Owned(bytes), merged);
            // Otherwise the file has changed again, and the text is written with the next attempt.
            if let Attempt::Written(_, replaced) = replace::replace(&target, &plan, lock, &self.options)? {
                let content = || Cow::Owned(plan.old_bytes().to_vec());
                olds.extend(replaced.map(|file| Replaced::new(file, content())));
                appended = Appended::default();
            }
        }
        Ok(())
    }

    fn back_up_once(&self) -> Result<(), Error> {
        if let Some(rules) = &self.options.backup
            && self.target()?.exists()
            && !self.backed_up.swap(true, Ordering::Relaxed)
        {
            backup::back_up(&self.path, rules)?;
        }
        Ok(())
    }
}

/// The lock of a hosts file, held until it is dropped.
pub struct HeldLock {
    _lock: Lock,
}

impl std::fmt::Debug for HeldLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HeldLock")
    }
}

/// The result of a change.
#[derive(Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// The file's path, as it was opened.
    pub path: PathBuf,
    /// Whether its bytes changed.
    pub changed: bool,
    /// How the bytes were written.
    pub method: Method,
    plan: Option<Plan<'static>>,
}

impl Outcome {
    fn new(path: PathBuf, method: Method) -> Self {
        Outcome {
            path,
            changed: method != Method::Unchanged,
            method,
            plan: None,
        }
    }

    /// Diagnostics for the file as written; see [`Plan::diagnostics`]. Computed by the first call; empty after
    /// [`HostsFile::apply`], whose caller has the plan.
    #[must_use]
    pub fn diagnostics(&self) -> &[Diagnostic] {
        self.plan.as_ref().map_or(&[], |p| p.diagnostics())
    }

    /// The names of the edited blocks that the user also has; see [`Plan::conflicts`]. Computed by the first call; empty after
    /// [`HostsFile::apply`], whose caller has the plan.
    #[must_use]
    pub fn conflicts(&self) -> &[Conflict] {
        self.plan.as_ref().map_or(&[], |p| p.conflicts())
    }

    /// The change; `None` after [`HostsFile::apply`], whose caller has the plan.
    #[must_use]
    pub fn diff(&self) -> Option<Diff> {
        self.plan.as_ref().map(Plan::diff)
    }
}

/// How a file was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Method {
    /// There was nothing to change, and nothing was written.
    Unchanged,
    /// A new file was renamed over the old one; readers saw either the old or the new one.
    Renamed,
    /// The file was written in place, because it could not be replaced or the caller asked for it.
    InPlace,
}

/// The result of a sweep.
#[derive(Debug)]
#[non_exhaustive]
pub struct Swept {
    /// The removed blocks, with their owners.
    pub removed: Vec<(Tag, Owner)>,
    /// How the file was written.
    pub outcome: Outcome,
}

/// How long a program that had the file open when it was replaced may take to append to it.
const APPENDERS_TIME: Duration = Duration::from_millis(50);

/// How often a change is planned anew because others changed the file, before giving up.
const ATTEMPTS: u32 = 8;
