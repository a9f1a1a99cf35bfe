//! How entries become lines.

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
    pub const GROUPED: Layout = Layout { names_per_line: MAX_NAMES };
    /// Each name on a line of its own, which every resolver reads alike.
    pub const ONE_PER_LINE: Layout = Layout { names_per_line: 1 };

    /// Up to this many names a line; at least one, at most nine.
    #[must_use]
    pub fn names_per_line(names: usize) -> Self {
        Layout { names_per_line: names.clamp(1, MAX_NAMES) }
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
    pub(crate) fn lines<'n>(self, place: &Entry, names: impl Iterator<Item = &'n str>, style: Style<'_>) -> Vec<String> {
        let mut head = place.address.to_string();
        if let Some(zone) = &place.zone {
            head.push('%');
            head.push_str(zone.as_str());
        }
        let tail = place.comment.as_ref().map(|c| format!("{}# {c}", style.comment_gap)).unwrap_or_default();
        let room = MAX_LINE - tail.len();
        let mut lines = Vec::new();
        let mut line = String::new();
        let mut count = 0;
        for name in names {
            if count > 0 && (count == self.names_per_line || line.len() + 1 + name.len() > room) {
                line.push_str(&tail);
                lines.push(std::mem::take(&mut line));
                count = 0;
            }
            if count == 0 {
                line.push_str(&head);
                line.push_str(style.address_gap);
            } else {
                line.push(' ');
            }
            line.push_str(name);
            count += 1;
        }
        if count > 0 {
            line.push_str(&tail);
            lines.push(line);
        }
        lines
    }
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

pub(crate) const BLOCK_STYLE: Style<'static> = Style { address_gap: " ", comment_gap: " " };
pub(crate) const MANAGED_STYLE: Style<'static> = Style { address_gap: "    ", comment_gap: "    " };

const MAX_NAMES: usize = 9;
/// 510, less the longest line end, the comment sign of a disabled block and the tab of a managed line.
const MAX_LINE: usize = 510 - 2 - 2 - 1;
