//! A block that is being edited.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

use crate::document::Inside;
use crate::edit::{Options, Which};
use crate::entry::{Block, Entry};
use crate::layout::{BLOCK_STYLE, Style};
use crate::line::{self, LineKind};
use crate::name::{Comment, HostName, Owner, Tag};
use crate::scan::{LineEnding, MarkerKind, Markers, Span, chomp, trim_end};
use crate::seal::{self, Seal};

/// A block that edits refer to: where it is, and what it will contain.
pub(super) struct BlockWork<'a> {
    pub(super) tag: Tag,
    /// Its range in the old bytes.
    pub(super) span: Option<Span<'a>>,
    /// Other ranges that are removed with it: stray markers and duplicates, when it is repaired.
    pub(super) extra: Vec<Range<usize>>,
    gone: bool,
    /// Its lines, once an edit has needed them; until then it is kept as it is.
    items: Option<Items<'a>>,
    owner: Option<Owner>,
    seal: Option<Seal>,
    off: bool,
    other: Vec<&'a str>,
}

impl<'a> BlockWork<'a> {
    pub(super) fn new(tag: Tag, span: Option<Span<'a>>) -> Self {
        BlockWork {
            tag,
            extra: Vec::new(),
            gone: span.is_none(),
            items: None,
            owner: span.as_ref().and_then(Span::owner),
            seal: None,
            off: span.as_ref().is_some_and(|s| s.attributes.off),
            other: span
                .as_ref()
                .map(|s| s.attributes.other.clone())
                .unwrap_or_default(),
            span,
        }
    }

    pub(super) fn exists(&self) -> bool {
        !self.gone
    }

    /// `leave_out` are names that must not be written.
    pub(super) fn set(&mut self, block: &Block, leave_out: &HashSet<HostName>) {
        let mut items = Items::default();
        for entry in &block.entries {
            items.push_entry(entry, leave_out);
        }
        if block.owner.is_some() {
            self.owner.clone_from(&block.owner);
        }
        self.seal = block.sealed.then(|| Seal::of(&self.tag));
        self.off = false;
        self.gone = items.list.is_empty();
        self.items = Some(items);
    }

    pub(super) fn add(&mut self, bytes: &'a [u8], block: &Block, leave_out: &HashSet<HostName>) {
        if !self.exists() {
            return self.set(block, leave_out);
        }
        if block.owner.is_some() {
            self.owner.clone_from(&block.owner);
        }
        let off = self.off;
        let items = self.items(bytes);
        let disabled = off || items.all_disabled();
        for entry in &block.entries {
            items.add(entry, disabled, leave_out);
        }
    }

    pub(super) fn point(&mut self, bytes: &'a [u8], block: &Block, leave_out: &HashSet<HostName>) {
        if self.exists() {
            let items = self.items(bytes);
            for entry in &block.entries {
                items.take_from_others(entry);
            }
        }
        self.add(bytes, block, leave_out);
    }

    pub(super) fn remove_names(&mut self, bytes: &'a [u8], names: &[HostName]) {
        if !self.exists() {
            return;
        }
        let items = self.items(bytes);
        if items.remove(names) && !items.has_names() {
            self.remove();
        }
    }

    pub(super) fn remove_entries(&mut self, bytes: &'a [u8], which: &Which) {
        if !self.exists() {
            return;
        }
        let items = self.items(bytes);
        let mut any = false;
        for item in items.meant(which) {
            item.raw = None;
            if let Some(held) = &mut item.entry {
                held.names.iter_mut().for_each(|(_, there)| *there = false);
            }
            any = true;
        }
        items.forget_index();
        if any && !items.has_names() {
            self.remove();
        }
    }

    pub(super) fn comment(&mut self, bytes: &'a [u8], which: &Which, comment: Option<&Comment>) {
        let items = self.items(bytes);
        for item in items.meant(which) {
            if let Some(held) = &mut item.entry
                && held.own().comment.as_ref() != comment
            {
                held.place.comment = comment.cloned();
                item.raw = None;
            }
        }
        items.forget_index();
    }

    pub(super) fn remove(&mut self) {
        self.gone = true;
        self.items = None;
    }

    pub(super) fn enable(&mut self, bytes: &'a [u8]) {
        let off = std::mem::take(&mut self.off);
        let items = self.items(bytes);
        for item in &mut items.list {
            item.enable(off);
        }
        items.forget_index();
    }

    pub(super) fn disable(&mut self, bytes: &'a [u8]) {
        let items = self.items(bytes);
        if !items.list.iter().any(Item::is_active) {
            return;
        }
        // If commenting out only the entries could not be undone exactly, every line is commented out.
        let mixed = !items.list.iter().all(Item::can_be_disabled_alone);
        for item in &mut items.list {
            item.disable(mixed);
        }
        items.forget_index();
        self.off |= mixed;
    }

    /// Makes one complete block from the parts of a damaged one. Its `strays` are sealed lines outside all complete blocks.
    pub(super) fn repair(bytes: &'a [u8], markers: &Markers<'a>, tag: Tag, strays: &[Range<usize>]) -> Self {
        let mut open: Vec<usize> = Vec::new();
        let mut pairs: Vec<(usize, usize)> = Vec::new();
        let mut stray: Vec<usize> = Vec::new();
        for &at in markers.of_tag(tag.as_str()) {
            match (markers.lines[at].kind, open.pop()) {
                (MarkerKind::Begin, before) => {
                    open.extend(before);
                    open.push(at);
                }
                (MarkerKind::End, Some(begin)) => {
                    pairs.push((begin, at));
                    // A later END does not close what is still open: the blocks would contain one another.
                    stray.append(&mut open);
                }
                (MarkerKind::End, None) => stray.push(at),
            }
        }
        stray.append(&mut open);
        pairs.sort_unstable();
        let spans: Vec<Span<'a>> = pairs
            .iter()
            .map(|&(begin, end)| markers.span(begin, end))
            .collect();
        let inside = Inside::new(spans.iter().map(|span| span.range.clone()));
        let mut inside = inside.walk();
        let strays = strays.iter().filter(|range| !inside.holds(range.start)).cloned();
        let loose = stray.iter().map(|&at| markers.lines[at].range.clone());
        let extra: Vec<_> = loose.chain(strays).collect();
        let mut spans = spans.into_iter();
        let mut work = BlockWork::new(tag, spans.next());
        work.extra = extra;
        let none = HashSet::new();
        for double in spans {
            let mut items = Items::default();
            items.load(bytes, &double, &work.tag);
            let disabled = double.attributes.off;
            let target = work.items(bytes);
            for item in items.list {
                match &item.entry {
                    Some(held) => target.add(&held.entry(), disabled || held.disabled, &none),
                    None => target.list.push(item),
                }
            }
            // Parts of a duplicate that belong to others stay where they are.
            let mut from = double.range.start;
            for foreign in &double.foreign {
                work.extra.push(from..foreign.start);
                from = foreign.end;
            }
            work.extra.push(from..double.range.end);
        }
        work
    }

    fn items(&mut self, bytes: &'a [u8]) -> &mut Items<'a> {
        self.items.get_or_insert_with(|| {
            let mut items = Items::default();
            if let (false, Some(span)) = (self.gone, &self.span) {
                items.load(bytes, span, &self.tag);
            }
            items
        })
    }

    /// Whether its lines were needed, so that it must be rendered again.
    pub(super) fn is_rendered(&self) -> bool {
        self.items.is_some()
    }

    /// The block's text, including BEGIN and END. `before` is the text in front of it if the line end there belongs to it.
    pub(super) fn render(
        &self,
        old: &[u8],
        ending: LineEnding,
        before: Option<&[u8]>,
        options: &Options,
    ) -> Vec<u8> {
        let eol = ending.as_str();
        let mut bytes = self.begin(old, before.is_some());
        bytes.extend_from_slice(eol.as_bytes());
        if let Some(items) = &self.items {
            let style = Style {
                seal: self.seal.as_ref(),
                ..BLOCK_STYLE
            };
            let body = bytes.len();
            items.render(&mut bytes, eol, options, style);
            if let Some(before) = before
                && (self.seal.is_some() || items.first_is_sealed_anew())
            {
                let first = memchr::memchr(b'\n', &bytes[body..]).map_or(bytes.len(), |at| body + at + 1);
                let at = first - eol.len();
                bytes.splice(at..at, seal::after(before));
            }
        }
        match &self.span {
            Some(span) => bytes.extend_from_slice(chomp(&old[span.body.end..span.range.end])),
            None => bytes.extend_from_slice(format!("# END {}", self.tag).as_bytes()),
        }
        bytes.extend_from_slice(eol.as_bytes());
        bytes
    }

    /// The text in front of the old block and its own line end there.
    pub(super) fn before<'o>(&self, old: &'o [u8]) -> &'o [u8] {
        let Some(span) = &self.span else { return old };
        let separator = span
            .separator(old)
            .map_or(span.range.start, |separator| separator.start);
        &old[..separator]
    }

    /// The BEGIN line without its line end; unchanged if it already has the right attributes.
    fn begin(&self, old: &[u8], no_eol: bool) -> Vec<u8> {
        if let Some(span) = &self.span
            && (no_eol, self.off) == (span.attributes.no_eol, span.attributes.off)
            && self.owner == span.owner()
        {
            return chomp(&old[span.begin.clone()]).to_vec();
        }
        let mut text = format!("# BEGIN {}", self.tag);
        if no_eol {
            text.push_str(" eol=0");
        }
        if self.off {
            text.push_str(" off=1");
        }
        if let Some(owner) = &self.owner {
            text.push_str(" owner=");
            text.push_str(owner.as_str());
        }
        for other in &self.other {
            text.push(' ');
            text.push_str(other);
        }
        let mut text = text.into_bytes();
        if let Some(span) = &self.span {
            let line = chomp(&old[span.begin.clone()]);
            text.extend_from_slice(&line[trim_end(line).len()..]);
        }
        text
    }

    /// The parts of the old block that belong to others.
    pub(super) fn foreign(&self, bytes: &[u8]) -> Vec<u8> {
        let ranges = self.span.iter().flat_map(|s| s.foreign.iter().cloned());
        ranges.flat_map(|r| bytes[r].iter().copied()).collect()
    }
}

/// The lines between BEGIN and END.
#[derive(Default)]
struct Items<'a> {
    list: Vec<Item<'a>>,
    /// Built when names are added or removed one by one, so that a batch of them takes linear time.
    index: Option<Index>,
}

struct Item<'a> {
    /// The line's text without its line end, until it is changed.
    raw: Option<Cow<'a, [u8]>>,
    entry: Option<Held>,
}

/// An entry whose names can be removed one by one.
struct Held {
    place: Entry,
    names: Vec<(HostName, bool)>,
    disabled: bool,
    /// The seal that its line has, without which the line would not be known for its block's when it has changed.
    seal: Option<Seal>,
}

impl Held {
    fn entry(&self) -> Entry {
        let names = self
            .names
            .iter()
            .filter(|(_, there)| *there)
            .map(|(n, _)| n.clone())
            .collect();
        Entry {
            names,
            ..self.place.clone()
        }
    }

    fn has_names(&self) -> bool {
        self.names.iter().any(|(_, there)| *there)
    }

    /// What it is without what proves whose it is.
    fn own(&self) -> Entry {
        let names = self.entry().names;
        let place = self
            .seal
            .as_ref()
            .map_or_else(|| self.place.clone(), |seal| self.unsealed(seal));
        Entry { names, ..place }
    }

    /// Its place without the seal in the comment.
    fn unsealed(&self, seal: &Seal) -> Entry {
        let comment = self.place.comment.as_ref().map_or("", |comment| comment.as_str());
        let own = comment.rfind(seal.mark()).map_or(comment, |at| &comment[..at]);
        let own = own.strip_suffix("# ").unwrap_or(own).trim_end();
        Entry {
            comment: crate::name::Comment::new(own).ok().filter(|_| !own.is_empty()),
            ..self.place.clone()
        }
    }
}

#[derive(Default)]
struct Index {
    by_name: HashMap<HostName, Vec<(usize, usize)>>,
    by_place: HashMap<Entry, usize>,
}

impl<'a> Items<'a> {
    fn load(&mut self, bytes: &'a [u8], span: &Span<'a>, tag: &Tag) {
        for range in span.own_lines(bytes) {
            let raw = chomp(&bytes[range]);
            let is_sealed = seal::read(raw).is_some_and(|found| found.intact && found.is_of(tag));
            let mut entry = held(raw);
            if let Some(held) = &mut entry {
                held.seal = is_sealed.then(|| Seal::of(tag));
            }
            self.list.push(Item {
                raw: Some(Cow::Borrowed(raw)),
                entry,
            });
        }
    }

    /// Adds an entry after the others; it shares the last one's lines if it can.
    fn push_entry(&mut self, entry: &Entry, leave_out: &HashSet<HostName>) {
        let names = entry
            .names
            .iter()
            .filter(|n| !leave_out.contains(*n))
            .map(|n| (n.clone(), true));
        if let Some(last) = self.list.last_mut().and_then(|i| i.entry.as_mut())
            && last.place.same_place(entry)
        {
            last.names.extend(names);
            return;
        }
        let names: Vec<_> = names.collect();
        if !names.is_empty() {
            let place = Entry {
                names: Vec::new(),
                ..entry.clone()
            };
            self.list.push(Item {
                raw: None,
                entry: Some(Held {
                    place,
                    names,
                    disabled: false,
                    seal: None,
                }),
            });
        }
    }

    fn add(&mut self, entry: &Entry, disabled: bool, leave_out: &HashSet<HostName>) {
        for name in entry.names.iter().filter(|n| !leave_out.contains(*n)) {
            let index = self.index.get_or_insert_with(|| Index::of(&self.list));
            let held_at = index.by_name.get(name).map_or(&[][..], Vec::as_slice);
            let there = held_at.iter().any(|&(item, at)| {
                let held = self.list[item].entry.as_ref();
                held.is_some_and(|h| {
                    h.names[at].1 && h.place.address == entry.address && h.place.zone == entry.zone
                })
            });
            if there {
                continue;
            }
            let place = Entry {
                names: Vec::new(),
                ..entry.clone()
            };
            // A new line after the existing ones keeps the order of a name's addresses.
            let home = if held_at.is_empty() {
                index.by_place.get(&place).copied()
            } else {
                None
            };
            let item = home.unwrap_or_else(|| {
                let held = Held {
                    place: place.clone(),
                    names: Vec::new(),
                    disabled,
                    seal: None,
                };
                self.list.push(Item {
                    raw: None,
                    entry: Some(held),
                });
                index.by_place.insert(place, self.list.len() - 1);
                self.list.len() - 1
            });
            self.list[item].raw = None;
            if let Some(held) = &mut self.list[item].entry {
                held.names.push((name.clone(), true));
                index
                    .by_name
                    .entry(name.clone())
                    .or_default()
                    .push((item, held.names.len() - 1));
            }
        }
    }

    /// Removes names; returns whether there were any.
    fn remove(&mut self, names: &[HostName]) -> bool {
        let mut any = false;
        let index = self.index.get_or_insert_with(|| Index::of(&self.list));
        for name in names {
            for (item, at) in index.by_name.remove(name).unwrap_or_default() {
                self.list[item].raw = None;
                if let Some(held) = &mut self.list[item].entry {
                    held.names[at].1 = false;
                }
                any = true;
            }
        }
        any
    }

    /// Takes an entry's names from other addresses of its family.
    fn take_from_others(&mut self, entry: &Entry) {
        let index = self.index.get_or_insert_with(|| Index::of(&self.list));
        for name in &entry.names {
            let Some(held_at) = index.by_name.get_mut(name) else {
                continue;
            };
            held_at.retain(|&(item, at)| {
                let item = &mut self.list[item];
                let Some(held) = &mut item.entry else { return true };
                let is_other = held.place.address.is_ipv4() == entry.address.is_ipv4()
                    && (held.place.address, &held.place.zone) != (entry.address, &entry.zone);
                if is_other {
                    item.raw = None;
                    held.names[at].1 = false;
                }
                !is_other
            });
        }
    }

    /// The lines of the entries that an edit means.
    fn meant<'s>(&'s mut self, which: &'s Which) -> impl Iterator<Item = &'s mut Item<'a>> {
        self.list.iter_mut().filter(|item| {
            let held = item.entry.as_ref().filter(|held| held.has_names());
            held.is_some_and(|held| which.is_entry(&held.own()))
        })
    }

    fn has_names(&self) -> bool {
        self.list
            .iter()
            .filter_map(|i| i.entry.as_ref())
            .any(Held::has_names)
    }

    fn first_is_sealed_anew(&self) -> bool {
        let written =
            |item: &&Item<'_>| item.raw.is_some() || item.entry.as_ref().is_some_and(Held::has_names);
        let first = self.list.iter().find(written);
        first.is_some_and(|item| {
            item.raw.is_none() && item.entry.as_ref().is_some_and(|held| held.seal.is_some())
        })
    }

    fn all_disabled(&self) -> bool {
        let mut entries = self.list.iter().filter_map(|i| i.entry.as_ref()).peekable();
        entries.peek().is_some() && entries.all(|h| h.disabled)
    }

    fn forget_index(&mut self) {
        self.index = None;
    }

    fn render(&self, into: &mut Vec<u8>, eol: &str, options: &Options, style: Style<'_>) {
        let mut seen: HashSet<&str> = HashSet::new();
        for item in &self.list {
            if let Some(raw) = &item.raw {
                into.extend_from_slice(raw);
                into.extend_from_slice(eol.as_bytes());
            } else if let Some(held) = &item.entry {
                let many = held.names.len() > 1;
                seen.clear();
                let names = held
                    .names
                    .iter()
                    .filter(|(_, there)| *there)
                    .map(|(n, _)| n.as_str());
                let names = names.filter(|n| !many || seen.insert(n));
                let before = if held.disabled { "# " } else { "" };
                match &held.seal {
                    Some(seal) => {
                        let (place, seal) = (held.unsealed(seal), Some(seal));
                        let style = Style { seal, ..style };
                        options.layout.write(into, &place, names, style, before, eol);
                    }
                    None => options.layout.write(into, &held.place, names, style, before, eol),
                }
            }
        }
    }
}

impl Item<'_> {
    fn is_active(&self) -> bool {
        self.entry.as_ref().is_some_and(|h| !h.disabled)
            || self
                .raw
                .as_ref()
                .is_some_and(|r| matches!(line::read(0, r), LineKind::Entry(_)))
    }

    /// Whether it is active, and is the same when its `#` has come and gone. Behind one a second address, for example, makes it a remark; and
    /// the blanks behind a `#` go with it.
    fn can_be_disabled_alone(&self) -> bool {
        let same = |raw: &[u8]| {
            let disabled = [b"# ", raw].concat();
            let is_read = matches!(line::read(0, &disabled), LineKind::Disabled(_));
            is_read && !raw.first().copied().is_some_and(crate::scan::is_blank)
        };
        self.is_active() && self.raw.as_ref().is_none_or(|raw| same(raw))
    }

    fn disable(&mut self, any_line: bool) {
        if let Some(raw) = &mut self.raw
            && (any_line || !raw.starts_with(b"#"))
        {
            raw.to_mut().splice(0..0, *b"# ");
        }
        if let Some(held) = &mut self.entry {
            held.disabled = true;
        }
    }

    fn enable(&mut self, any_line: bool) {
        if let Some(raw) = &mut self.raw {
            let entry = matches!(line::read(0, raw), LineKind::Disabled(_));
            if any_line && raw.starts_with(b"# ") {
                raw.to_mut().drain(..2);
            } else if entry {
                let sign = raw.iter().position(|b| *b == b'#').map_or(0, |at| at + 1);
                let blanks = raw[sign..]
                    .iter()
                    .take_while(|b| crate::scan::is_blank(**b))
                    .count();
                raw.to_mut().drain(..sign + blanks);
            }
            self.entry = held(raw);
        } else if let Some(held) = &mut self.entry {
            held.disabled = false;
        }
    }
}

impl Index {
    fn of(list: &[Item<'_>]) -> Self {
        let mut index = Index::default();
        for (item, held) in list
            .iter()
            .enumerate()
            .filter_map(|(at, i)| i.entry.as_ref().map(|h| (at, h)))
        {
            for (at, (name, there)) in held.names.iter().enumerate() {
                if *there {
                    index.by_name.entry(name.clone()).or_default().push((item, at));
                }
            }
            index.by_place.insert(held.place.clone(), item);
        }
        index
    }
}

/// The entry of a line, if writing it again would keep its meaning.
fn held(raw: &[u8]) -> Option<Held> {
    let (entry, disabled) = match line::read(0, raw) {
        LineKind::Entry(entry) => (entry, false),
        LineKind::Disabled(entry) => (entry, true),
        _ => return None,
    };
    let names = entry
        .names
        .iter()
        .map(|n| HostName::with_underscore(n))
        .collect::<Result<Vec<_>, _>>()
        .ok()?;
    let comment = std::str::from_utf8(entry.comment).ok()?;
    let comment = if comment.is_empty() {
        None
    } else {
        Some(crate::name::Comment::new(comment).ok()?)
    };
    let zone = entry.zone.map(crate::name::Zone::new).transpose().ok()?;
    let place = Entry {
        address: entry.address,
        zone,
        names: Vec::new(),
        comment,
    };
    Some(Held {
        place,
        names: names.into_iter().map(|n| (n, true)).collect(),
        disabled,
        seal: None,
    })
}
