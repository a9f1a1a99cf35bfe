//! Where names go: whatever makes a session's names resolvable implements [`NameSink`].

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use devbox_helper_client::{HelperError, HostsEntry};
use serde::{Deserialize, Serialize};
use service_catalog::{Label, Port, ServiceId};

/// Addresses and the names that lead to them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// At least one name, the canonical one first. No name is in two records of one publication.
    pub names: Vec<String>,
    /// At least one address, at most one per family.
    pub addresses: Vec<IpAddr>,
    /// The service there, for places that can say more of a name than its addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<Behind>,
}

/// The service that a record's names lead to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behind {
    /// Its full name.
    pub service: ServiceId,
    /// Where it runs.
    pub environment: Label,
    /// Its ports, as its catalog has them.
    pub ports: Vec<Port>,
    /// The canonical names of its members, as far as they have names of their own: the pods of a headless service.
    pub members: Vec<String>,
}

/// Makes names resolvable: the system's hosts file, a private one, a DNS server's registry.
///
/// A session publishes the whole set each time, never a change, and one call at a time.
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
    async fn publish(&self, records: Arc<[Record]>) -> Result<Published, PublishError>;

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
pub fn hosts_entries(records: &[Record]) -> Vec<HostsEntry> {
    let lines = records.iter().flat_map(|record| {
        record.addresses.iter().map(|address| HostsEntry {
            address: *address,
            names: record.names.clone(),
        })
    });
    lines.collect()
}

type Names = HashMap<String, Vec<IpAddr>>;

/// Names in memory, for whoever answers from this process: a DNS server, or an app that asks by itself.
///
/// Cheap to clone; all clones are the same registry. Asking never waits for a publication.
///
/// ```
/// use std::sync::Arc;
/// use devbox_session::sink::{NameSink, Record, Registry};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let registry = Registry::default();
/// let orders = Record { names: vec!["orders.backend".into()], addresses: vec!["127.77.45.67".parse()?], behind: None };
/// registry.publish(Arc::from([orders])).await?;
/// assert_eq!(registry.resolve("Orders.Backend."), ["127.77.45.67".parse::<std::net::IpAddr>()?]);
/// assert!(registry.resolve("web.shop").is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Registry {
    /// Replaced as a whole; the lock is held for as long as a pointer takes to copy.
    names: Arc<RwLock<Arc<Names>>>,
}

impl Registry {
    /// The addresses of a name; none where it is not known. Case and a final dot do not matter (RFC 1034 §3.1).
    pub fn resolve(&self, name: &str) -> Vec<IpAddr> {
        let names = Arc::clone(&self.names.read().unwrap_or_else(PoisonError::into_inner));
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        names.get(&name).cloned().unwrap_or_default()
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.names.read().unwrap_or_else(PoisonError::into_inner).len()
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

    async fn publish(&self, records: Arc<[Record]>) -> Result<Published, PublishError> {
        let names = records
            .iter()
            .flat_map(|record| {
                let addresses = &record.addresses;
                record.names.iter().map(|name| (name.clone(), addresses.clone()))
            })
            .collect();
        *self.names.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(names);
        Ok(Published::default())
    }
}
