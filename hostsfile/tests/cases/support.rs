//! Helpers that the checks share.

use std::net::IpAddr;
use std::path::PathBuf;

use hostsfile::{
    Block, Comment, Document, Edit, Entry, Error, HostName, HostsFile, Layout, LineEnding, Marker,
    OnConflict, Options, Tag,
};

pub(crate) type Check = fn(&Case);

/// A line of the data file.
pub(crate) struct Case {
    pub(crate) id: String,
    pub(crate) source: String,
    pub(crate) input: Vec<u8>,
    pub(crate) operation: String,
    pub(crate) expected: String,
    pub(crate) ours: String,
}

impl Case {
    pub(crate) fn parse(line: &str) -> Self {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = |key: &str| value[key].as_str().unwrap().to_owned();
        Case {
            id: text("id"),
            source: text("source"),
            input: unescape(&text("input")),
            operation: text("operation"),
            expected: text("expected"),
            ours: text("ours"),
        }
    }

    pub(crate) fn doc(&self) -> Document {
        Document::parse(self.input.clone())
    }
}

/// Replaces `\xNN`, `\r`, `\n` and `\ufeff`, which the data spells out.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at + 1..];
        if let Some(hex) = rest.strip_prefix('x') {
            bytes.push(u8::from_str_radix(&hex[..2], 16).unwrap());
            rest = &hex[2..];
        } else if let Some(after) = rest.strip_prefix("ufeff") {
            bytes.extend_from_slice("\u{feff}".as_bytes());
            rest = after;
        } else {
            bytes.push(b'\\');
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn names(names: &[&str]) -> Vec<HostName> {
    names.iter().map(|n| HostName::new(n).unwrap()).collect()
}

pub(crate) fn entry(address: &str, names: &[&str]) -> Entry {
    Entry::parse(address, names.iter().copied()).unwrap()
}

pub(crate) fn tag(name: &str) -> Tag {
    Tag::new(name).unwrap()
}

pub(crate) fn block(name: &str, entries: &[(&str, &[&str])]) -> Block {
    Block::new(tag(name)).with_entries(entries.iter().map(|(a, n)| entry(a, n)))
}

pub(crate) fn marker(text: &str) -> Marker {
    Marker::new(text).unwrap()
}

/// Options with which a new document has the same line ends on every system, as the cases expect.
fn options() -> Options {
    Options::new().line_ending(LineEnding::Lf)
}

pub(crate) fn edited(doc: &Document, edits: &[Edit]) -> Document {
    doc.edited(edits, &options()).unwrap()
}

/// Adds names to an address on the user's lines, even if a name already has another address.
pub(crate) fn add(doc: &Document, address: &str, which: &[&str]) -> Document {
    add_with(doc, address, which, "", OnConflict::Allow, 9).unwrap()
}

pub(crate) fn add_with(
    doc: &Document,
    address: &str,
    which: &[&str],
    comment: &str,
    on_conflict: OnConflict,
    per_line: usize,
) -> Result<Document, Error> {
    let comment = if comment.is_empty() {
        None
    } else {
        Some(Comment::new(comment)?)
    };
    let entry = Entry::new(ip(address), names(which))?.with_comment(comment);
    let edits = doc.adding(&entry, on_conflict)?;
    doc.edited(&edits, &options().layout(Layout::names_per_line(per_line)))
}

pub(crate) fn text(doc: &Document) -> String {
    String::from_utf8_lossy(doc.render()).into_owned()
}

pub(crate) fn line_count(doc: &Document) -> usize {
    doc.lines().count()
}

/// A hosts file on disk with this content, in its own directory.
pub(crate) struct OnDisk {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) path: PathBuf,
}

impl OnDisk {
    pub(crate) fn new(content: &[u8]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hosts");
        std::fs::write(&path, content).unwrap();
        OnDisk { directory, path }
    }

    pub(crate) fn hosts(&self) -> HostsFile {
        HostsFile::open(&self.path).unwrap()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.path).unwrap()
    }

    /// The names of all files in the directory.
    pub(crate) fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.directory.path()).unwrap();
        let mut files: Vec<String> = entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        files
    }
}

/// Checks that adding a block keeps the old bytes and removing it leaves nothing behind.
pub(crate) fn comes_and_goes(before: &Document) {
    let added = edited(
        before,
        &[Edit::SetBlock(block("ours", &[("127.77.0.1", &["ours.test"])]))],
    );
    assert!(added.render().starts_with(before.render()));
    assert_eq!(added.lookup("ours.test"), [ip("127.77.0.1")]);
    assert_eq!(edited(&added, &[Edit::RemoveBlock(tag("ours"))]), *before);
}
