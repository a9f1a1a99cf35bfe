use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use devbox_provider::{ConnectError, Connection, Provider, Status, Wanted, with_causes};
use service_catalog::{Update, wire};
use tokio::task::JoinSet;

use crate::follow::{Follower, Reading};
use crate::{DialPolicy, Error, LiveCatalog, StaticCatalog};

/// The longest catalog file in bytes: what it says fits the wire form many times over.
pub const MAX_CATALOG_FILE_BYTES: usize = 4 << 20;

/// How a catalog file is used. [`Default`] has the defaults.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct OpenOptions {
    /// How often the file is read. A change is taken when two readings in a row agree, so that a half-written file
    /// is not: it is in force after one to two intervals. Default: 100 ms.
    pub poll_interval: Duration,
    /// What may be dialed. Default: everything.
    pub dialing: DialPolicy,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            poll_interval: Duration::from_millis(100),
            dialing: DialPolicy::default(),
        }
    }
}

/// A catalog file as a provider: followed while it changes, its targets dialed directly.
///
/// A file that becomes unusable, or names another environment, changes nothing: the last good catalog stays in force
/// and is reported stale with the reason, also to those who connect meanwhile. The file is followed until this is
/// dropped. Connects may overlap.
///
/// ```
/// use catalog_file::CatalogFile;
/// use devbox_provider::{Provider as _, Wanted};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("catalog.yaml");
/// # std::fs::write(&path, "environment: dev\nservices: []\n")?;
/// let file = CatalogFile::open(&path).await?;
/// let connection = file.connect(Wanted::default()).await?;
/// # drop(connection);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct CatalogFile {
    live: LiveCatalog,
    _following: JoinSet<()>,
}

impl CatalogFile {
    /// Reads the file and begins to follow it.
    ///
    /// # Errors
    /// [`Error::Catalog`], [`Error::ReadCatalog`], [`Error::CatalogTooLarge`], and [`Error::Service`] for a catalog
    /// that is too large for its wire form.
    ///
    /// # Cancel safety
    /// Safe: dropped, nothing is left.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        Self::open_with(path, OpenOptions::default()).await
    }

    /// As [`open`](Self::open), with options.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    ///
    /// # Cancel safety
    /// As [`open`](Self::open).
    pub async fn open_with(path: impl Into<PathBuf>, options: OpenOptions) -> Result<Self, Error> {
        let path = path.into();
        let first = Reading::now(&path, MAX_CATALOG_FILE_BYTES).await;
        let catalog = parse(&first, &path)?;
        let live = LiveCatalog::new(catalog)
            .dialing(options.dialing)
            .shown_as(&path.display().to_string());
        let mut following = JoinSet::new();
        // A pipe gives what it holds once: there is nothing to follow.
        if path.metadata().is_ok_and(|metadata| metadata.is_file()) {
            let follower = Follower::new(path.clone(), MAX_CATALOG_FILE_BYTES, first, options.poll_interval);
            following.spawn(follow(follower, path, live.clone()));
        }
        Ok(Self {
            live,
            _following: following,
        })
    }

    /// The catalog in force, which can be shared and outlives the following of the file.
    #[must_use]
    pub fn live(&self) -> &LiveCatalog {
        &self.live
    }
}

#[async_trait]
impl Provider for CatalogFile {
    async fn connect(&self, wanted: Wanted) -> Result<Connection, ConnectError> {
        self.live.connect(wanted).await
    }

    fn status(&self) -> Status {
        self.live.status()
    }
}

async fn follow(mut follower: Follower, path: PathBuf, live: LiveCatalog) {
    while let Some(reading) = follower.next_change().await {
        let replaced = parse(&reading, &path).and_then(|catalog| {
            let services = catalog.catalog().services.len();
            live.replace(catalog).map(|()| services)
        });
        match replaced {
            Ok(services) => tracing::info!(file = %path.display(), services, "catalog file read again"),
            Err(error) => {
                let reason = match error {
                    Error::EnvironmentChanged { .. } => format!("{}: {error}", path.display()),
                    error => with_causes(&error),
                };
                tracing::warn!(%reason, "catalog file not usable, the last good one stays in force");
                live.set_stale(&reason);
            }
        }
    }
}

fn parse(reading: &Reading, path: &Path) -> Result<StaticCatalog, Error> {
    let text = match reading {
        Reading::Content(bytes) => {
            std::str::from_utf8(bytes).map_err(|error| not_utf8(bytes, error, path))?
        }
        Reading::TooLarge => {
            return Err(Error::CatalogTooLarge {
                path: path.to_owned(),
                limit: MAX_CATALOG_FILE_BYTES,
            });
        }
        Reading::Failed { kind, message } => {
            let source = std::io::Error::new(*kind, message.clone());
            return Err(Error::ReadCatalog {
                path: path.to_owned(),
                source,
            });
        }
    };
    let catalog = StaticCatalog::parse(text, path)?;
    // YAML's anchors can make much of little: what is too large for a client is no good catalog.
    wire::Encoder::new().encode(&Update::Snapshot(catalog.catalog().clone()))?;
    Ok(catalog)
}

fn not_utf8(bytes: &[u8], error: std::str::Utf8Error, path: &Path) -> Error {
    let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
    let line = good.bytes().filter(|&b| b == b'\n').count() as u64 + 1;
    let column = good.rsplit('\n').next().unwrap_or_default().chars().count() as u64 + 1;
    Error::Catalog {
        path: path.to_owned(),
        line,
        column,
        message: "this is not UTF-8".to_owned(),
    }
}
