use futures_util::future::BoxFuture;

use crate::{Error, Update};

/// Where a catalog comes from: one of the two traits that make a provider (the other dials its targets).
///
/// The first update is a [`Update::Snapshot`], then come changes as they happen. A source that has to start
/// over says another snapshot.
pub trait Source: Send {
    /// Waits for the next update.
    ///
    /// # Errors
    /// [`SourceError`]; a source that has failed goes on failing, its owner makes another one.
    ///
    /// # Cancel safety
    /// Safe: an update that was not returned comes with the next call.
    fn next(&mut self) -> BoxFuture<'_, Result<Update, SourceError>>;
}

/// Why there are no more updates.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The far side ended the catalog in an orderly way.
    #[error("the far side ended the catalog")]
    Ended,
    /// The road to the far side failed.
    #[error("the catalog's road to the far side failed")]
    Lost {
        /// What happened on it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The far side said something that is no catalog.
    #[error("the far side's catalog is not usable")]
    Malformed {
        /// What is wrong with it.
        #[from]
        source: Error,
    },
}

impl SourceError {
    /// [`SourceError::Lost`] because of `source`.
    pub fn lost(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Lost {
            source: source.into(),
        }
    }
}
