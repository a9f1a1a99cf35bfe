//! Keeping an allocator on disk: a snapshot, and a journal of the changes since.
//!
//! [`Persistent`] is an [`Allocator`](crate::Allocator) whose changes are on disk before a call returns. Processes that open the same store share
//! it. A [`Store`] only moves bytes: [`FileStore`] in a directory, [`MemoryStore`] for tests.
//!
//! The directory of a [`FileStore`] holds three files:
//!
//! - `snapshot.json`: everything, as one JSON document with a `format`, a `version`, a `generation` and a `checksum` at its end.
//! - `journal`: one line per change since that generation, a checksum of 16 hexadecimal digits before a JSON object. An unfinished
//!   last line was never acknowledged (the program died while writing it) and is cut off.
//! - `lock`: locked while a process reads or writes the other two.
//!
//! Once the journal outgrows the snapshot (and 64 KiB), it is folded into a new one. Each file is written under
//! another name, made durable and renamed. A journal of an older generation than the snapshot is left over from an interrupted fold and is ignored.
//! A file whose checksum does not match or that contradicts itself is moved aside unchanged and named in [`Error::Damaged`].

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

    /// Releases the lock.
    fn unlock(&mut self);

    /// The bytes of a file from an offset on, up to `limit` of them; fewer, or none, at its end. `None` where the file is not there.
    ///
    /// # Errors
    /// [`Error::Io`]
    fn read(&mut self, part: Part, from: u64, limit: u64) -> Result<Option<Vec<u8>>, Error>;

    /// Truncates the journal to `at` bytes, appends these, and returns once they are durable.
    ///
    /// # Errors
    /// [`Error::Io`]; then any part of the bytes may have been written.
    fn append(&mut self, at: u64, bytes: &[u8]) -> Result<(), Error>;

    /// Replaces a file by these bytes, and returns once they are durable. After a crash the file is either the old or the new one.
    ///
    /// # Errors
    /// [`Error::Io`]; then the file is the old or the new one.
    fn replace(&mut self, part: Part, bytes: &[u8]) -> Result<(), Error>;

    /// Moves a file, if it exists, out of the way to a name that nothing overwrites, and returns that name.
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
