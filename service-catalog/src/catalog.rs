use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::line::{line, one_line};
use crate::{Error, Label, Port, Service, ServiceId, Target};

/// All services of one environment.
///
/// ```
/// use service_catalog::{Catalog, Port, Service};
///
/// let orders = Service::new("orders.backend".parse()?, vec![Port::tcp(5432.try_into()?)])?;
/// let old = Catalog::empty("dev".parse()?);
/// let new = Catalog::new("dev".parse()?, [orders])?;
///
/// let mut mine = old.clone();
/// if let Some(update) = old.diff(&new) {
///     mine.apply(&update);
/// }
/// assert_eq!(mine, new);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "CatalogForm", try_from = "CatalogForm")]
pub struct Catalog {
    /// What the far side calls the environment.
    pub environment: Label,
    /// The services, each under its own id.
    pub services: BTreeMap<ServiceId, Service>,
    /// What whoever uses the catalog should know of how it came about, such as a line of it that cannot be understood. One line each,
    /// made by [`note`](Self::note); of a catalog that was read, at most [`MAX_NOTES`].
    pub notes: Vec<String>,
}

/// The most notes of one catalog.
pub const MAX_NOTES: usize = 32;

impl Catalog {
    /// An environment without services.
    #[must_use]
    pub fn empty(environment: Label) -> Self {
        Self {
            environment,
            services: BTreeMap::new(),
            notes: Vec::new(),
        }
    }

    /// Adds a note, made fit for a terminal as [`Health::stale`] does. One beyond [`MAX_NOTES`] is left out.
    pub fn note(&mut self, text: &str) {
        if self.notes.len() < MAX_NOTES {
            self.notes.push(line(text));
        }
    }

    /// An environment with these services.
    ///
    /// # Errors
    /// [`Error::DuplicateService`]; and as [`Service::check`].
    pub fn new(environment: Label, services: impl IntoIterator<Item = Service>) -> Result<Self, Error> {
        let mut catalog = Self::empty(environment);
        for service in services {
            service.check()?;
            match catalog.services.entry(service.id.clone()) {
                Entry::Vacant(entry) => {
                    entry.insert(service);
                }
                Entry::Occupied(entry) => {
                    return Err(Error::DuplicateService {
                        service: entry.key().clone(),
                    });
                }
            }
        }
        Ok(catalog)
    }

    /// What turns this catalog into `newer`; `None` where they are equal.
    ///
    /// The law: `a.apply(a.diff(b)) == b`. It is [`Update::Changed`] within one environment, and the whole
    /// of `newer` as [`Update::Snapshot`] where the environment's name differs, or the notes do.
    #[must_use]
    pub fn diff(&self, newer: &Self) -> Option<Update> {
        if self.environment != newer.environment || self.notes != newer.notes {
            return Some(Update::Snapshot(newer.clone()));
        }
        let upserted: Vec<_> = newer
            .services
            .iter()
            .filter(|(id, service)| self.services.get(id) != Some(service))
            .map(|(_, service)| service.clone())
            .collect();
        let removed: Vec<_> = self
            .services
            .keys()
            .filter(|id| !newer.services.contains_key(id))
            .cloned()
            .collect();
        (!upserted.is_empty() || !removed.is_empty()).then_some(Update::Changed { upserted, removed })
    }

    /// Brings this catalog up to date. [`Update::Health`] changes nothing here; the removal of a service that
    /// is not there is no error.
    pub fn apply(&mut self, update: &Update) {
        match update {
            Update::Snapshot(newer) => self.clone_from(newer),
            Update::Changed { upserted, removed } => {
                for id in removed {
                    self.services.remove(id);
                }
                for service in upserted {
                    self.services.insert(service.id.clone(), service.clone());
                }
            }
            Update::Health(_) => {}
        }
    }

    /// The port that `target` names, if the catalog has it.
    #[must_use]
    pub fn port(&self, target: &Target) -> Option<&Port> {
        self.services
            .get(&target.service)?
            .port(target.port, target.protocol)
    }

    /// Every port of every service, as what a stream would ask for, in the order of the names.
    pub fn targets(&self) -> impl Iterator<Item = Target> + '_ {
        self.services.values().flat_map(|service| {
            service.ports.iter().map(|port| Target {
                service: service.id.clone(),
                port: port.port,
                protocol: port.protocol,
            })
        })
    }
}

/// How a catalog changes, as a [`Source`](crate::Source) tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", try_from = "UpdateForm")]
pub enum Update {
    /// Everything that exists; whatever was known before is void.
    Snapshot(Catalog),
    /// The rest is as it was.
    Changed {
        /// Services that are new or differ from before, whole.
        upserted: Vec<Service>,
        /// Services that are gone.
        removed: Vec<ServiceId>,
    },
    /// How far the catalog can be trusted.
    Health(Health),
}

/// How far a catalog can be trusted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It is what the far side sees at this moment. A source is live until it says otherwise.
    #[default]
    Live,
    /// The last good catalog is in force, because the far side cannot read a newer one.
    Stale {
        /// Why, with the place: one line, at most [`MAX_REASON_BYTES`](crate::MAX_REASON_BYTES) bytes, no control or format characters.
        #[serde(deserialize_with = "one_line")]
        reason: String,
    },
}

impl Health {
    /// [`Health::Stale`] with `reason` made fit for a terminal: control and format characters become spaces, and what
    /// is over [`MAX_REASON_BYTES`](crate::MAX_REASON_BYTES) is cut.
    #[must_use]
    pub fn stale(reason: &str) -> Self {
        Self::Stale { reason: line(reason) }
    }
}

/// A catalog as it is written: the services as a list, since each carries its id.
#[derive(Serialize, Deserialize)]
struct CatalogForm {
    environment: Label,
    services: Vec<Service>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

impl From<Catalog> for CatalogForm {
    fn from(catalog: Catalog) -> Self {
        Self {
            environment: catalog.environment,
            services: catalog.services.into_values().collect(),
            notes: catalog.notes,
        }
    }
}

impl TryFrom<CatalogForm> for Catalog {
    type Error = Error;

    fn try_from(form: CatalogForm) -> Result<Self, Error> {
        let mut catalog = Self::new(form.environment, form.services)?;
        for text in &form.notes {
            catalog.note(text);
        }
        Ok(catalog)
    }
}

/// An update before the check that no service is in it twice.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum UpdateForm {
    Snapshot(Catalog),
    Changed {
        upserted: Vec<Service>,
        removed: Vec<ServiceId>,
    },
    Health(Health),
}

impl TryFrom<UpdateForm> for Update {
    type Error = Error;

    fn try_from(form: UpdateForm) -> Result<Self, Error> {
        Ok(match form {
            UpdateForm::Snapshot(catalog) => Self::Snapshot(catalog),
            UpdateForm::Health(health) => Self::Health(health),
            UpdateForm::Changed { upserted, removed } => {
                let mut seen = BTreeSet::new();
                for id in upserted.iter().map(|service| &service.id).chain(&removed) {
                    if !seen.insert(id) {
                        return Err(Error::DuplicateService { service: id.clone() });
                    }
                }
                Self::Changed { upserted, removed }
            }
        })
    }
}
