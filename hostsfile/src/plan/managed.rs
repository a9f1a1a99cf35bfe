//! Lines that carry a marker as their whole comment.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use crate::document::Inside;
use crate::edit::{Edit, Options};
use crate::entry::Entry;
use crate::layout::MANAGED_STYLE;
use crate::line::{self, LineKind};
use crate::name::{HostName, Marker};
use crate::scan::{self, Markers};

/// The lines of one marker.
pub(super) struct ManagedWork {
    pub(super) existing: Vec<Range<usize>>,
    /// The lines they will be, without line ends; none if they are removed.
    pub(super) wanted: Vec<String>,
}

/// A tab after the marker of a line records that the text before the line had no final line end, so the line end in front of it
/// belongs to the line and is removed with it. After the comment no resolver sees the tab, and other tools trim it.
pub(super) const NO_EOL: u8 = b'\t';

/// Finds the managed lines for all markers of a batch, in one pass over the lines with a `#`.
pub(super) fn works(bytes: &[u8], markers: &Markers<'_>, edits: &[Edit]) -> BTreeMap<Marker, ManagedWork> {
    let mut works = BTreeMap::new();
    for edit in edits {
        if let Edit::SetManaged { marker, .. } | Edit::RemoveManaged(marker) = edit {
            works.insert(
                marker.clone(),
                ManagedWork {
                    existing: Vec::new(),
                    wanted: Vec::new(),
                },
            );
        }
    }
    if works.is_empty() {
        return works;
    }
    let mut by_comment: HashMap<&[u8], &mut ManagedWork> = works
        .iter_mut()
        .map(|(marker, work)| (marker.as_str().as_bytes(), work))
        .collect();
    let blocks = Inside::new(markers.spans().into_iter().map(|s| s.range));
    let mut blocks = blocks.walk();
    let mut at = scan::body_start(bytes);
    while let Some(sign) = memchr::memchr(b'#', &bytes[at..]).map(|offset| at + offset) {
        let start = memchr::memrchr(b'\n', &bytes[at..sign]).map_or(at, |offset| at + offset + 1);
        let end = memchr::memchr(b'\n', &bytes[sign..]).map_or(bytes.len(), |offset| sign + offset + 1);
        if let LineKind::Entry(entry) = line::read(0, &bytes[start..end])
            && let Some(work) = by_comment.get_mut(entry.comment)
            && !blocks.holds(start)
        {
            work.existing.push(start..end);
        }
        at = end;
    }
    works
}

/// The lines for these entries: grouped by address, with the names sorted and each once.
pub(super) fn render(marker: &Marker, entries: &[Entry], options: &Options) -> Vec<String> {
    let mut by_place: BTreeMap<Entry, BTreeSet<&HostName>> = BTreeMap::new();
    for entry in entries {
        let place = Entry {
            names: Vec::new(),
            comment: Some(marker.clone()),
            ..entry.clone()
        };
        by_place.entry(place).or_default().extend(&entry.names);
    }
    by_place
        .iter()
        .flat_map(|(place, names)| {
            options
                .layout
                .lines(place, names.iter().map(|n| n.as_str()), MANAGED_STYLE)
        })
        .collect()
}

/// Whether a line means the same as a rendered one, whatever its blanks.
pub(super) fn same(existing: &[u8], rendered: &str) -> bool {
    match (line::read(0, existing), line::read(0, rendered.as_bytes())) {
        (LineKind::Entry(a), LineKind::Entry(b)) => a == b,
        _ => false,
    }
}

/// Whether the line end in front of the line belongs to the line.
pub(super) fn owns_line_end(line: &[u8]) -> bool {
    scan::chomp(line).last() == Some(&NO_EOL)
}
