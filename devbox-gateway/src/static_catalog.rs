use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU16;
use std::path::Path;

use serde::Deserialize;
use serde_saphyr::{Location, Spanned};
use service_catalog::{Catalog, Label, Port, Protocol, Service, ServiceId, Target};

use crate::{DialAddress, Error};

/// A catalog with, for each port, the address to dial. It comes from a YAML file, or is put together in code.
///
/// ```yaml
/// environment: dev
/// services:
///   - name: orders
///     namespace: backend
///     ports: [{name: pg, port: 5432, protocol: tcp, target: "127.0.0.1:15432"}]
/// ```
///
/// `protocol` may be left out and is `tcp` then; `name` may be left out. Every other key is needed, and unknown keys are
/// errors.
///
/// ```
/// use devbox_gateway::StaticCatalog;
///
/// let text = "environment: dev\nservices:\n  - name: orders\n    namespace: backend\n    ports:\n      - {port: 5432, target: \"127.0.0.1:15432\"}\n";
/// let catalog = StaticCatalog::parse(text, "catalog.yaml")?;
/// let target = "tcp/backend/orders/5432".parse()?;
/// assert_eq!(catalog.dial_address(&target).unwrap().to_string(), "127.0.0.1:15432");
/// # Ok::<(), devbox_gateway::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticCatalog {
    catalog: Catalog,
    addresses: BTreeMap<Target, DialAddress>,
}

impl StaticCatalog {
    /// An environment without services.
    #[must_use]
    pub fn new(environment: Label) -> Self {
        Self {
            catalog: Catalog::empty(environment),
            addresses: BTreeMap::new(),
        }
    }

    /// Reads the text of a catalog file; `path` is for the errors only.
    ///
    /// # Errors
    /// [`Error::Catalog`] with line and column: not YAML, a key unknown, missing or twice, a name that is no label, a
    /// port or an address to dial that is none, a protocol that is not carried, a service or port that is there twice.
    pub fn parse(text: &str, path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let file: CatalogFile = serde_saphyr::from_str(text).map_err(|error| {
            let place = error.location().unwrap_or(Location::UNKNOWN);
            at(path, place, &message_of(error.without_snippet()))
        })?;
        file.check(path)
    }

    /// Adds a TCP port to a service, which need not be there yet.
    ///
    /// # Errors
    /// [`Error::Service`] where the service has this port or a port of this name already; then nothing is added.
    pub fn add(
        &mut self,
        service: ServiceId,
        name: Option<Label>,
        port: NonZeroU16,
        address: DialAddress,
    ) -> Result<(), Error> {
        let entry = Port {
            name,
            port,
            protocol: Protocol::Tcp,
            target: Some(address.to_string()),
        };
        let ports = self
            .catalog
            .services
            .get(&service)
            .map_or(&[][..], |known| &known.ports);
        let ports = ports.iter().cloned().chain([entry]).collect();
        let whole = Service::new(service.clone(), ports)?;
        self.catalog.services.insert(service.clone(), whole);
        self.addresses.insert(
            Target {
                service,
                port,
                protocol: Protocol::Tcp,
            },
            address,
        );
        Ok(())
    }

    /// What clients are told.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Where to connect to for `target`, if the catalog has it.
    #[must_use]
    pub fn dial_address(&self, target: &Target) -> Option<&DialAddress> {
        self.addresses.get(target)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CatalogFile {
    environment: Label,
    services: Vec<Spanned<ServiceEntry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceEntry {
    name: Label,
    namespace: Label,
    ports: Vec<Spanned<PortEntry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PortEntry {
    name: Option<Label>,
    port: Spanned<String>,
    protocol: Option<Spanned<Protocol>>,
    target: Spanned<String>,
}

impl CatalogFile {
    fn check(self, path: &Path) -> Result<StaticCatalog, Error> {
        let mut known = StaticCatalog::new(self.environment);
        for Spanned {
            value: entry,
            referenced,
            ..
        } in self.services
        {
            let id = ServiceId::new(entry.namespace, entry.name);
            if known.catalog.services.contains_key(&id) {
                return Err(at(
                    path,
                    referenced,
                    &service_catalog::Error::DuplicateService { service: id },
                ));
            }
            for Spanned {
                value: port,
                referenced,
                ..
            } in entry.ports
            {
                if let Some(Spanned {
                    value: Protocol::Udp,
                    referenced,
                    ..
                }) = port.protocol
                {
                    return Err(at(
                        path,
                        referenced,
                        &"protocol `udp` is not carried by this version, only `tcp` is",
                    ));
                }
                let Spanned {
                    value: text,
                    referenced: place,
                    ..
                } = &port.port;
                let number = port_number(text).ok_or_else(|| {
                    let text = text.escape_debug();
                    at(
                        path,
                        *place,
                        &format_args!("`{text}` is not a port: a number from 1 to 65535"),
                    )
                })?;
                let address = port
                    .target
                    .value
                    .parse()
                    .map_err(|error: Error| at(path, port.target.referenced, &error))?;
                known
                    .add(id.clone(), port.name, number, address)
                    .map_err(|error| at(path, referenced, &error))?;
            }
        }
        Ok(known)
    }
}

/// Decimal digits alone: what YAML has beside them (`0x50`, `+80`, `8_080`) is more often a slip than meant.
fn port_number(text: &str) -> Option<NonZeroU16> {
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())?
}

fn at(path: &Path, place: Location, message: &dyn fmt::Display) -> Error {
    Error::Catalog {
        path: path.to_owned(),
        line: place.line(),
        column: place.column(),
        message: message.to_string(),
    }
}

/// The reader's message without the place, which the error carries itself.
fn message_of(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    match error.location() {
        Some(place) => {
            let tail = format!(" at line {}, column {}", place.line(), place.column());
            text.strip_suffix(&tail).map(str::to_owned).unwrap_or(text)
        }
        None => text,
    }
}
