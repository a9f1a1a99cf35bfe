//! A store in memory.

use std::sync::{Arc, Mutex, PoisonError};

use super::{Part, Store};
use crate::Error;

/// A store in memory, for tests. Clones are one store, as processes that open one directory are; its lock is never waited for.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    files: Arc<Mutex<Files>>,
}

#[derive(Clone, Debug, Default)]
struct Files {
    snapshot: Option<Vec<u8>>,
    journal: Option<Vec<u8>>,
    aside: Vec<(Part, Vec<u8>)>,
}

impl Files {
    fn part(&mut self, part: Part) -> &mut Option<Vec<u8>> {
        match part {
            Part::Snapshot => &mut self.snapshot,
            Part::Journal => &mut self.journal,
        }
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// A store with its own copy of the files, as a disk image is.
    pub fn copy(&self) -> Self {
        Self {
            files: Arc::new(Mutex::new(self.with(|files| files.clone()))),
        }
    }

    /// The bytes of a file.
    pub fn bytes(&self, part: Part) -> Option<Vec<u8>> {
        self.with(|files| files.part(part).clone())
    }

    /// Puts bytes in place of a file, or takes it away.
    pub fn set_bytes(&self, part: Part, bytes: Option<Vec<u8>>) {
        self.with(|files| *files.part(part) = bytes);
    }

    /// What was set aside.
    pub fn aside(&self) -> Vec<(Part, Vec<u8>)> {
        self.with(|files| files.aside.clone())
    }

    fn with<T>(&self, act: impl FnOnce(&mut Files) -> T) -> T {
        act(&mut self.files.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Store for MemoryStore {
    fn lock(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn unlock(&mut self) {}

    fn read(&mut self, part: Part, from: u64, limit: u64) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.with(|files| {
            let bytes = files.part(part).as_deref()?;
            let from = usize::try_from(from).unwrap_or(usize::MAX).min(bytes.len());
            let to = usize::try_from(limit)
                .unwrap_or(usize::MAX)
                .saturating_add(from)
                .min(bytes.len());
            Some(bytes.get(from..to).unwrap_or_default().to_vec())
        }))
    }

    fn append(&mut self, at: u64, bytes: &[u8]) -> Result<(), Error> {
        self.with(|files| {
            let journal = files.journal.get_or_insert_default();
            journal.truncate(usize::try_from(at).unwrap_or(usize::MAX));
            journal.extend_from_slice(bytes);
        });
        Ok(())
    }

    fn replace(&mut self, part: Part, bytes: &[u8]) -> Result<(), Error> {
        self.set_bytes(part, Some(bytes.to_vec()));
        Ok(())
    }

    fn set_aside(&mut self, part: Part) -> Result<Option<String>, Error> {
        Ok(self.with(|files| {
            let bytes = files.part(part).take()?;
            files.aside.push((part, bytes));
            Some(format!("{part:?} {} aside", files.aside.len()))
        }))
    }

    fn name(&self, part: Part) -> String {
        format!("the {part:?} in memory").to_lowercase()
    }
}
