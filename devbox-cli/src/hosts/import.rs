//! `devbox hosts import`: the entries of other files, and other tools' blocks.

use std::path::Path;
use std::process::ExitCode;

use hostsfile::{Block, Edit, Entry, Tag};

use super::args::Tool;
use super::entries::read_entries;
use super::{Hosts, failed};
use crate::failure::{Failure, code};

impl Hosts<'_> {
    pub(super) fn import(&self, other: Option<&Path>, from: Option<Tool>) -> Result<ExitCode, Failure> {
        let path = other.unwrap_or(&self.path);
        let text = std::fs::read_to_string(path)
            .map_err(|e| Failure::new(code::FAILED, format!("cannot read {}: {e}", path.display())))?;
        let place = path.display().to_string();
        let Some(tool) = from else {
            let block = Block::new(self.tag.clone()).with_entries(read_entries(&text, 1, &place)?);
            return self.edit(&[Edit::AddToBlock(block)]);
        };
        let mut edits = Vec::new();
        for found in tool.blocks(&text) {
            let tag = Tag::new(&found.name).map_err(failed)?;
            let block = Block::new(tag.clone()).with_entries(found.entries(&place)?);
            if block.entries.is_empty() {
                continue;
            }
            edits.push(Edit::SetBlock(block));
            if !found.enabled {
                edits.push(Edit::DisableBlock(tag));
            }
        }
        if edits.is_empty() {
            let none = format!("{place} has no block of {}", tool.name());
            return Err(Failure::new(code::FAILED, none));
        }
        self.edit(&edits)
    }
}

/// A block of another tool.
struct Found<'t> {
    name: String,
    enabled: bool,
    /// Its lines, with their numbers, counted from 1.
    lines: Vec<(usize, &'t str)>,
}

impl Found<'_> {
    fn entries(&self, place: &str) -> Result<Vec<Entry>, Failure> {
        let mut entries = Vec::new();
        for (number, line) in &self.lines {
            let line = if self.enabled {
                line
            } else {
                line.trim_start().trim_start_matches('#')
            };
            entries.extend(read_entries(line, *number, place)?);
        }
        Ok(entries)
    }
}

impl Tool {
    fn name(self) -> &'static str {
        match self {
            Tool::Hostctl => "hostctl",
            Tool::Innernet => "innernet",
        }
    }

    fn blocks(self, text: &str) -> Vec<Found<'_>> {
        let mut found: Vec<Found<'_>> = Vec::new();
        let mut inside = false;
        for (index, line) in text.lines().enumerate() {
            match self.marker(line.trim()) {
                Some(Marker::Begin { name, enabled }) => {
                    found.push(Found {
                        name: name.to_owned(),
                        enabled,
                        lines: Vec::new(),
                    });
                    inside = true;
                }
                Some(Marker::End) => inside = false,
                None if inside => {
                    if let Some(block) = found.last_mut() {
                        block.lines.push((index + 1, line));
                    }
                }
                None => {}
            }
        }
        found
    }

    fn marker(self, line: &str) -> Option<Marker<'_>> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match (self, words.as_slice()) {
            (Tool::Hostctl, ["#", "profile.on", name]) => Some(Marker::Begin { name, enabled: true }),
            (Tool::Hostctl, ["#", "profile.off", name]) => Some(Marker::Begin { name, enabled: false }),
            (Tool::Hostctl, ["#", "end"]) => Some(Marker::End),
            (Tool::Innernet, ["#", "DO", "NOT", "EDIT", name, "BEGIN"]) => {
                Some(Marker::Begin { name, enabled: true })
            }
            (Tool::Innernet, ["#", "DO", "NOT", "EDIT", _, "END"]) => Some(Marker::End),
            _ => None,
        }
    }
}

enum Marker<'t> {
    Begin { name: &'t str, enabled: bool },
    End,
}
