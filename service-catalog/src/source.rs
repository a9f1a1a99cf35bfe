use async_trait::async_trait;

use crate::{Error, Update};

/// Where a catalog comes from: what exists, and how that changes.
///
/// The first update is an [`Update::Snapshot`]; changes follow as they happen. A source that has to start over sends
/// another snapshot.
///
/// ```
/// use async_trait::async_trait;
/// use service_catalog::{Catalog, Source, SourceError, Update};
///
/// /// A catalog that never changes.
/// struct Fixed(Option<Catalog>);
///
/// #[async_trait]
/// impl Source for Fixed {
///     async fn next(&mut self) -> Result<Update, SourceError> {
///         match self.0.take() {
///             Some(catalog) => Ok(Update::Snapshot(catalog)),
///             None => std::future::pending().await,
///         }
///     }
/// }
/// ```
#[async_trait]
pub trait Source: Send {
    /// Waits for the next update.
    ///
    /// # Errors
    /// [`SourceError`]. A source that has failed keeps failing: its owner connects again and gets a new one.
    ///
    /// # Cancel safety
    /// Safe: an update that was not returned comes with the next call.
    async fn next(&mut self) -> Result<Update, SourceError>;
}

/// Why there are no more updates.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The far side ended the catalog in an orderly way.
    #[error("the far side ended the catalog")]
    Ended,
    /// The far side leaves: connections that are open may finish, new ones need a new link.
    #[error("the far side ended the link{}", colon(.message))]
    Leaving {
        /// What it said; may be empty.
        message: String,
    },
    /// There is a better way to the far side, which the next connect takes: connections that are open may finish.
    #[error("moving to {to}")]
    Moving {
        /// The better way.
        to: String,
    },
    /// Another connection of the same session has taken over. Whoever sees this must not connect again.
    #[error("another connection of this session has taken over{}", colon(.message))]
    Superseded {
        /// What the far side said; may be empty.
        message: String,
    },
    /// The connection to the far side failed.
    #[error("the connection to the far side was lost")]
    Lost {
        /// What happened to it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What the far side sent is not a catalog.
    #[error("the far side's catalog is not usable")]
    Malformed {
        /// What is wrong with it.
        #[from]
        source: Error,
    },
}

fn colon(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(": {message}")
    }
}

impl SourceError {
    /// [`SourceError::Lost`] because of `source`.
    pub fn lost(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Lost {
            source: source.into(),
        }
    }
}
