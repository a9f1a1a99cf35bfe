//! A journal: a header line, then a line a change.

use serde::Deserialize;

use super::checksum;
use crate::record::Record;

pub(super) const VERSION: u64 = 1;
/// A header has one length, so that it can be compared without being parsed.
pub(super) const HEADER_BYTES: u64 = 16 + 1 + 72 + 1;

/// What a journal holds.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) records: Vec<Record>,
    /// How many bytes of it are whole lines.
    pub(super) whole_bytes: u64,
    /// Whether it is that of an older snapshot, and means nothing any more.
    pub(super) outdated: bool,
}

/// Why a journal cannot be read.
#[derive(Debug)]
pub(super) enum Fault {
    Newer(u64),
    Damaged(String),
}

pub(super) fn header(generation: u64) -> String {
    let body =
        format!(r#"{{"format":"ipalloc-journal","version":{VERSION},"generation":"{generation:016x}"}}"#);
    format!("{} {body}\n", sum_text(body.as_bytes()))
}

/// The lines of these records.
pub(super) fn encode(records: &[Record]) -> String {
    let mut lines = String::new();
    for record in records {
        #[expect(clippy::expect_used, reason = "a record has only texts and numbers")]
        let body = serde_json::to_string(record).expect("a record is always JSON");
        lines.push_str(&sum_text(body.as_bytes()));
        lines.push(' ');
        lines.push_str(&body);
        lines.push('\n');
    }
    lines
}

/// A whole journal.
pub(super) fn decode(bytes: &[u8], generation: u64) -> Result<Tail, Fault> {
    let outdated = Tail {
        records: Vec::new(),
        whole_bytes: 0,
        outdated: true,
    };
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        // A header is renamed into its place as a whole.
        return Err(Fault::Damaged("its header is cut off".to_owned()));
    };
    let (first, rest) = bytes.split_at(end + 1);
    let found = read_header(first.trim_ascii_end())?;
    if found < generation {
        return Ok(outdated);
    }
    if found > generation {
        return Err(Fault::Damaged(format!(
            "it continues snapshot {found}, and there is snapshot {generation}"
        )));
    }
    let (records, whole) = decode_lines(rest)?;
    Ok(Tail {
        records,
        whole_bytes: (first.len() + whole) as u64,
        outdated: false,
    })
}

/// Lines behind the header, and how many bytes are whole lines.
pub(super) fn decode_lines(bytes: &[u8]) -> Result<(Vec<Record>, usize), Fault> {
    let whole = bytes
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |end| end + 1);
    let lines = bytes
        .get(..whole)
        .unwrap_or_default()
        .split_inclusive(|byte| *byte == b'\n');
    let decode = |(index, line): (usize, &[u8])| {
        let body = checked(line.strip_suffix(b"\n").unwrap_or(line));
        let body =
            body.ok_or_else(|| Fault::Damaged(format!("line {} does not fit its checksum", index + 2)))?;
        serde_json::from_slice(body).map_err(|error| Fault::Damaged(format!("line {}: {error}", index + 2)))
    };
    Ok((lines.enumerate().map(decode).collect::<Result<_, _>>()?, whole))
}

#[derive(Deserialize)]
struct Header<'a> {
    format: &'a str,
    version: u64,
    #[serde(default)]
    generation: Option<&'a str>,
}

fn read_header(line: &[u8]) -> Result<u64, Fault> {
    let damaged = || Fault::Damaged("its header is damaged".to_owned());
    // A newer version may sum otherwise, so its number is looked at first.
    let json = line
        .iter()
        .position(|byte| *byte == b'{')
        .and_then(|start| line.get(start..))
        .ok_or_else(damaged)?;
    let header: Header<'_> = serde_json::from_slice(json).map_err(|_| damaged())?;
    if header.format != "ipalloc-journal" {
        return Err(damaged());
    }
    if header.version > VERSION {
        return Err(Fault::Newer(header.version));
    }
    let generation = header
        .generation
        .and_then(|text| u64::from_str_radix(text, 16).ok())
        .ok_or_else(damaged)?;
    if header.version == VERSION && checked(line).is_some() {
        Ok(generation)
    } else {
        Err(damaged())
    }
}

fn sum_text(body: &[u8]) -> String {
    format!("{:016x}", checksum(body))
}

/// What stands behind a checksum, if it fits.
fn checked(line: &[u8]) -> Option<&[u8]> {
    let (sum, body) = line.split_at_checked(16)?;
    let body = body.strip_prefix(b" ")?;
    (sum == sum_text(body).as_bytes()).then_some(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_has_its_length() {
        for generation in [0, 1, u64::MAX] {
            assert_eq!(header(generation).len() as u64, HEADER_BYTES);
            assert_eq!(
                decode(header(generation).as_bytes(), generation)
                    .unwrap()
                    .whole_bytes,
                HEADER_BYTES
            );
        }
    }
}
