//! Where a session's addresses come from, and who remembers them: the pool, the team's lock file, this user's store.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use devbox_session::{Forget, LeaseChange, LeaseKeeper};
use ipalloc::store::{FileStore, Persistent};
use ipalloc::{Allocator, Error, Key, LockFile, Pool, Timestamp};
use ipnet::IpNet;
use tokio::sync::oneshot;

use crate::notice::{Notice, Notices};

/// A store on a disk that does not answer is given up: addresses follow from the names all the same.
const OPENING: Duration = Duration::from_secs(3);
/// After this pause a write that failed is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How long the end of a session waits for the last leases to be written.
const CLOSING: Duration = Duration::from_secs(2);

/// The addresses to begin with, and who keeps what becomes of them.
pub(crate) struct Addresses {
    pub(crate) allocator: Allocator,
    pub(crate) keeper: Box<dyn LeaseKeeper>,
    pub(crate) writing: Option<Writing>,
}

impl Addresses {
    /// Opens the store in `state`, if one is given. Where that fails, addresses are kept in memory, with a notice.
    pub(crate) async fn open(
        pools: &[IpNet],
        lock_file: Option<&Path>,
        state: Option<&Path>,
        notices: &Notices,
    ) -> Result<Self, Error> {
        let pool = Pool::new(pools.iter().copied())?;
        let lock = match lock_file {
            Some(path) => LockFile::read(path)?,
            None => LockFile::new(),
        };
        let store = match state {
            None => None,
            Some(state) => match open(state, &pool).await {
                Ok(store) => Some(store),
                Err(reason) => {
                    notices.add(Notice::AddressesInMemory { reason });
                    None
                }
            },
        };
        let mut allocator = match &store {
            Some(store) => store.allocator().clone(),
            None => Allocator::new(pool),
        };
        allocator.set_lock(&lock)?;
        let (keeper, writing): (Box<dyn LeaseKeeper>, _) = match store {
            Some(store) => {
                let (keeper, writing) = start(store, notices);
                (Box::new(keeper), Some(writing))
            }
            None => (Box::new(Forget), None),
        };
        Ok(Self {
            allocator,
            keeper,
            writing,
        })
    }
}

/// The leases of this pool. Each pool has a store of its own below `state`, so that going to another pool and back loses
/// nothing.
///
/// # Errors
/// [`Error`](ipalloc::Error): the folder cannot be made, or what is in it is none.
pub fn lease_store(state: &Path, pool: Pool) -> Result<Persistent<FileStore>, Error> {
    // `127.77.0.0_16`, `10.0.0.0_24+10.0.2.0_24`, `fd77--_64`: names that a folder may have on every system. A store also
    // knows its pool, so a name that is cut short does not lead to a wrong one.
    let prefixes: Vec<String> = pool.prefixes().iter().map(ToString::to_string).collect();
    let name = prefixes.join("+").replace('/', "_").replace(':', "-");
    let folder = state.join("ip").join(name.chars().take(200).collect::<String>());
    Persistent::open(FileStore::new(folder), pool)
}

async fn open(state: &Path, pool: &Pool) -> Result<Persistent<FileStore>, String> {
    let (state, pool) = (state.to_owned(), pool.clone());
    let opening = tokio::task::spawn_blocking(move || lease_store(&state, pool));
    match tokio::time::timeout(OPENING, opening).await {
        Ok(Ok(opened)) => opened.map_err(|error| devbox_provider::with_causes(&error)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("the store did not open within {} s", OPENING.as_secs())),
    }
}

/// What is to be written, by key: no more of it than there are services, however long the disk takes.
#[derive(Debug, Default)]
struct Waiting {
    changes: BTreeMap<Key, Change>,
    ended: bool,
}

#[derive(Debug, Default)]
struct Change {
    release: bool,
    lease: Option<IpAddr>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    more: Condvar,
}

impl Queue {
    fn add(&self, changes: Vec<LeaseChange>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            match change {
                LeaseChange::Leased { key, address } => {
                    waiting.changes.entry(key).or_default().lease = Some(address);
                }
                LeaseChange::Released { key } => {
                    let change = waiting.changes.entry(key).or_default();
                    *change = Change {
                        release: true,
                        lease: None,
                    };
                }
            }
        }
        drop(waiting);
        self.more.notify_one();
    }

    fn end(&self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        self.more.notify_one();
    }

    /// What could not be written is tried again after a pause, or a last time when the session ends. What was said since is
    /// newer.
    fn put_back(&self, changes: BTreeMap<Key, Change>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.ended {
            return;
        }
        for (key, older) in changes {
            match waiting.changes.entry(key) {
                Entry::Vacant(entry) => {
                    entry.insert(older);
                }
                Entry::Occupied(mut newer) => newer.get_mut().release |= older.release,
            }
        }
        let idle = |waiting: &mut Waiting| !waiting.ended;
        drop(self.more.wait_timeout_while(waiting, RETRY, idle));
    }

    /// Blocks until there is something to write; `None` once there will be nothing more.
    fn take(&self) -> Option<BTreeMap<Key, Change>> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = |waiting: &mut Waiting| waiting.changes.is_empty() && !waiting.ended;
        let mut waiting = self
            .more
            .wait_while(waiting, idle)
            .unwrap_or_else(PoisonError::into_inner);
        let changes = std::mem::take(&mut waiting.changes);
        (!changes.is_empty()).then_some(changes)
    }
}

/// Hands changes over to the thread that owns the store: each write costs a sync to disk, and nobody may wait for that.
struct StoreKeeper(Arc<Queue>);

impl LeaseKeeper for StoreKeeper {
    fn keep(&mut self, changes: Vec<LeaseChange>) {
        self.0.add(changes);
    }
}

impl Drop for StoreKeeper {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The thread that owns the store, until its keeper is gone and everything is written.
pub(crate) struct Writing(oneshot::Receiver<()>);

impl Writing {
    /// Waits for the last write, but not for a disk that hangs.
    pub(crate) async fn finish(self) {
        // An error means that the thread is gone.
        if tokio::time::timeout(CLOSING, self.0).await.is_err() {
            tracing::warn!("the disk does not answer: the last addresses may not be remembered");
        }
    }
}

fn start(mut store: Persistent<FileStore>, notices: &Notices) -> (StoreKeeper, Writing) {
    let queue = Arc::new(Queue::default());
    let (done, finished) = oneshot::channel();
    let work = Arc::clone(&queue);
    let reporter = notices.clone();
    let thread = std::thread::Builder::new()
        .name("addresses".to_owned())
        .spawn(move || {
            let mut failed = false;
            while let Some(changes) = work.take() {
                match write(&mut store, &changes) {
                    Ok(()) => failed = false,
                    Err(error) => {
                        tracing::debug!(%error, "addresses are not kept");
                        if !std::mem::replace(&mut failed, true) {
                            reporter.add(Notice::AddressesNotKept {
                                reason: devbox_provider::with_causes(&error),
                            });
                        }
                        work.put_back(changes);
                    }
                }
            }
            drop(done);
        });
    if let Err(error) = thread {
        notices.add(Notice::AddressesNotKept {
            reason: error.to_string(),
        });
    }
    (StoreKeeper(queue), Writing(finished))
}

/// One batch, one sync.
fn write(store: &mut Persistent<FileStore>, changes: &BTreeMap<Key, Change>) -> Result<(), Error> {
    let now = Timestamp::from(SystemTime::now());
    store.update(|allocator| {
        for (key, change) in changes {
            if change.release {
                allocator.release(key, now);
            }
            if let Some(address) = change.lease {
                // Another session of this user may have given it to another key, or another one to this key.
                if let Err(error) = allocator.lease_at(key, address, now) {
                    tracing::debug!(%error, "an address is kept in memory only");
                }
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> Key {
        Key::new(&format!("dev/backend/s{number}")).unwrap()
    }

    fn pools() -> Vec<IpNet> {
        vec!["127.77.0.0/16".parse().unwrap()]
    }

    #[tokio::test]
    async fn five_thousand_changes_at_once_are_all_remembered() {
        let state = tempfile::tempdir().unwrap();
        let notices = Notices::new();
        let mut addresses = Addresses::open(&pools(), None, Some(state.path()), &notices)
            .await
            .unwrap();
        let now = Timestamp::from_secs(0);
        let leased: Vec<_> = (0..5000)
            .map(|number| {
                let address = addresses.allocator.lease(&key(number), now).unwrap();
                LeaseChange::Leased {
                    key: key(number),
                    address,
                }
            })
            .collect();
        for change in leased {
            addresses.keeper.keep(vec![change]);
        }
        addresses.keeper.keep(vec![LeaseChange::Released { key: key(7) }]);
        drop(addresses.keeper);
        addresses.writing.unwrap().finish().await;
        let again = Addresses::open(&pools(), None, Some(state.path()), &notices)
            .await
            .unwrap();
        for number in 0..5000 {
            let expected = addresses.allocator.get(&key(number)).filter(|_| number != 7);
            assert_eq!(again.allocator.get(&key(number)), expected, "{number}");
        }
    }

    #[tokio::test]
    async fn a_store_that_cannot_be_opened_is_a_notice_and_not_an_error() {
        let state = tempfile::NamedTempFile::new().unwrap();
        let notices = Notices::new();
        let addresses = Addresses::open(&pools(), None, Some(state.path()), &notices).await;
        assert!(addresses.unwrap().writing.is_none());
        let log = notices.all();
        assert!(matches!(&log[..], [Notice::AddressesInMemory { .. }]), "{log:?}");
    }

    #[test]
    fn what_could_not_be_written_is_tried_again_and_what_is_newer_wins() {
        let queue = Queue::default();
        let lease = |last| LeaseChange::Leased {
            key: key(last),
            address: IpAddr::from([127, 77, 1, u8::try_from(last).unwrap()]),
        };
        queue.add(vec![lease(1), lease(2)]);
        let failed = queue.take().unwrap();
        queue.add(vec![LeaseChange::Released { key: key(2) }]);
        std::thread::scope(|scope| {
            scope.spawn(|| queue.put_back(failed));
            // Ends the pause: the end of a session waits for no retry.
            queue.end();
        });
        // The end may have come first; then nothing is put back, and what is newer is still there.
        let left = queue.take().unwrap();
        assert!(left[&key(2)].release && left[&key(2)].lease.is_none());
        assert!(queue.take().is_none());
    }

    #[test]
    fn changes_that_wait_are_bounded_by_the_number_of_keys() {
        let queue = Queue::default();
        for round in 0..1000 {
            let address = IpAddr::from([127, 77, 1, u8::try_from(round % 200).unwrap()]);
            queue.add(vec![LeaseChange::Released { key: key(1) }]);
            queue.add(vec![LeaseChange::Leased { key: key(1), address }]);
        }
        let taken = queue.take().unwrap();
        assert_eq!(taken.len(), 1);
        assert!(taken[&key(1)].release && taken[&key(1)].lease.is_some());
        queue.end();
        assert!(queue.take().is_none());
    }
}
