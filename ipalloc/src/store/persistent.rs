//! An allocator whose changes are on disk before a call returns.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;

use super::journal::{self, Fault, HEADER_BYTES};
use super::snapshot::{self, Refusal};
use super::{FileStore, Part, Store};
use crate::lockfile::LockFile;
use crate::{AddressRange, Allocator, Error, Key, Pool, Timestamp};

/// An allocator that is kept in a store, and shared with every other process that has opened the same one.
///
/// Each change takes the store's lock, catches up with what others did, does the change, appends it to the journal and returns once that is durable.
/// A change that fails to be written is not done. [`allocator`](Self::allocator) shows the state as of the last call; [`refresh`](Self::refresh) catches up.
///
/// The store belongs to the prefixes of its pool. Salt, strategy, reservations and quarantine may differ from process to process.
/// The lock file that is [in force](Self::set_lock) is not kept: each process reads its own.
///
/// ```
/// use ipalloc::store::{FileStore, Persistent};
/// use ipalloc::{Key, Pool, Timestamp};
///
/// # let directory = tempfile::tempdir()?;
/// # let directory = directory.path();
/// let now = Timestamp::from_secs(1_700_000_000);
/// let orders = Key::new("dev/backend/orders")?;
///
/// let mut leases = Persistent::open(FileStore::new(directory), Pool::default())?;
/// let address = leases.lease(&orders, now)?;
///
/// // Another process, or the same one after a restart.
/// let again = Persistent::open(FileStore::new(directory), Pool::default())?;
/// assert_eq!(again.allocator().get(&orders), Some(address));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Persistent<S: Store = FileStore> {
    store: S,
    pool: Pool,
    lock: LockFile,
    allocator: Allocator,
    generation: u64,
    snapshot_bytes: u64,
    /// The whole lines of the journal that the allocator has seen.
    journal_bytes: u64,
    /// Whether the allocator is the store's as of some moment. Not so after a write that failed.
    is_loaded: bool,
}

/// A journal is not folded before this size.
const FOLD_FROM_BYTES: u64 = 64 * 1024;
/// And not before it is this part of the snapshot: it is read with it, and costs more a line.
const FOLD_FROM_PART: u64 = 4;

impl<S: Store> Persistent<S> {
    /// Opens a store and loads what it holds; a new one holds nothing.
    ///
    /// # Errors
    /// [`Error::Damaged`] (the files are set aside, and the next call begins anew), [`Error::Newer`], [`Error::OtherPool`], [`Error::Locked`], [`Error::Io`]
    pub fn open(store: S, pool: Pool) -> Result<Self, Error> {
        let mut this = Self {
            allocator: Allocator::new(pool.clone()),
            store,
            pool,
            lock: LockFile::new(),
            generation: 0,
            snapshot_bytes: 0,
            journal_bytes: 0,
            is_loaded: false,
        };
        this.refresh()?;
        Ok(this)
    }

    /// The leases as of the last call.
    pub fn allocator(&self) -> &Allocator {
        &self.allocator
    }

    /// The address that a key held as of the last call.
    pub fn get(&self, key: &Key) -> Option<IpAddr> {
        self.allocator.get(key)
    }

    /// The key that held an address as of the last call.
    pub fn lookup(&self, address: IpAddr) -> Option<&Key> {
        self.allocator.lookup(address)
    }

    /// Catches up with what other processes did.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn refresh(&mut self) -> Result<(), Error> {
        self.update(|_| Ok(()))
    }

    /// Puts a lock file in force for this process, in place of the former; see [`Allocator::set_lock`].
    ///
    /// # Errors
    /// As [`Allocator::set_lock`] and [`open`](Self::open).
    pub fn set_lock(&mut self, lock: &LockFile) -> Result<(), Error> {
        self.update(|allocator| allocator.set_lock(lock))?;
        self.lock = lock.clone();
        Ok(())
    }

    /// See [`Allocator::lease`].
    ///
    /// # Errors
    /// As [`Allocator::lease`] and [`open`](Self::open).
    pub fn lease(&mut self, key: &Key, now: Timestamp) -> Result<IpAddr, Error> {
        self.update(|allocator| allocator.lease(key, now))
    }

    /// See [`Allocator::lease_all`]. All leases are written together, which costs one sync.
    ///
    /// # Errors
    /// As [`open`](Self::open), and then nothing was leased. Keys for which no address is left have their errors in the map.
    pub fn lease_all<'k>(
        &mut self,
        keys: impl IntoIterator<Item = &'k Key>,
        now: Timestamp,
    ) -> Result<BTreeMap<Key, Result<IpAddr, Error>>, Error> {
        self.update(|allocator| Ok(allocator.lease_all(keys, now)))
    }

    /// See [`Allocator::lease_where`]. The store is locked while `usable` is asked.
    ///
    /// # Errors
    /// As [`Allocator::lease_where`] and [`open`](Self::open).
    pub fn lease_where(
        &mut self,
        key: &Key,
        now: Timestamp,
        usable: impl FnMut(IpAddr) -> bool,
    ) -> Result<IpAddr, Error> {
        self.update(|allocator| allocator.lease_where(key, now, usable))
    }

    /// See [`Allocator::lease_at`].
    ///
    /// # Errors
    /// As [`Allocator::lease_at`] and [`open`](Self::open).
    pub fn lease_at(&mut self, key: &Key, address: IpAddr, now: Timestamp) -> Result<(), Error> {
        self.update(|allocator| allocator.lease_at(key, address, now))
    }

    /// See [`Allocator::lease_port`].
    ///
    /// # Errors
    /// As [`Allocator::lease_port`] and [`open`](Self::open).
    pub fn lease_port(&mut self, key: &Key, port: NonZeroU16, now: Timestamp) -> Result<IpAddr, Error> {
        self.update(|allocator| allocator.lease_port(key, port, now))
    }

    /// See [`Allocator::release`].
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn release(&mut self, key: &Key, now: Timestamp) -> Result<Option<IpAddr>, Error> {
        self.update(|allocator| Ok(allocator.release(key, now)))
    }

    /// See [`Allocator::release_port`].
    ///
    /// # Errors
    /// As [`Allocator::release_port`] and [`open`](Self::open).
    pub fn release_port(
        &mut self,
        key: &Key,
        port: NonZeroU16,
        now: Timestamp,
    ) -> Result<Option<IpAddr>, Error> {
        self.update(|allocator| allocator.release_port(key, port, now))
    }

    /// See [`Allocator::pin`].
    ///
    /// # Errors
    /// As [`Allocator::pin`] and [`open`](Self::open).
    pub fn pin(&mut self, key: &Key, address: IpAddr, now: Timestamp) -> Result<(), Error> {
        self.update(|allocator| allocator.pin(key, address, now))
    }

    /// See [`Allocator::unpin`].
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn unpin(&mut self, key: &Key) -> Result<Option<IpAddr>, Error> {
        self.update(|allocator| Ok(allocator.unpin(key)))
    }

    /// See [`Allocator::reserve`].
    ///
    /// # Errors
    /// As [`Allocator::reserve`] and [`open`](Self::open).
    pub fn reserve(&mut self, range: impl Into<AddressRange>) -> Result<(), Error> {
        self.update(|allocator| allocator.reserve(range))
    }

    /// See [`Allocator::unreserve`].
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn unreserve(&mut self, range: impl Into<AddressRange>) -> Result<bool, Error> {
        self.update(|allocator| Ok(allocator.unreserve(range)))
    }

    /// Does several changes with one write, which is durable when the call returns: a thousand leases cost one sync. What was done before
    /// `change` returned an error stays done.
    ///
    /// # Errors
    /// What `change` returned, and as [`open`](Self::open).
    pub fn update<T>(&mut self, change: impl FnOnce(&mut Allocator) -> Result<T, Error>) -> Result<T, Error> {
        self.store.lock()?;
        let result = self.catch_up().and_then(|()| {
            let done = change(&mut self.allocator);
            self.write_down()?;
            done
        });
        self.store.unlock();
        result
    }

    /// Folds the journal into a new snapshot, which otherwise happens by itself.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn fold(&mut self) -> Result<(), Error> {
        self.store.lock()?;
        let result = self.catch_up().and_then(|()| self.fold_locked());
        self.store.unlock();
        result
    }

    fn catch_up(&mut self) -> Result<(), Error> {
        if !self.is_loaded {
            return self.load();
        }
        let head = self.store.read(Part::Journal, 0, HEADER_BYTES)?;
        if head.as_deref() != Some(journal::header(self.generation).as_bytes()) {
            return self.load();
        }
        // From the end of the last line that was seen, to see that it is still there.
        let news = self
            .store
            .read(Part::Journal, self.journal_bytes - 1, u64::MAX)?
            .unwrap_or_default();
        let Some(news) = news.strip_prefix(b"\n") else {
            return self.load();
        };
        // Whatever is wrong with the news, loading all of it finds it again and says where.
        let Ok((records, whole)) = journal::decode_lines(news) else {
            return self.load();
        };
        if !records
            .into_iter()
            .all(|record| self.allocator.replay(record).is_ok())
        {
            return self.load();
        }
        // These are in the journal already.
        drop(self.allocator.take_log());
        self.journal_bytes += whole as u64;
        Ok(())
    }

    fn load(&mut self) -> Result<(), Error> {
        self.is_loaded = false;
        let snapshot = self.store.read(Part::Snapshot, 0, u64::MAX)?;
        let journal = self.store.read(Part::Journal, 0, u64::MAX)?;
        let Some(snapshot) = snapshot else {
            return match journal {
                None => self.begin(),
                Some(journal) => match journal::decode(&journal, u64::MAX) {
                    Err(Fault::Newer(version)) => Err(self.newer(Part::Journal, version, journal::VERSION)),
                    _ => Err(self.damaged(Part::Journal, "there is no snapshot before it")),
                },
            };
        };
        let (mut allocator, generation) = match snapshot::decode(&snapshot, self.pool.clone()) {
            Ok(loaded) => loaded,
            Err(Refusal::Newer(version)) => {
                return Err(self.newer(Part::Snapshot, version, snapshot::VERSION));
            }
            Err(Refusal::OtherPool(stored)) => {
                let (file, given) = (self.store.name(Part::Snapshot), self.pool.to_string());
                return Err(Error::OtherPool { file, stored, given });
            }
            Err(Refusal::Damaged(why)) => return Err(self.damaged(Part::Snapshot, &why)),
        };
        let tail = match journal
            .as_deref()
            .map(|bytes| journal::decode(bytes, generation))
            .transpose()
        {
            Ok(tail) => tail.filter(|tail| !tail.outdated),
            Err(Fault::Newer(version)) => return Err(self.newer(Part::Journal, version, journal::VERSION)),
            Err(Fault::Damaged(why)) => return Err(self.damaged(Part::Journal, &why)),
        };
        let journal_bytes = match tail {
            Some(tail) => {
                for (index, record) in tail.records.into_iter().enumerate() {
                    if let Err(why) = allocator.replay(record) {
                        return Err(self.damaged(Part::Journal, &format!("line {}: {why}", index + 2)));
                    }
                }
                tail.whole_bytes
            }
            // A fold was cut short between the snapshot and the journal, or somebody brought a snapshot alone.
            None => {
                self.store
                    .replace(Part::Journal, journal::header(generation).as_bytes())?;
                HEADER_BYTES
            }
        };
        self.put(allocator, generation, snapshot.len() as u64, journal_bytes);
        Ok(())
    }

    /// A store that is not there yet.
    fn begin(&mut self) -> Result<(), Error> {
        let allocator = Allocator::new(self.pool.clone());
        let snapshot = snapshot::encode(&allocator, 1);
        self.store.replace(Part::Snapshot, &snapshot)?;
        self.store.replace(Part::Journal, journal::header(1).as_bytes())?;
        self.put(allocator, 1, snapshot.len() as u64, HEADER_BYTES);
        Ok(())
    }

    fn put(&mut self, mut allocator: Allocator, generation: u64, snapshot_bytes: u64, journal_bytes: u64) {
        allocator.set_lock_where_possible(&self.lock);
        allocator.start_log();
        self.allocator = allocator;
        (self.generation, self.snapshot_bytes, self.journal_bytes) =
            (generation, snapshot_bytes, journal_bytes);
        self.is_loaded = true;
    }

    fn write_down(&mut self) -> Result<(), Error> {
        let records = self.allocator.take_log();
        if records.is_empty() {
            return Ok(());
        }
        let lines = journal::encode(&records);
        if let Err(error) = self.store.append(self.journal_bytes, lines.as_bytes()) {
            // What was not written was not done. If the store cannot be read either, the next call tries again.
            self.is_loaded = false;
            return self.load().and(Err(error));
        }
        self.journal_bytes += lines.len() as u64;
        if self.journal_bytes > FOLD_FROM_BYTES.max(self.snapshot_bytes / FOLD_FROM_PART) {
            // The change is durable. A fold that fails leaves it so, and is tried again after the next change.
            drop(self.fold_locked());
        }
        Ok(())
    }

    fn fold_locked(&mut self) -> Result<(), Error> {
        // Whatever fails on the way, the next call looks at what there is.
        self.is_loaded = false;
        let generation = self.generation + 1;
        let snapshot = snapshot::encode(&self.allocator, generation);
        self.store.replace(Part::Snapshot, &snapshot)?;
        self.store
            .replace(Part::Journal, journal::header(generation).as_bytes())?;
        (self.generation, self.snapshot_bytes, self.journal_bytes) =
            (generation, snapshot.len() as u64, HEADER_BYTES);
        self.is_loaded = true;
        Ok(())
    }

    fn newer(&self, part: Part, version: u64, known: u64) -> Error {
        Error::Newer {
            file: self.store.name(part),
            version,
            known,
        }
    }

    /// Moves both files aside: the journal means nothing without its snapshot, and the snapshot without its journal is half of the truth.
    fn damaged(&mut self, part: Part, why: &str) -> Error {
        let file = self.store.name(part);
        let mut kept = Vec::new();
        // The journal first: what remains if the second move fails is a snapshot, or nothing.
        for part in [Part::Journal, Part::Snapshot] {
            match self.store.set_aside(part) {
                Ok(aside) => kept.extend(aside),
                Err(error) => return error,
            }
        }
        Error::Damaged {
            file,
            why: why.to_owned(),
            kept,
        }
    }
}
