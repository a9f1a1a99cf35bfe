//! Reading what other programs mapped, to pin it here.
//!
//! [`parse`] tells the format by itself. What comes out is a list, as both programs may give one address to several names: ngrokd puts endpoints with
//! different ports at one address. [`Mapping::pin`] pins what can be pinned and tells what cannot, and why.

use std::net::{IpAddr, Ipv4Addr};

use serde::Deserialize;

use crate::{Allocator, Error, Key, Timestamp};

/// A name with the address that another program gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The name, as it stands in the file.
    pub key: Key,
    /// Its address.
    pub address: IpAddr,
}

impl Mapping {
    /// Pins the name to its address.
    ///
    /// # Errors
    /// As [`Allocator::pin`].
    pub fn pin(&self, allocator: &mut Allocator, now: Timestamp) -> Result<(), Error> {
        allocator.pin(&self.key, self.address, now)
    }
}

/// Reads ngrokd's `ip_mappings.json` or kubefwd's forwarding configuration, whichever it is.
///
/// # Errors
/// [`Error::BadImport`]
pub fn parse(text: &str) -> Result<Vec<Mapping>, Error> {
    if text.trim_start().starts_with('{') {
        ngrokd(text)
    } else {
        kubefwd(text)
    }
}

/// Reads ngrokd's `ip_mappings.json`: an object of host names and addresses, as its allocator writes it.
///
/// ```
/// let mappings = ipalloc::import::ngrokd(r#"{"api.company": "10.107.0.2", "db.company": "10.107.0.3"}"#)?;
/// assert_eq!(mappings[1].address.to_string(), "10.107.0.3");
/// # Ok::<(), ipalloc::Error>(())
/// ```
///
/// # Errors
/// [`Error::BadImport`]
pub fn ngrokd(text: &str) -> Result<Vec<Mapping>, Error> {
    const WHAT: &str = "a mapping file of ngrokd";
    let found: std::collections::BTreeMap<String, String> =
        serde_json::from_str(text).map_err(|error| Error::BadImport {
            what: WHAT,
            line: error.line(),
            why: error.to_string(),
        })?;
    found
        .iter()
        .map(|(name, address)| mapping(WHAT, name, address))
        .collect()
}

/// Reads kubefwd's forwarding configuration (`--fwd-conf`): YAML with `serviceConfigurations`, each a `name` and an `ip`. Its
/// `baseUnreservedIP` is where kubefwd begins to count and has no counterpart here.
///
/// A line of the form `name:ip`, as kubefwd's `--reserve` takes it, is read as well.
///
/// ```
/// let text = "baseUnreservedIP: 127.1.27.1\nserviceConfigurations:\n  - name: orders.backend\n    ip: 127.1.28.1\n";
/// let mappings = ipalloc::import::kubefwd(text)?;
/// assert_eq!((mappings[0].key.as_str(), mappings[0].address.to_string().as_str()), ("orders.backend", "127.1.28.1"));
/// # Ok::<(), ipalloc::Error>(())
/// ```
///
/// # Errors
/// [`Error::BadImport`]
pub fn kubefwd(text: &str) -> Result<Vec<Mapping>, Error> {
    const WHAT: &str = "a forwarding configuration of kubefwd";

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Configuration {
        #[serde(rename = "baseUnreservedIP")]
        _base: Option<String>,
        service_configurations: Vec<Service>,
    }

    #[derive(Deserialize)]
    struct Service {
        name: String,
        ip: String,
    }

    if let Some(reservations) = reservations(text) {
        return Ok(reservations);
    }
    let found: Configuration = serde_saphyr::from_str(text).map_err(|error| {
        let line = error.location().and_then(|at| usize::try_from(at.line()).ok());
        Error::BadImport {
            what: WHAT,
            line: line.unwrap_or(0),
            why: error.without_snippet().to_string(),
        }
    })?;
    found
        .service_configurations
        .iter()
        .map(|service| mapping(WHAT, &service.name, &service.ip))
        .collect()
}

/// Lines of `name:ip` and nothing else.
fn reservations(text: &str) -> Option<Vec<Mapping>> {
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let found: Option<Vec<_>> = lines
        .map(|line| {
            let (name, address) = line.split_once(':')?;
            let address: Ipv4Addr = address.parse().ok()?;
            Some(Mapping {
                key: Key::new(name).ok()?,
                address: address.into(),
            })
        })
        .collect();
    found.filter(|found| !found.is_empty())
}

fn mapping(what: &'static str, name: &str, address: &str) -> Result<Mapping, Error> {
    let bad = |why: String| Error::BadImport { what, line: 0, why };
    let key = Key::new(name).map_err(|error| bad(error.to_string()))?;
    let address = address
        .parse()
        .map_err(|_| bad(format!("{name} has {address:?}, which is no address")))?;
    Ok(Mapping { key, address })
}
