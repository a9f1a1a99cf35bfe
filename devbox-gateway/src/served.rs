//! What is in force: the catalog with its health, and the token; and how files change it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use service_catalog::{Health, Update, wire};
use tokio::sync::watch;
use tunnel_bridge::Token;

use crate::config::{CatalogSource, Limits, TokenSource};
use crate::follow::{Follower, Reading};
use crate::{Error, StaticCatalog};

/// The longest catalog file in bytes: what it says fits the wire form many times over.
pub(crate) const MAX_CATALOG_FILE_BYTES: usize = 4 << 20;

const MAX_TOKEN_FILE_BYTES: usize = 8 << 10;

/// The catalog in force and how far it can be trusted.
#[derive(Debug)]
pub(crate) struct InForce {
    pub(crate) catalog: Arc<StaticCatalog>,
    pub(crate) health: Health,
}

/// A catalog or a token, and the work of following its file, which [`Gateway::run`](crate::Gateway::run) gives a task.
pub(crate) struct Followed<T> {
    pub(crate) value: watch::Receiver<T>,
    pub(crate) file: Option<FollowedFile<T>>,
}

pub(crate) struct FollowedFile<T> {
    path: PathBuf,
    first: Reading,
    sender: watch::Sender<T>,
}

impl<T> Followed<T> {
    fn new(value: T, file: Option<(PathBuf, Reading)>) -> Self {
        let (sender, receiver) = watch::channel(value);
        let file = file.map(|(path, first)| FollowedFile { path, first, sender });
        Self {
            value: receiver,
            file,
        }
    }
}

/// Reads the catalog for the first time.
pub(crate) fn catalog(source: CatalogSource) -> Result<Followed<Arc<InForce>>, Error> {
    let (catalog, file) = match source {
        CatalogSource::Fixed(catalog) => (catalog, None),
        CatalogSource::File(path) => {
            let first = Reading::of(&path, MAX_CATALOG_FILE_BYTES);
            let catalog = parse(&first, &path)?;
            // A pipe gives what it holds once: there is nothing to follow.
            let regular = path.metadata().is_ok_and(|metadata| metadata.is_file());
            (catalog, regular.then_some((path, first)))
        }
    };
    let in_force = InForce {
        catalog: Arc::new(catalog),
        health: Health::Live,
    };
    Ok(Followed::new(Arc::new(in_force), file))
}

/// Reads the token for the first time. `None` in it lets nobody in.
pub(crate) fn token(source: TokenSource) -> Result<Followed<Option<Token>>, Error> {
    let (token, file) = match source {
        TokenSource::Fixed(token) => (token, None),
        TokenSource::File(path) => {
            let token = Token::read(&path)?;
            let first = Reading::of(&path, MAX_TOKEN_FILE_BYTES);
            let regular = path.metadata().is_ok_and(|metadata| metadata.is_file());
            (token, regular.then_some((path, first)))
        }
    };
    Ok(Followed::new(Some(token), file))
}

/// Follows the catalog file until the runtime ends.
pub(crate) async fn follow_catalog(file: FollowedFile<Arc<InForce>>, limits: Limits) {
    let FollowedFile { path, first, sender } = file;
    let mut follower = Follower::new(path.clone(), MAX_CATALOG_FILE_BYTES, first, limits.poll_interval);
    while let Some(reading) = follower.next_change().await {
        let same = |catalog| same_environment(catalog, &sender.borrow(), &path);
        let newer = match parse(&reading, &path).and_then(same) {
            Ok(catalog) => {
                let services = catalog.catalog().services.len();
                tracing::info!(services, environment = %catalog.catalog().environment, "catalog file read again");
                InForce {
                    catalog: Arc::new(catalog),
                    health: Health::Live,
                }
            }
            Err(error) => {
                let reason = with_causes(&error);
                tracing::warn!(%reason, "catalog file not usable, the last good one stays in force");
                InForce {
                    catalog: sender.borrow().catalog.clone(),
                    health: Health::stale(&reason),
                }
            }
        };
        sender.send_replace(Arc::new(newer));
    }
}

/// Follows the token file until the runtime ends.
pub(crate) async fn follow_token(file: FollowedFile<Option<Token>>, limits: Limits) {
    let FollowedFile { path, first, sender } = file;
    let mut follower = Follower::new(path.clone(), MAX_TOKEN_FILE_BYTES, first, limits.poll_interval);
    while let Some(reading) = follower.next_change().await {
        let (token, fault) = match &reading {
            Reading::Content(bytes) => match std::str::from_utf8(bytes).map(|text| Token::new(text.trim())) {
                Ok(Ok(token)) => (Some(token), None),
                Ok(Err(error)) => (None, Some(error.to_string())),
                Err(_) => (
                    None,
                    Some("not a token: it has characters other than visible ASCII".to_owned()),
                ),
            },
            Reading::TooLarge => (None, Some("not a token: it is too long".to_owned())),
            Reading::Failed { message, .. } => (None, Some(message.clone())),
        };
        match fault {
            None => tracing::info!(file = %path.display(), "token file read again"),
            Some(fault) => {
                tracing::warn!(file = %path.display(), %fault, "token file not usable, nobody is let in");
            }
        }
        sender.send_replace(token);
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
    // Aliases can make much of little: what cannot be told to clients is no good catalog.
    wire::Encoder::new().encode(&Update::Snapshot(catalog.catalog().clone()))?;
    Ok(catalog)
}

fn same_environment(newer: StaticCatalog, in_force: &InForce, path: &Path) -> Result<StaticCatalog, Error> {
    let (from, to) = (
        &in_force.catalog.catalog().environment,
        &newer.catalog().environment,
    );
    if from == to {
        return Ok(newer);
    }
    Err(Error::EnvironmentChanged {
        path: path.to_owned(),
        from: from.to_string(),
        to: to.to_string(),
    })
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

fn with_causes(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
