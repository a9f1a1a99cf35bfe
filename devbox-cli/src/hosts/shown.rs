//! Entries as they are shown.

use std::net::IpAddr;

use hostsfile::{Document, LineKind};
use serde_json::{Value, json};

/// An entry as it is shown.
pub(super) struct Shown {
    pub(super) line: usize,
    pub(super) address: IpAddr,
    zone: Option<String>,
    pub(super) names: Vec<String>,
    pub(super) comment: String,
    pub(super) block: Option<String>,
    pub(super) enabled: bool,
}

impl Shown {
    pub(super) fn shown_address(&self) -> String {
        self.zone.as_ref().map_or_else(
            || self.address.to_string(),
            |zone| format!("{}%{zone}", self.address),
        )
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "line": self.line,
            "address": self.shown_address(),
            "names": self.names,
            "comment": if self.comment.is_empty() { Value::Null } else { self.comment.as_str().into() },
            "block": self.block,
            "enabled": self.enabled,
        })
    }
}

/// The entries of the file and the disabled ones of blocks, in order. Outside blocks a commented entry is a comment.
pub(super) fn entries(document: &Document, wanted: impl Fn(&Shown) -> bool) -> Vec<Shown> {
    let blocks = document.blocks();
    let mut blocks = blocks.iter().peekable();
    let mut found = Vec::new();
    for line in document.lines() {
        while blocks.next_if(|block| block.lines.end <= line.number).is_some() {}
        let block = blocks
            .peek()
            .filter(|block| block.lines.contains(&line.number))
            .map(|block| block.tag.to_owned());
        let (entry, enabled) = match line.kind {
            LineKind::Entry(entry) => (entry, true),
            LineKind::Disabled(entry) if block.is_some() => (entry, false),
            _ => continue,
        };
        let shown = Shown {
            line: entry.line,
            address: entry.address,
            zone: entry.zone.map(str::to_owned),
            names: entry.names.iter().map(|n| (*n).to_owned()).collect(),
            comment: String::from_utf8_lossy(entry.comment).into_owned(),
            block,
            enabled,
        };
        if wanted(&shown) {
            found.push(shown);
        }
    }
    found
}
