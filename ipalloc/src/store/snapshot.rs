//! A snapshot: everything that an allocator holds, as one JSON document.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::num::NonZeroU16;

use serde::Deserialize;

use super::checksum;
use super::journal::Fault;
use crate::allocator::{Hold, Kind};
use crate::{Allocator, Key, Pool, Timestamp};

pub(super) const VERSION: u64 = 1;
/// There is always one after it.
const LAST_GENERATION: u64 = u64::MAX / 2;
const SUM: &str = "\"checksum\":\"";
/// The checksum, and what follows it.
const END_BYTES: usize = SUM.len() + 16 + "\"}\n".len();

/// Why a snapshot cannot be taken.
#[derive(Debug)]
pub(super) enum Refusal {
    Newer(u64),
    OtherPool(String),
    Damaged(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<'a> {
    #[serde(rename = "format")]
    _format: &'a str,
    #[serde(rename = "version")]
    _version: u64,
    generation: u64,
    prefixes: Vec<Cow<'a, str>>,
    #[serde(borrow)]
    leases: Vec<Row<'a>>,
    #[serde(borrow)]
    resting: Vec<Row<'a>>,
    pins: Vec<(Key, IpAddr)>,
    reserved: Vec<(IpAddr, IpAddr)>,
    ports: Vec<(IpAddr, NonZeroU16, Key, u32, Timestamp)>,
    #[serde(rename = "checksum")]
    _checksum: &'a str,
}

/// Key, address, since when; and the word `ports` where the lease lasts as long as its ports.
#[derive(Deserialize)]
struct Row<'a>(
    #[serde(borrow)] &'a str,
    &'a str,
    Timestamp,
    #[serde(default)] Option<Cow<'a, str>>,
);

#[derive(Deserialize)]
struct Head {
    format: String,
    version: u64,
}

fn title() -> String {
    format!("{{\"format\":\"ipalloc-snapshot\",\"version\":{VERSION},")
}

/// The document of an allocator. A lease takes a line.
pub(super) fn encode(allocator: &Allocator, generation: u64) -> Vec<u8> {
    let mut text = title();
    text.reserve(allocator.entry_count() * 64);
    #[expect(clippy::expect_used, reason = "a string takes whatever is written to it")]
    write_document(&mut text, allocator, generation).expect("writing to a string does not fail");
    text.into_bytes()
}

/// What stands behind the title. Keys and addresses need no escapes in JSON.
fn write_document(text: &mut String, allocator: &Allocator, generation: u64) -> fmt::Result {
    let prefixes = allocator.pool().prefix_texts().join("\",\"");
    write!(
        text,
        "\n\"generation\":{generation},\n\"prefixes\":[\"{prefixes}\"],\n"
    )?;
    let family = allocator.pool().family();
    write_rows(text, "leases", allocator.live(), |text, entry| {
        let ports = if entry.kind == Kind::Ports {
            ",\"ports\""
        } else {
            ""
        };
        write!(
            text,
            "[\"{}\",\"{}\",{}{ports}]",
            entry.key.as_str(),
            family.address(entry.number()),
            entry.at
        )
    })?;
    write_rows(text, "resting", allocator.at_rest(), |text, entry| {
        write!(
            text,
            "[\"{}\",\"{}\",{}]",
            entry.key.as_str(),
            family.address(entry.number()),
            entry.at
        )
    })?;
    write_rows(text, "pins", allocator.pins(), |text, (key, address)| {
        write!(text, "[\"{key}\",\"{address}\"]")
    })?;
    write_rows(text, "reserved", allocator.reservations(), |text, range| {
        write!(text, "[\"{}\",\"{}\"]", range.first(), range.last())
    })?;
    write_rows(
        text,
        "ports",
        allocator.all_ports(),
        |text, (address, port, hold)| {
            write!(
                text,
                "[\"{address}\",{port},\"{}\",{},{}]",
                hold.key, hold.count, hold.at
            )
        },
    )?;
    let sum = checksum(text.as_bytes());
    writeln!(text, "{SUM}{sum:016x}\"}}")
}

/// Bytes between a title and their true checksum.
pub(super) fn with_title_and_sum(bytes: &[u8]) -> Vec<u8> {
    let mut text = [title().as_bytes(), bytes].concat();
    let sum = checksum(&text);
    text.extend(format!("{SUM}{sum:016x}\"}}\n").bytes());
    text
}

fn write_rows<T>(
    text: &mut String,
    name: &str,
    rows: impl Iterator<Item = T>,
    mut write: impl FnMut(&mut String, T) -> fmt::Result,
) -> fmt::Result {
    write!(text, "\"{name}\":[")?;
    for (index, row) in rows.enumerate() {
        text.push_str(if index == 0 { "\n" } else { ",\n" });
        write(text, row)?;
    }
    text.push_str("],\n");
    Ok(())
}

/// The allocator of a document, and its generation.
pub(super) fn decode(bytes: &[u8], pool: Pool) -> Result<(Allocator, u64), Refusal> {
    let damaged = |why: &str| Refusal::Damaged(why.to_owned());
    let text = str::from_utf8(bytes).map_err(|_| damaged("it is not UTF-8"))?;
    if !text.starts_with(&title()) {
        // A newer version may be anything but for these two fields.
        return Err(match serde_json::from_str::<Head>(text) {
            Ok(head) if head.format == "ipalloc-snapshot" && head.version > VERSION => {
                Refusal::Newer(head.version)
            }
            _ => damaged("it does not begin as a snapshot does"),
        });
    }
    let sum_at = text
        .len()
        .checked_sub(END_BYTES)
        .filter(|at| text.is_char_boundary(*at));
    let (body, end) = text.split_at(sum_at.ok_or_else(|| damaged("it is cut off"))?);
    if end != format!("{SUM}{:016x}\"}}\n", checksum(body.as_bytes())) {
        return Err(damaged("it does not fit its checksum"));
    }
    let document: Document<'_> = serde_json::from_str(text).map_err(|error| damaged(&error.to_string()))?;
    if document.prefixes != pool.prefix_texts() {
        return Err(Refusal::OtherPool(document.prefixes.join(", ")));
    }
    let generation = document.generation;
    if generation > LAST_GENERATION {
        return Err(damaged("its generation is none that was ever reached"));
    }
    let mut allocator = Allocator::new(pool);
    load(&mut allocator, document).map_err(Refusal::Damaged)?;
    Ok((allocator, generation))
}

fn load(allocator: &mut Allocator, document: Document<'_>) -> Result<(), String> {
    allocator.reserve_room(document.leases.len() + document.resting.len());
    let parse = |row: &Row<'_>| -> Result<(Key, IpAddr), String> {
        let key = Key::new(row.0).map_err(|error| error.to_string())?;
        let address = row.1.parse().map_err(|_| format!("{:?} is no address", row.1))?;
        Ok((key, address))
    };
    for row in &document.leases {
        let (key, address) = parse(row)?;
        let whole = match row.3.as_deref() {
            None => true,
            Some("ports") => false,
            Some(other) => return Err(format!("{other:?} is no kind of lease")),
        };
        allocator.load_lease(&key, address, row.2, whole)?;
    }
    for row in &document.resting {
        let (key, address) = parse(row)?;
        allocator.replay_rest(&key, address, row.2)?;
    }
    for (key, address) in document.pins {
        allocator.replay_pin(&key, address)?;
    }
    for (first, last) in document.reserved {
        let range = crate::AddressRange::new(first, last).map_err(|error| error.to_string())?;
        allocator.put_reservation(range);
    }
    for (address, port, key, count, at) in document.ports {
        allocator.replay_port(address, port, &Hold { key, count, at })?;
    }
    allocator.unbacked_share().map_or(Ok(()), |key| {
        Err(format!("{key} shares its address without a port of its own"))
    })
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Newer(version) => Self::Newer(version),
            Fault::Damaged(why) => Self::Damaged(why),
        }
    }
}
