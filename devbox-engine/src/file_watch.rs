//! Watches the hosts file for what other programs do to it. Any user may; nothing here changes the file.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use memchr::memmem;
use notify::event::{AccessKind, AccessMode, Event, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

/// A file that changed is looked at once it stays as it is for so long: a program that empties it and fills it again must not be
/// interrupted.
const QUIET: Duration = Duration::from_millis(200);
/// It is looked at after this time even if it changes all the while.
const PATIENCE: Duration = Duration::from_millis(600);
/// How often the file is looked at where the system does not tell of changes.
const POLL: Duration = Duration::from_secs(1);

/// A file that others may rewrite.
#[derive(Debug)]
pub(crate) struct FileWatch {
    file: PathBuf,
    /// The file as the session wrote it last; `None` where that is not known.
    known: Mutex<Option<Stamp>>,
    /// One disturbance waits; a further one is the same to whoever asks.
    disturbed: Notify,
}

/// What changes when a file is written or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
}

impl FileWatch {
    pub(crate) fn new(file: PathBuf) -> Self {
        Self {
            file,
            known: Mutex::new(None),
            disturbed: Notify::new(),
        }
    }

    /// Waits until somebody else may have changed the file.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn disturbed(&self) {
        self.disturbed.notified().await;
    }

    /// The session has just seen to the file; it holds this text then, unless another program was faster.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn remember(&self, text: Option<&str>) {
        // In this order, a write in between is noticed either way.
        let stamp = self.stamp().await;
        let is_there = match text {
            Some(text) => tokio::fs::read(&self.file)
                .await
                .is_ok_and(|bytes| memmem::find(&bytes, text.as_bytes()).is_some()),
            None => true,
        };
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = stamp.filter(|_| is_there);
    }

    /// Watches until it is dropped.
    pub(crate) async fn run(self: Arc<Self>) {
        // One notification waits: that something happened is all there is to know.
        let happened = Arc::new(Notify::new());
        let mut lookout = Lookout::default();
        let mut told = false;
        loop {
            let armed = lookout.arm(&self.file, &happened);
            let stamp = self.settled().await;
            if stamp != *self.known.lock().unwrap_or_else(PoisonError::into_inner) {
                self.disturbed.notify_one();
            }
            match armed {
                Ok(()) => happened.notified().await,
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::debug!(file = %self.file.display(), %error, "not watched, but looked at every second");
                    }
                    sleep(POLL).await;
                }
            }
        }
    }

    /// The file once it stays as it is.
    async fn settled(&self) -> Option<Stamp> {
        let deadline = Instant::now() + PATIENCE;
        let mut before = self.stamp().await;
        loop {
            sleep(QUIET).await;
            let stamp = self.stamp().await;
            if stamp == before || Instant::now() >= deadline {
                return stamp;
            }
            before = stamp;
        }
    }

    async fn stamp(&self) -> Option<Stamp> {
        let found = tokio::fs::metadata(&self.file).await.ok()?;
        Some(Stamp {
            modified: found.modified().ok(),
            bytes: found.len(),
        })
    }
}

/// The system's notifications about one file.
#[derive(Default)]
struct Lookout {
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
}

impl Lookout {
    /// Watches the folders of the file and of what it links to, since a file is replaced by a rename, and the file itself, since
    /// one that is mounted there belongs to another folder.
    fn arm(&mut self, file: &Path, happened: &Arc<Notify>) -> notify::Result<()> {
        let watcher = match &mut self.watcher {
            Some(watcher) => watcher,
            none => none.insert(watcher(Arc::clone(happened))?),
        };
        let target = file.canonicalize().unwrap_or_else(|_| file.to_owned());
        let folders = [file.parent(), target.parent()].into_iter().flatten();
        let folders: BTreeSet<PathBuf> = folders.map(Path::to_owned).collect();
        // The file as well: another one may have its path since.
        for left in self.watched.extract_if(.., |path| !folders.contains(path)) {
            // It may be gone, and its watch with it.
            watcher.unwatch(&left).ok();
        }
        for folder in folders {
            if !self.watched.contains(&folder) {
                watcher.watch(&folder, RecursiveMode::NonRecursive)?;
                self.watched.insert(folder);
            }
        }
        // If it cannot be watched, it may not be there at the moment; the folders tell when it is.
        if watcher.watch(&target, RecursiveMode::NonRecursive).is_ok() {
            self.watched.insert(target);
        }
        Ok(())
    }
}

fn watcher(happened: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    // An error may stand for events that were lost.
    notify::recommended_watcher(move |event: notify::Result<Event>| {
        if event.map_or(true, |event| may_change(event.kind)) {
            happened.notify_one();
        }
    })
}

/// Programs that read a file are none of our business, and there are many.
fn may_change(kind: EventKind) -> bool {
    !matches!(kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    /// A watch of a file that the session knows, and the task that watches.
    async fn watching(file: &Path) -> (Arc<FileWatch>, tokio::task::JoinSet<()>) {
        let watch = Arc::new(FileWatch::new(file.to_owned()));
        watch.remember(None).await;
        let mut task = tokio::task::JoinSet::new();
        task.spawn(Arc::clone(&watch).run());
        (watch, task)
    }

    async fn expect_disturbed(watch: &FileWatch, what: &str) {
        let told = tokio::time::timeout(SOON, watch.disturbed()).await;
        assert!(told.is_ok(), "not noticed: {what}");
        watch.remember(None).await;
    }

    #[tokio::test]
    async fn every_way_to_rewrite_a_file_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("hosts");
        fs::write(&file, "1").unwrap();
        let (watch, _task) = watching(&file).await;
        // Each several times: a watch must outlive the file that it was set on.
        for round in 0..3 {
            fs::write(&file, format!("in place {round}")).unwrap();
            expect_disturbed(&watch, "written in place").await;
            let new = folder.path().join("new");
            fs::write(&new, format!("renamed {round}")).unwrap();
            fs::rename(&new, &file).unwrap();
            expect_disturbed(&watch, "replaced").await;
            fs::remove_file(&file).unwrap();
            expect_disturbed(&watch, "removed").await;
            fs::write(&file, format!("made again {round}")).unwrap();
            expect_disturbed(&watch, "made again").await;
        }
    }

    #[tokio::test]
    async fn what_the_session_wrote_itself_is_no_disturbance_unless_another_program_was_faster() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("hosts");
        fs::write(&file, "1").unwrap();
        let (watch, _task) = watching(&file).await;
        fs::write(&file, "# BEGIN ours").unwrap();
        watch.remember(Some("# BEGIN ours")).await;
        let told = tokio::time::timeout(3 * PATIENCE, watch.disturbed()).await;
        assert!(told.is_err(), "its own write disturbs it");
        fs::write(&file, "# BEGIN ours, again").unwrap();
        fs::write(&file, "theirs").unwrap();
        watch.remember(Some("# BEGIN ours")).await;
        expect_disturbed(&watch, "a write that was faster").await;
    }

    #[tokio::test]
    async fn without_notifications_it_is_looked_at_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        // A folder that is not there yet cannot be watched.
        let file = folder.path().join("later").join("hosts");
        let (watch, _task) = watching(&file).await;
        fs::create_dir(folder.path().join("later")).unwrap();
        fs::write(&file, "1").unwrap();
        expect_disturbed(&watch, "a file in a new folder").await;
    }
}
