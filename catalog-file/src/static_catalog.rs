use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::path::Path;

use serde::Deserialize;
use serde_saphyr::{Location, Spanned};
use service_catalog::{Catalog, Label, Port, Protocol, Service, ServiceId, Target};

use crate::{DialAddress, Error};

/// A catalog with the address to dial for each port. It is read from YAML, or put together in code.
///
/// ```yaml
/// environment: dev
/// services:
///   - name: orders
///     namespace: backend
///     aliases: [db]
///     ports: [{name: pg, port: 5432, protocol: tcp, target: "127.0.0.1:15432"}]
///   - name: orders
///     namespace: backend
///     member: orders-0
///     ports: [{port: 5432, target: "127.0.0.1:15433"}]
///   - name: orders-old
///     namespace: backend
///     alias_of: orders.backend
/// ```
///
/// * `ports`: each has a `port` and a `target` (`host:port`, what is dialed), and perhaps a `name`; `protocol` is `tcp`
///   unless it is said to be `udp`. `ports: []` is a service with a name and an address and nothing to connect to.
/// * `aliases`: further names in the service's own namespace.
/// * `member`: this is one member of the service `name.namespace`, with a name and an address of its own.
/// * `alias_of`: another name for a service of this file, which must not be an alias itself; in place of `ports`.
/// * `pin`: the address that the service is to have on every machine, of the machine's own pool.
/// * `order`: of services that would have the same name, the one with the lowest has it.
///
/// Unknown keys are errors.
///
/// ```
/// use catalog_file::StaticCatalog;
///
/// let text = "environment: dev\nservices:\n  - name: orders\n    namespace: backend\n    ports:\n      - {port: 5432, target: \"127.0.0.1:15432\"}\n";
/// let catalog = StaticCatalog::parse(text, "catalog.yaml")?;
/// let target = "tcp/backend/orders/5432".parse()?;
/// assert_eq!(catalog.dial_address(&target).unwrap().to_string(), "127.0.0.1:15432");
/// # Ok::<(), catalog_file::Error>(())
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
    /// port or an address to dial that is none, an unknown protocol, a service or port that is there twice,
    /// an alias of something that is not there.
    pub fn parse(text: &str, path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let file: CatalogFile = serde_saphyr::from_str(text).map_err(|error| {
            let place = error.location().unwrap_or(Location::UNKNOWN);
            at(path, place, &message_of(error.without_snippet()))
        })?;
        file.check(path)
    }

    /// Takes a catalog from elsewhere whose ports say in their [`target`](Port::target) what is dialed for them.
    ///
    /// # Errors
    /// [`Error::Port`] for a port without a target or with one that is not `host:port`.
    pub fn from_targets(catalog: Catalog) -> Result<Self, Error> {
        let addresses = catalog.services.values().map(addresses_of);
        let addresses = addresses.collect::<Result<Vec<_>, Error>>()?;
        Ok(Self {
            catalog,
            addresses: addresses.into_iter().flatten().collect(),
        })
    }

    /// Puts these services, whose ports say what is dialed as in [`from_targets`](Self::from_targets), in place of those of their names,
    /// and takes others away. Answers those that are other than they were, each with whether it was there before.
    ///
    /// # Errors
    /// As [`from_targets`](Self::from_targets); then nothing changes.
    pub fn change(
        &mut self,
        upserted: Vec<Service>,
        removed: &[ServiceId],
    ) -> Result<BTreeMap<ServiceId, bool>, Error> {
        let addresses = upserted.iter().map(addresses_of);
        let addresses = addresses.collect::<Result<Vec<_>, Error>>()?;
        let mut changed = BTreeMap::new();
        for id in removed {
            if self.take(id).is_some() {
                changed.insert(id.clone(), true);
            }
        }
        for (service, addresses) in upserted.into_iter().zip(addresses) {
            let id = service.id.clone();
            let former = self.take(&id);
            if former.as_ref() != Some(&service) {
                changed.entry(id.clone()).or_insert(former.is_some());
            }
            self.addresses.extend(addresses);
            self.catalog.services.insert(id, service);
        }
        Ok(changed)
    }

    /// Takes a service away, and what is dialed for it.
    fn take(&mut self, id: &ServiceId) -> Option<Service> {
        let service = self.catalog.services.remove(id)?;
        for port in &service.ports {
            self.addresses.remove(&target_of(&service, port));
        }
        Some(service)
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
        self.add_port(service, name, (port, Protocol::Tcp), address)
    }

    /// As [`add`](Self::add), for a port of either protocol.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn add_port(
        &mut self,
        service: ServiceId,
        name: Option<Label>,
        (port, protocol): (NonZeroU16, Protocol),
        address: DialAddress,
    ) -> Result<(), Error> {
        let entry = Port {
            name,
            port,
            protocol,
            target: Some(address.to_string()),
        };
        let known = self.catalog.services.get(&service).cloned();
        let mut whole = match known {
            Some(known) => known,
            None => Service::new(service.clone(), Vec::new())?,
        };
        whole.ports.push(entry);
        whole.check()?;
        self.catalog.services.insert(service.clone(), whole);
        self.addresses.insert(
            Target {
                service,
                port,
                protocol,
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

fn target_of(service: &Service, port: &Port) -> Target {
    Target {
        service: service.id.clone(),
        port: port.port,
        protocol: port.protocol,
    }
}

/// What is dialed for a service's ports, as they say it.
fn addresses_of(service: &Service) -> Result<Vec<(Target, DialAddress)>, Error> {
    let address = |port: &Port| -> Result<(Target, DialAddress), Error> {
        let target = target_of(service, port);
        let wrong = |fault: &dyn fmt::Display| Error::Port {
            service: target.service.clone(),
            port: target.port,
            protocol: target.protocol,
            fault: fault.to_string(),
        };
        let text = port.target.as_deref();
        let text = text.ok_or_else(|| wrong(&"it does not say what to dial"))?;
        let address = text.parse().map_err(|error: Error| wrong(&error))?;
        Ok((target, address))
    };
    service.ports.iter().map(address).collect()
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
    member: Option<Label>,
    #[serde(default)]
    aliases: Vec<Label>,
    alias_of: Option<Spanned<ServiceId>>,
    pin: Option<IpAddr>,
    order: Option<u16>,
    ports: Option<Vec<Spanned<PortEntry>>>,
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
        let mut aliases = Vec::new();
        for Spanned {
            value: entry,
            referenced: place,
            ..
        } in self.services
        {
            let mut id = ServiceId::new(entry.namespace, entry.name);
            if let Some(member) = entry.member {
                id = id.with_member(member);
            }
            if known.catalog.services.contains_key(&id) {
                let twice = service_catalog::Error::DuplicateService { service: id };
                return Err(at(path, place, &twice));
            }
            let service = Service {
                aliases: entry.aliases,
                alias_of: entry.alias_of.as_ref().map(|of| of.value.clone()),
                pin: entry.pin,
                order: entry.order,
                ..Service::new(id.clone(), Vec::new()).map_err(|error| at(path, place, &error))?
            };
            service.check().map_err(|error| at(path, place, &error))?;
            known.catalog.services.insert(id.clone(), service);
            match (entry.ports, entry.alias_of) {
                (None, None) => {
                    return Err(at(
                        path,
                        place,
                        &"missing field `ports`; a service without any has `ports: []`",
                    ));
                }
                (ports, of) => {
                    for port in ports.unwrap_or_default() {
                        add_port(&mut known, &id, port, path)?;
                    }
                    aliases.extend(of);
                }
            }
        }
        // The services may stand in any order.
        for Spanned {
            value: of,
            referenced: place,
            ..
        } in aliases
        {
            match known.catalog.services.get(&of) {
                Some(service) if service.alias_of.is_none() => {}
                Some(_) => return Err(at(path, place, &format_args!("`{of}` is an alias itself"))),
                None => return Err(at(path, place, &format_args!("there is no service `{of}`"))),
            }
        }
        Ok(known)
    }
}

fn add_port(
    known: &mut StaticCatalog,
    id: &ServiceId,
    port: Spanned<PortEntry>,
    path: &Path,
) -> Result<(), Error> {
    let Spanned {
        value: port,
        referenced,
        ..
    } = port;
    let protocol = port.protocol.map_or(Protocol::Tcp, |protocol| protocol.value);
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
        .add_port(id.clone(), port.name, (number, protocol), address)
        .map_err(|error| at(path, referenced, &error))
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
