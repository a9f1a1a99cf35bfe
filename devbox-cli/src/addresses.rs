//! Where a session's addresses come from: the pool, the team's lock file, and what this user's sessions had before.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::SystemTime;

use devbox_session::{Event, ServiceReport};
use ipalloc::store::{FileStore, Persistent};
use ipalloc::{Allocator, Key, LockFile, Pool, Timestamp};
use service_catalog::ServiceId;

use crate::config::Config;
use crate::failure::Failure;
use crate::print;

/// The team's lock file, beside the configuration or above the working folder.
pub(crate) const LOCK_FILE: &str = "devbox.lock";

/// The addresses to begin with, and who keeps what becomes of them.
pub(crate) struct Addresses {
    pub(crate) allocator: Allocator,
    keeper: Option<Keeper>,
}

impl Addresses {
    /// Opens the user's store in `state`. Where that cannot be, addresses are kept in memory, which is said once: they are
    /// the same at the next start all the same, since they hang on the names.
    pub(crate) fn open(config: &Config, state: Option<PathBuf>) -> Result<Self, Failure> {
        let pool = Pool::new(config.pool.iter().copied()).map_err(Failure::because)?;
        let lock = match lock_file(config) {
            Some(path) => LockFile::read(&path).map_err(|error| {
                Failure::because(error)
                    .help("`devbox ip lock` writes a new one once its conflicts are settled")
            })?,
            None => LockFile::new(),
        };
        let store = match state {
            Some(folder) => store(&folder, pool.clone()).map_err(|error| error.to_string()),
            None => Err("there is no home folder".to_owned()),
        };
        let (mut allocator, keeper) = match store {
            Ok(store) => (store.allocator().clone(), Some(Keeper::start(store))),
            Err(reason) => {
                print::note(&format!("note: addresses are kept in memory only: {reason}"));
                (Allocator::new(pool), None)
            }
        };
        allocator.set_lock(&lock).map_err(Failure::because)?;
        Ok(Self { allocator, keeper })
    }

    /// Without a store or a lock file.
    pub(crate) fn in_memory(config: &Config) -> Result<Self, Failure> {
        let pool = Pool::new(config.pool.iter().copied()).map_err(Failure::because)?;
        Ok(Self {
            allocator: Allocator::new(pool),
            keeper: None,
        })
    }

    /// Takes the allocator out; the rest keeps what events tell.
    pub(crate) fn split(self) -> (Allocator, Record) {
        let first = self.allocator.clone();
        (
            self.allocator,
            Record {
                first,
                environment: None,
                keeper: self.keeper,
            },
        )
    }
}

/// Keeps the leases of a session as its events tell of them.
pub(crate) struct Record {
    /// What the user's sessions had before this one: an address that this one took only because the usual one was in use
    /// is not kept.
    first: Allocator,
    environment: Option<String>,
    keeper: Option<Keeper>,
}

impl Record {
    pub(crate) fn event(&mut self, event: &Event) {
        match event {
            Event::Ready { status } => {
                self.environment.clone_from(&status.environment);
                self.keep(&status.services);
            }
            Event::ServiceUp { service } => self.keep(std::slice::from_ref(service)),
            Event::ServiceRemoved { service } => {
                if let (Some(keeper), Some(key)) = (&self.keeper, self.key(service)) {
                    // So that it is kept again when the service comes back.
                    self.first.release(&key, Timestamp::from(SystemTime::now()));
                    keeper.tell(Change::Release(key));
                }
            }
            _ => {}
        }
    }

    fn keep(&mut self, services: &[ServiceReport]) {
        let held: BTreeMap<Key, IpAddr> = services
            .iter()
            .filter_map(|service| Some((self.key(&service.service)?, service.address?)))
            .collect();
        let usual = self.first.assign(held.keys()).unwrap_or_default();
        let Some(keeper) = &self.keeper else { return };
        let fresh: Vec<_> = held
            .into_iter()
            .filter(|(key, address)| self.first.get(key).is_none() && usual.get(key) == Some(address))
            .collect();
        if !fresh.is_empty() {
            keeper.tell(Change::Lease(fresh));
        }
    }

    fn key(&self, service: &ServiceId) -> Option<Key> {
        let environment = self.environment.as_ref()?;
        Key::new(&format!("{environment}/{}/{}", service.namespace, service.name)).ok()
    }
}

enum Change {
    Lease(Vec<(Key, IpAddr)>),
    Release(Key),
}

/// A thread that owns the store: each change costs a sync to disk, for which no connection waits.
struct Keeper {
    changes: Option<mpsc::Sender<Change>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    fn start(mut store: Persistent<FileStore>) -> Self {
        // Without a bound, for nobody may wait for a disk: one message a catalog change, which are seconds apart.
        let (changes, told) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("addresses".to_owned())
            .spawn(move || {
                let mut failed = false;
                for change in told {
                    let done = match change {
                        // One batch, one sync.
                        Change::Lease(leases) => store.update(|allocator| {
                            let now = Timestamp::from(SystemTime::now());
                            for (key, address) in leases {
                                // Another session of this user may have given it to another key, or this key another one.
                                if let Err(error) = allocator.lease_at(&key, address, now) {
                                    tracing::debug!(%error, "an address is kept in memory only");
                                }
                            }
                            Ok(())
                        }),
                        Change::Release(key) => {
                            store.release(&key, Timestamp::from(SystemTime::now())).map(drop)
                        }
                    };
                    if let Err(error) = done
                        && !std::mem::replace(&mut failed, true)
                    {
                        tracing::warn!(%error, "addresses are kept in memory only");
                    }
                }
            });
        Self {
            changes: Some(changes),
            thread: thread.ok(),
        }
    }

    fn tell(&self, change: Change) {
        if let Some(changes) = &self.changes
            && changes.send(change).is_err()
        {
            tracing::debug!("the store is gone");
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.changes.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::debug!("the store's thread panicked");
        }
    }
}

/// The leases of this pool: each pool has a store of its own, so that going to another one and back loses nothing.
pub(crate) fn store(state: &Path, pool: Pool) -> Result<Persistent<FileStore>, ipalloc::Error> {
    // `127.77.0.0_16`, `10.0.0.0_24+10.0.2.0_24`, `fd77--_64`: names that a file may have on every system. A store knows its
    // pool besides, so that a name that is cut short leads to no wrong one.
    let prefixes: Vec<String> = pool.prefixes().iter().map(ToString::to_string).collect();
    let name = prefixes.join("+").replace('/', "_").replace(':', "-");
    let folder = state.join("ip").join(name.chars().take(200).collect::<String>());
    Persistent::open(FileStore::new(folder), pool)
}

/// The lock file that counts: beside the configuration, else from the working folder upward.
pub(crate) fn lock_file(config: &Config) -> Option<PathBuf> {
    let beside = config
        .file
        .as_ref()
        .and_then(|file| file.parent())
        .map(|folder| folder.join(LOCK_FILE));
    let working = std::env::current_dir().ok();
    let upward = working
        .iter()
        .flat_map(|folder| folder.ancestors())
        .map(|folder| folder.join(LOCK_FILE));
    beside.into_iter().chain(upward).find(|path| path.is_file())
}
