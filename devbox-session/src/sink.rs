//! Where names go: whatever makes a session's names resolvable implements [`NameSink`].

mod records;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use devbox_helper_client::{HelperError, HostsEntry};
use serde::{Deserialize, Serialize};
use service_catalog::{Label, Port, ServiceId};

pub use records::{Change, Changes, Iter, Records};

/// Addresses and the names that lead to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// At least one name, the canonical one first. No name is in two records of one publication.
    pub names: Vec<Arc<str>>,
    /// At least one address, at most one per family.
    pub addresses: Vec<IpAddr>,
    /// The service there, for places that can say more of a name than its addresses.
    pub behind: Option<Behind>,
}

/// The service that a record's names lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behind {
    /// Its full name.
    pub service: ServiceId,
    /// Where it runs.
    pub environment: Label,
    /// Its ports, as its catalog has them.
    pub ports: Vec<Port>,
    /// The canonical names of its members, as far as they have names of their own: the pods of a headless service.
    pub members: Vec<Arc<str>>,
}

/// Makes names resolvable: the system's hosts file, a private one, a DNS server's registry.
///
/// A session publishes the whole set each time, never a change, and one call at a time. A place that can change single names keeps the
/// set that it was given last, and asks for what differs: [`Records::changes_since`].
#[async_trait]
pub trait NameSink: Send + Sync + 'static {
    /// What it is, for messages: `/etc/hosts`.
    fn describe(&self) -> String;

    /// Makes exactly these names resolvable; an empty set takes away what was there.
    ///
    /// # Errors
    /// [`PublishError`]; what was resolvable before still is, or will be taken away by whoever undoes for this session.
    ///
    /// # Cancel safety
    /// Not safe: the publication may take effect after the future was dropped.
    async fn publish(&self, records: Records) -> Result<Published, PublishError>;

    /// Resolves when somebody else may have changed what was published; the session then publishes the same again. Default:
    /// never, for places that are this process's own.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    async fn disturbed(&self) {
        std::future::pending::<()>().await;
    }
}

/// What became of a publication.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Published {
    /// Whether anything had to be changed there.
    pub changed: bool,
    /// Names that were left to the user's own lines.
    pub taken: Vec<TakenName>,
    /// Names that were left to other sessions of this machine.
    pub held: Vec<HeldNames>,
    /// What the user should know about the place that the names went to, one line each.
    pub warnings: Vec<String>,
}

/// A name that the user has in a line of their own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TakenName {
    /// The name.
    pub name: String,
    /// The line, counted from 1.
    pub line: usize,
}

/// Names that another session of this machine holds: it published them first, or was told to take them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldNames {
    /// The other session.
    pub session: String,
    /// Its helper's process.
    pub helper_pid: Option<u32>,
    /// The names.
    pub names: Vec<String>,
}

/// Why names could not be published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The helper refused, or could not.
    #[error(transparent)]
    Helper(#[from] HelperError),
    /// There was no answer in time.
    #[error("{what} did not answer within {} s", after.as_secs())]
    TimedOut {
        /// Who did not answer.
        what: String,
        /// How long was waited.
        after: Duration,
    },
    /// Anything else.
    #[error("{message}")]
    Other {
        /// What went wrong.
        message: String,
    },
}

/// The lines of a hosts file that say the same as these records: one for each address.
pub fn hosts_entries<'a>(records: impl IntoIterator<Item = &'a Record>) -> Vec<HostsEntry> {
    let lines = records.into_iter().flat_map(|record| {
        record.addresses.iter().map(|address| HostsEntry {
            address: *address,
            names: record.names.iter().map(ToString::to_string).collect(),
        })
    });
    lines.collect()
}

/// Names in memory, for whoever answers from this process: a DNS server, or an app that asks by itself.
///
/// Cheap to clone; all clones are the same registry. A publication changes what differs from the one before, and whoever asks meanwhile
/// waits for no more than that.
///
/// ```
/// use devbox_session::sink::{NameSink, Record, Registry};
/// use devbox_session::{ProviderId, ServiceKey};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let registry = Registry::default();
/// let orders = Record { names: vec!["orders.backend".into()], addresses: vec!["127.77.45.67".parse()?], behind: None };
/// let of = ServiceKey {
///     provider: ProviderId(0),
///     environment: "dev".parse()?,
///     service: "orders.backend".parse()?,
/// };
/// registry.publish([(of, orders)].into_iter().collect()).await?;
/// assert_eq!(registry.resolve("Orders.Backend."), ["127.77.45.67".parse::<std::net::IpAddr>()?]);
/// assert!(registry.resolve("web.shop").is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Registry(Arc<RwLock<Names>>);

#[derive(Debug, Default)]
struct Names {
    published: Records,
    by_name: HashMap<Arc<str>, Arc<Record>>,
}

impl Registry {
    /// The addresses of a name; none where it is not known. Case and a final dot do not matter (RFC 1034 §3.1).
    pub fn resolve(&self, name: &str) -> Vec<IpAddr> {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let names = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let record = names.by_name.get(name.as_str());
        record.map_or_else(Vec::new, |record| record.addresses.clone())
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .by_name
            .len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[async_trait]
impl NameSink for Registry {
    fn describe(&self) -> String {
        "the registry in memory".to_owned()
    }

    async fn publish(&self, records: Records) -> Result<Published, PublishError> {
        let mut names = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let Names { published, by_name } = &mut *names;
        // All that go first: a name may have moved from one record to another.
        for record in records
            .changes_since(published)
            .filter_map(|change| change.before)
        {
            for name in &record.names {
                by_name.remove(name);
            }
        }
        for record in records.changes_since(published).filter_map(|change| change.after) {
            let record_of = |name: &Arc<str>| (Arc::clone(name), Arc::clone(record));
            by_name.extend(record.names.iter().map(record_of));
        }
        *published = records;
        Ok(Published::default())
    }
}
