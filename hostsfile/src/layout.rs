//! How entries become lines.

use std::io::Write as _;

use crate::entry::Entry;
use crate::lint::Resolver;

/// How many names share a line.
///
/// The default puts up to nine on a line (Windows reads no more), or one on macOS, whose aliases have a quirk of their
/// own. No line is ever longer than 510 bytes with its line end, whatever the layout (musl reads 511).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    names_per_line: usize,
}

impl Layout {
    /// Up to nine names a line.
    pub const GROUPED: Layout = Layout {
        names_per_line: MAX_NAMES,
    };
    /// Each name on a line of its own, which every resolver reads alike.
    pub const ONE_PER_LINE: Layout = Layout { names_per_line: 1 };

    /// Up to this many names a line; at least one, at most nine.
    #[must_use]
    pub fn names_per_line(names: usize) -> Self {
        Layout {
            names_per_line: names.clamp(1, MAX_NAMES),
        }
    }

    /// What suits a resolver.
    #[must_use]
    pub fn for_resolver(resolver: Resolver) -> Self {
        match resolver {
            Resolver::MacOs => Layout::ONE_PER_LINE,
            _ => Layout::GROUPED,
        }
    }

    /// The most names on a line.
    #[must_use]
    pub fn max_names(self) -> usize {
        self.names_per_line
    }

    /// Splits an entry's names (given without doubles) into lines, without line ends.
    pub(crate) fn lines<'n>(
        self,
        place: &Entry,
        names: impl Iterator<Item = &'n str>,
        style: Style<'_>,
    ) -> Vec<String> {
        let mut text = Vec::new();
        self.write(&mut text, place, names, style, "", "\n");
        // What is written is names, addresses and comments, which are ASCII.
        text.split(|b| *b == b'\n')
            .filter(|l| !l.is_empty())
            .map(|l| String::from_utf8_lossy(l).into_owned())
            .collect()
    }

    /// Writes an entry's names (given without doubles) as lines that begin and end with these texts.
    pub(crate) fn write<'n>(
        self,
        into: &mut Vec<u8>,
        place: &Entry,
        names: impl Iterator<Item = &'n str>,
        style: Style<'_>,
        before: &str,
        after: &str,
    ) {
        let comment = place.comment.as_ref().map_or("", |c| c.as_str());
        let tail = if comment.is_empty() {
            0
        } else {
            style.comment_gap.len() + "# ".len() + comment.len()
        };
        let finish = |into: &mut Vec<u8>| {
            if tail > 0 {
                for part in [style.comment_gap, "# ", comment] {
                    into.extend_from_slice(part.as_bytes());
                }
            }
            into.extend_from_slice(after.as_bytes());
        };
        let mut start = into.len();
        let mut count = 0;
        for name in names {
            if count > 0
                && (count == self.names_per_line || into.len() - start + 1 + name.len() + tail > MAX_LINE)
            {
                finish(into);
                count = 0;
            }
            if count == 0 {
                into.extend_from_slice(before.as_bytes());
                start = into.len();
                write_address(into, place);
                into.extend_from_slice(style.address_gap.as_bytes());
            } else {
                into.push(b' ');
            }
            into.extend_from_slice(name.as_bytes());
            count += 1;
        }
        if count > 0 {
            finish(into);
        }
    }
}

fn write_address(into: &mut Vec<u8>, place: &Entry) {
    // Writing to memory does not fail.
    let _infallible = match &place.zone {
        Some(zone) => write!(into, "{}%{zone}", place.address),
        None => write!(into, "{}", place.address),
    };
}

impl Default for Layout {
    /// What suits the resolver of the system this runs on.
    fn default() -> Self {
        Layout::for_resolver(Resolver::platform())
    }
}

/// The gaps between a line's parts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style<'a> {
    pub(crate) address_gap: &'a str,
    pub(crate) comment_gap: &'a str,
}

pub(crate) const BLOCK_STYLE: Style<'static> = Style {
    address_gap: " ",
    comment_gap: " ",
};
pub(crate) const MANAGED_STYLE: Style<'static> = Style {
    address_gap: "    ",
    comment_gap: "    ",
};

const MAX_NAMES: usize = 9;
/// 510, less the longest line end, the comment sign of a disabled block and the tab of a managed line.
const MAX_LINE: usize = 510 - 2 - 2 - 1;
