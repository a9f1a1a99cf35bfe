//! How entries are laid out on lines.

use std::io::Write as _;

use crate::entry::Entry;
use crate::lint::Resolver;
use crate::seal::Seal;

/// How many names share a line.
///
/// The default is up to nine per line (Windows reads no more), or one on macOS, whose treatment of aliases is different. With
/// any layout, no line is longer than 510 bytes including its line end (musl reads 511).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    names_per_line: usize,
}

impl Layout {
    /// Up to nine names per line.
    pub const GROUPED: Layout = Layout {
        names_per_line: MAX_NAMES,
    };
    /// Each name on its own line, which every resolver reads alike.
    pub const ONE_PER_LINE: Layout = Layout { names_per_line: 1 };

    /// Up to this many names per line; clamped to between one and nine.
    #[must_use]
    pub fn names_per_line(names: usize) -> Self {
        Layout {
            names_per_line: names.clamp(1, MAX_NAMES),
        }
    }

    /// The layout that suits a resolver.
    #[must_use]
    pub fn for_resolver(resolver: Resolver) -> Self {
        match resolver {
            Resolver::MacOs => Layout::ONE_PER_LINE,
            _ => Layout::GROUPED,
        }
    }

    /// The largest number of names on a line.
    #[must_use]
    pub fn max_names(self) -> usize {
        self.names_per_line
    }

    /// Splits an entry's names (given without duplicates) into lines, without line ends.
    pub(crate) fn lines<'n>(
        self,
        place: &Entry,
        names: impl Iterator<Item = &'n str>,
        style: Style<'_>,
    ) -> Vec<String> {
        let mut text = Vec::new();
        self.write(&mut text, place, names, style, "", "\n");
        // Names, addresses and comments are all ASCII.
        text.split(|b| *b == b'\n')
            .filter(|l| !l.is_empty())
            .map(|l| String::from_utf8_lossy(l).into_owned())
            .collect()
    }

    /// Writes an entry's names (given without duplicates) as lines that begin and end with these texts.
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
        let tail = match (comment.len(), style.seal.map_or(0, Seal::len)) {
            (0, 0) => 0,
            (0, only) | (only, 0) => style.comment_gap.len() + "# ".len() + only,
            (comment, seal) => style.comment_gap.len() + "# ".len() + comment + " # ".len() + seal,
        };
        let finish = |into: &mut Vec<u8>, start: usize| {
            if !comment.is_empty() {
                for part in [style.comment_gap, "# ", comment] {
                    into.extend_from_slice(part.as_bytes());
                }
            }
            if let Some(seal) = style.seal {
                for part in [style.comment_gap, "# "] {
                    into.extend_from_slice(part.as_bytes());
                }
                seal.write(into, start);
            }
            into.extend_from_slice(after.as_bytes());
        };
        let mut start = into.len();
        let mut count = 0;
        for name in names {
            if count > 0
                && (count == self.names_per_line || into.len() - start + 1 + name.len() + tail > MAX_LINE)
            {
                finish(into, start);
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
            finish(into, start);
        }
    }
}

fn write_address(into: &mut Vec<u8>, place: &Entry) {
    // Writing to memory cannot fail.
    let _infallible = match &place.zone {
        Some(zone) => write!(into, "{}%{zone}", place.address),
        None => write!(into, "{}", place.address),
    };
}

impl Default for Layout {
    /// The layout that suits the resolver of the system this runs on.
    fn default() -> Self {
        Layout::for_resolver(Resolver::platform())
    }
}

/// The blanks between the parts of a line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style<'a> {
    pub(crate) address_gap: &'a str,
    pub(crate) comment_gap: &'a str,
    /// What the lines are sealed with, if they are.
    pub(crate) seal: Option<&'a Seal>,
}

pub(crate) const BLOCK_STYLE: Style<'static> = Style {
    address_gap: " ",
    comment_gap: " ",
    seal: None,
};
pub(crate) const MANAGED_STYLE: Style<'static> = Style {
    address_gap: "    ",
    comment_gap: "    ",
    seal: None,
};

const MAX_NAMES: usize = 9;
/// 510 bytes, minus the longest line end, the comment sign of a disabled block and the tab of a managed line.
const MAX_LINE: usize = 510 - 2 - 2 - 1;
