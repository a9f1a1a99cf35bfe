//! The names that `devbox dns serve` answers, in a file that is followed.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nameserver::{Data, Name, Record};
use serde::Deserialize;

use crate::failure::{Failure, code, quoted};

/// How often the file is looked at: it may be a mounted one, of which no system tells a container anything.
const INTERVAL: Duration = Duration::from_millis(500);

/// A file as it was read last.
#[derive(Debug)]
pub(crate) struct RegistryFile {
    path: PathBuf,
    stamp: Option<Stamp>,
    records: Vec<Record>,
}

/// What changes when a file is written or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    records: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    names: Vec<String>,
    #[serde(default)]
    addresses: Vec<IpAddr>,
    #[serde(default)]
    srv: Vec<Srv>,
    /// Each string is a record.
    #[serde(default)]
    txt: Vec<String>,
    /// As in a zone file.
    #[serde(default)]
    https: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Srv {
    #[serde(default)]
    priority: u16,
    #[serde(default)]
    weight: u16,
    port: u16,
    target: String,
}

impl RegistryFile {
    pub(crate) async fn open(path: &Path) -> Result<Self, Failure> {
        Ok(Self {
            stamp: stamp(path).await,
            records: read(path)?,
            path: path.to_owned(),
        })
    }

    pub(crate) fn records(&self) -> &[Record] {
        &self.records
    }

    /// Waits until the file is another one and has been read.
    ///
    /// # Errors
    /// It cannot be read, or means nothing; the records are as before. The same file is complained of once.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn changed(&mut self) -> Result<(), Failure> {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let stamp = stamp(&self.path).await;
            if stamp != self.stamp {
                self.stamp = stamp;
                self.records = read(&self.path)?;
                return Ok(());
            }
        }
    }
}

async fn stamp(path: &Path) -> Option<Stamp> {
    let found = tokio::fs::metadata(path).await.ok()?;
    Some(Stamp {
        modified: found.modified().ok(),
        bytes: found.len(),
    })
}

/// Reads a file.
pub(crate) fn read(path: &Path) -> Result<Vec<Record>, Failure> {
    let shown = quoted(path);
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::new(code::FAILED, format!("cannot read {shown}: {error}")))?;
    parse(&text).map_err(|why| Failure::new(code::FAILED, format!("{shown}: {why}")))
}

fn parse(text: &str) -> Result<Vec<Record>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let file: File = serde_saphyr::from_str(text).map_err(|error| error.without_snippet().to_string())?;
    file.records.into_iter().map(record).collect()
}

fn record(entry: Entry) -> Result<Record, String> {
    let name = |text: &String| text.parse::<Name>().map_err(|error| error.to_string());
    let mut data: Vec<Data> = entry.addresses.into_iter().map(Data::from).collect();
    for srv in &entry.srv {
        data.push(Data::srv(srv.priority, srv.weight, srv.port, &name(&srv.target)?));
    }
    for text in &entry.txt {
        data.push(Data::txt([text]).map_err(|error| error.to_string())?);
    }
    for text in &entry.https {
        data.push(Data::https(text).map_err(|error| error.to_string())?);
    }
    Ok(Record {
        names: entry.names.iter().map(name).collect::<Result<_, _>>()?,
        data,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_addresses_services_and_texts() {
        let text = "records:\n- names: [orders.backend, orders]\n  addresses: [127.77.0.2, 'fd00::2']\n\
                    - names: [_pg._tcp.orders]\n  srv: [{port: 5432, target: orders.backend}]\n  txt: [version=3]\n\
                    - names: [web]\n  https: ['1 . alpn=h2,http/1.1']\n";
        let records = parse(text).unwrap();
        assert_eq!(records[0].names.len(), 2);
        assert_eq!(records[0].data.len(), 2);
        let types: Vec<_> = records[1].data.iter().map(Data::rtype).collect();
        assert_eq!(types, [33, 16]);
        assert_eq!(records[2].data[0].rtype(), 65);
        assert!(parse("").unwrap().is_empty());
    }

    #[test]
    fn mistakes_are_named() {
        assert!(parse("records: [{names: [a..b]}]").unwrap_err().contains("a..b"));
        assert!(parse("records: [{name: a}]").unwrap_err().contains("name"));
        assert!(parse("records: [{names: [a], addresses: [10.0.0]}]").is_err());
        let https = parse("records: [{names: [a], https: ['1 . port=web']}]").unwrap_err();
        assert!(
            https.contains("1 . port=web") && https.contains("PRIORITY"),
            "{https}"
        );
    }
}
