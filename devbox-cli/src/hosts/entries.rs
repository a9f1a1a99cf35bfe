//! `devbox hosts add`, `rm`, `set` and `comment`: what is on a file's lines.

use std::collections::HashSet;
use std::io::Read as _;
use std::net::IpAddr;
use std::process::ExitCode;

use hostsfile::{
    Block, Cidr, Comment, Document, Edit, Entry, Error, HostName, LineRef, OnConflict, Options, Resolver,
    Which,
};

use super::args::HowToName;
use super::{Hosts, failed};
use crate::failure::{Failure, code};

impl Hosts<'_> {
    pub(super) fn add(&self, address: &str, names: &[String], how: &HowToName) -> Result<ExitCode, Failure> {
        let parse = |name: &String| {
            if how.underscore {
                HostName::with_underscore(name)
            } else {
                HostName::new(name)
            }
        };
        let names = names
            .iter()
            .map(parse)
            .collect::<Result<Vec<_>, _>>()
            .map_err(failed)?;
        let comment = how
            .comment
            .as_deref()
            .map(Comment::new)
            .transpose()
            .map_err(failed)?;
        let entry = Entry::parse(address, &names)
            .map_err(failed)?
            .with_comment(comment);
        if how.own {
            let rule = if how.move_names {
                OnConflict::Move
            } else {
                OnConflict::Refuse
            };
            return self.edit_warning(|document| document.adding(&entry, rule), |_| unread(&entry));
        }
        let block = Block::new(self.tag.clone()).with_entries([entry.clone()]);
        let edit = if how.also {
            Edit::AddToBlock(block)
        } else {
            Edit::PointInBlock(block)
        };
        self.edit_warning(
            |_| Ok(vec![edit.clone()]),
            |document| {
                let mut warnings = unread(&entry)?;
                if !how.also {
                    let former = self.former(document, &entry)?.into_iter();
                    warnings.extend(former.map(|(name, address)| {
                        format!("{name} no longer has the address {address}; --also keeps both")
                    }));
                }
                Ok(warnings)
            },
        )
    }

    /// The addresses that an entry takes its names from.
    fn former(&self, document: &Document, entry: &Entry) -> Result<Vec<(String, IpAddr)>, Error> {
        let block = document.block(&self.tag)?;
        let mut former = Vec::new();
        for held in block.iter().flat_map(|block| &block.entries) {
            let is_other = held.address != entry.address && held.address.is_ipv4() == entry.address.is_ipv4();
            let names = entry
                .names
                .iter()
                .filter(|name| is_other && held.has(name.as_str()));
            former.extend(names.map(|name| (name.to_string(), held.address)));
        }
        Ok(former)
    }

    pub(super) fn remove(
        &self,
        what: &[String],
        comment: Option<&str>,
        own: bool,
    ) -> Result<ExitCode, Failure> {
        let comment = comment.map(Comment::new).transpose().map_err(failed)?;
        let mut names = Vec::new();
        let mut entries: Vec<Which> = comment.into_iter().map(Which::Comment).collect();
        for word in what {
            match address_or_network(word)? {
                Some(which) => entries.push(which),
                None => names.push(word.clone()),
            }
        }
        if own {
            return self.edit_with(|document| {
                let mut edits = document.removing_entries(&entries);
                let gone: HashSet<LineRef> = edits
                    .iter()
                    .filter_map(|edit| match edit {
                        Edit::RemoveLine(line) => Some(line.clone()),
                        _ => None,
                    })
                    .collect();
                let names = document.removing_names(&names).into_iter();
                // A line that is removed needs no further edit.
                edits.extend(names.filter(|edit| match edit {
                    Edit::RemoveNames { line, .. } => !gone.contains(line),
                    _ => true,
                }));
                Ok(edits)
            });
        }
        let names = names
            .iter()
            .map(|name| HostName::with_underscore(name))
            .collect::<Result<Vec<_>, _>>()
            .map_err(failed)?;
        let tag = || self.tag.clone();
        let absent = |document: &Document| {
            let block = document.block(&self.tag)?;
            let held = block.as_ref().map_or_else(Vec::new, |block| block.names());
            let is_held = |name: &&HostName| held.iter().any(|h| h.eq_ignore_ascii_case(name.as_str()));
            let absent = names.iter().filter(|name| !is_held(name));
            Ok(absent
                .map(|name| format!("{name} is not in the block {}", self.tag))
                .collect())
        };
        let named = (!names.is_empty()).then(|| Edit::RemoveFromBlock {
            tag: tag(),
            names: names.clone(),
        });
        let entries = entries
            .into_iter()
            .map(|which| Edit::RemoveEntries { tag: tag(), which });
        let edits: Vec<_> = named.into_iter().chain(entries).collect();
        self.edit_warning(|_| Ok(edits.clone()), absent)
    }

    pub(super) fn comment(&self, what: &str, text: Option<&str>, own: bool) -> Result<ExitCode, Failure> {
        let which = match address_or_network(what)? {
            Some(which) => which,
            None => Which::Name(HostName::with_underscore(what).map_err(failed)?),
        };
        let comment = text.map(Comment::new).transpose().map_err(failed)?;
        if own {
            return self.edit_with(|document| document.commenting(&which, comment.as_ref()));
        }
        self.edit(&[Edit::Comment {
            tag: self.tag.clone(),
            which,
            comment,
        }])
    }

    pub(super) fn set(&self, address: Option<&str>, names: &[String]) -> Result<ExitCode, Failure> {
        let entries = match address {
            Some(address) => vec![Entry::parse(address, names).map_err(failed)?],
            None => {
                let mut text = String::new();
                std::io::stdin()
                    .read_to_string(&mut text)
                    .map_err(Failure::because)?;
                read_entries(&text, 1, "standard input")?
            }
        };
        self.edit(&[Edit::SetBlock(Block::new(self.tag.clone()).with_entries(entries))])
    }
}

/// What a word says unless it is a name.
fn address_or_network(word: &str) -> Result<Option<Which>, Failure> {
    if let Ok(address) = word.parse::<IpAddr>() {
        Ok(Some(Which::Address(address)))
    } else if word.contains('/') {
        let network: Cidr = word.parse().map_err(failed)?;
        Ok(Some(Which::Within(network)))
    } else {
        Ok(None)
    }
}

/// What this system's resolver will not read of an entry.
fn unread(entry: &Entry) -> Result<Vec<String>, Error> {
    let line = Document::parse([]).edited(&[Edit::AppendLine(entry.clone())], &Options::new())?;
    let found = line.lint(Resolver::platform()).into_iter();
    Ok(found.map(|diagnostic| diagnostic.finding.to_string()).collect())
}

/// Lines of "ADDRESS NAME... [# comment]", the first of which has the number `first_line` in `place`.
pub(super) fn read_entries(text: &str, first_line: usize, place: &str) -> Result<Vec<Entry>, Failure> {
    let mut entries = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let (words, comment) = line
            .split_once('#')
            .map_or((line, ""), |(words, comment)| (words, comment.trim()));
        let mut words = words.split_whitespace();
        let Some(address) = words.next() else { continue };
        let entry = Entry::parse(address, words)
            .and_then(|entry| {
                if comment.is_empty() {
                    Ok(entry)
                } else {
                    Ok(entry.with_comment(Comment::new(comment)?))
                }
            })
            .map_err(|e| {
                Failure::new(
                    code::FAILED,
                    format!("line {} of {place}: {e}", first_line + index),
                )
            })?;
        entries.push(entry);
    }
    Ok(entries)
}
