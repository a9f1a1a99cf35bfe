//! Keeping an allocator on disk: a snapshot, and a journal of what was done since.
//!
//! [`Persistent`] is an [`Allocator`](crate::Allocator) whose changes are on disk before a call returns, shared with other processes that have opened the
//! same store. A [`Store`] only moves bytes: [`FileStore`] in a directory, [`MemoryStore`] for tests.
//!
//! The directory of a [`FileStore`] holds three files:
//!
//! - `snapshot.json`: everything, as one JSON document with a `format`, a `version`, a `generation` and a `checksum` at its end.
//! - `journal`: a line a change since that generation, 16 hexadecimal digits of a checksum before a JSON object. A last line
//!   without its end was never promised to anybody (the program died while writing it) and is cut off.
//! - `lock`: locked while a process reads or writes the other two.
//!
//! Once the journal outgrows the snapshot (and 64 KiB), it is folded into a new one. Each file is written beside, made durable and
//! renamed; a journal of an older generation than the snapshot's is a fold that was cut short, and means nothing any more.
//! A file that does not fit its checksum or contradicts itself is moved aside, whole, and named in [`Error::Damaged`].

mod file;
#[doc(hidden)]
pub mod fuzzing;
mod journal;
mod memory;
mod persistent;
mod snapshot;

pub use self::file::FileStore;
pub use self::memory::MemoryStore;
pub use self::persistent::Persistent;
use crate::Error;

/// One of the two files of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Everything at some moment.
    Snapshot,
    /// What was done since.
    Journal,
}

/// Where a snapshot and a journal are kept: bytes in, bytes out, and a lock.
///
/// All but [`lock`](Self::lock) and [`name`](Self::name) are called while the lock is held.
pub trait Store {
    /// Waits until no other process has the lock, and takes it.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Io`]
    fn lock(&mut self) -> Result<(), Error>;

    /// Gives the lock back.
    fn unlock(&mut self);

    /// The bytes of a file from an offset on, up to `limit` of them; fewer, or none, at its end. `None` where the file is not there.
    ///
    /// # Errors
    /// [`Error::Io`]
    fn read(&mut self, part: Part, from: u64, limit: u64) -> Result<Option<Vec<u8>>, Error>;

    /// Cuts the journal to `at` bytes, writes these behind, and returns once they are durable.
    ///
    /// # Errors
    /// [`Error::Io`]; then any part of the bytes may have been written.
    fn append(&mut self, at: u64, bytes: &[u8]) -> Result<(), Error>;

    /// Puts these bytes in place of a file, and returns once they are durable. After a crash the file is the old or the new one.
    ///
    /// # Errors
    /// [`Error::Io`]; then the file is the old or the new one.
    fn replace(&mut self, part: Part, bytes: &[u8]) -> Result<(), Error>;

    /// Moves a file, if it is there, to where it disturbs nothing and nothing overwrites it, and tells where.
    ///
    /// # Errors
    /// [`Error::Io`]
    fn set_aside(&mut self, part: Part) -> Result<Option<String>, Error>;

    /// What to call a file in a message: its path.
    fn name(&self, part: Part) -> String;
}

/// A checksum of bytes: SipHash-2-4 (64 bits) with a key of zeros.
fn checksum(bytes: &[u8]) -> u64 {
    siphasher::sip::SipHasher24::new().hash(bytes)
}
