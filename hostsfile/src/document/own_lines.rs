//! Makes edits of the user's own lines, each of which refers to its line.

use std::collections::HashSet;
use std::net::IpAddr;

use super::Document;
use crate::cidr::Cidr;
use crate::edit::{Edit, OnConflict, Which};
use crate::entry::Entry;
use crate::error::Error;
use crate::line::EntryLine;
use crate::name::{Comment, HostName, Zone};

impl Document {
    /// The edits that put an entry on the user's own lines: its names on a line that already has its address, zone and comment,
    /// otherwise a new line at the end. Names that the address already has need no edit.
    /// ```
    /// use hostsfile::{Document, Entry, OnConflict, Options};
    /// let doc = Document::parse("10.0.0.1 a\n");
    /// let edits = doc.adding(&Entry::parse("10.0.0.1", ["b"])?, OnConflict::Refuse)?;
    /// assert_eq!(doc.edited(&edits, &Options::new())?.render(), b"10.0.0.1 a b\n");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NameTaken`] if a name has another address of the same family and `on_conflict` says to refuse, or that other line is
    /// inside a block.
    pub fn adding(&self, entry: &Entry, on_conflict: OnConflict) -> Result<Vec<Edit>, Error> {
        let user = self.user_lines();
        let zone = entry.zone.as_ref().map(Zone::as_str);
        let same_address = |found: &EntryLine<'_>| found.address == entry.address && found.zone == zone;
        let mut edits = Vec::new();
        let mut missing: Vec<HostName> = Vec::new();
        let mut seen = HashSet::new();
        for name in &entry.names {
            let found = self.lines_with_name(name.as_str());
            if !seen.insert(name) || found.iter().any(same_address) {
                continue;
            }
            let same_family = |other: &&EntryLine<'_>| other.address.is_ipv4() == entry.address.is_ipv4();
            for other in found.iter().filter(same_family) {
                let of_user = user.binary_search_by_key(&other.line, |(line, _)| line.number);
                match (on_conflict, of_user) {
                    (OnConflict::Allow, _) => {}
                    (OnConflict::Move, Ok(at)) => {
                        edits.push(Edit::RemoveNames {
                            line: user[at].0.reference(),
                            names: vec![name.to_string()],
                        });
                    }
                    (OnConflict::Refuse, _) | (OnConflict::Move, Err(_)) => {
                        return Err(Error::NameTaken {
                            name: name.to_string(),
                            address: other.address,
                            line: other.line,
                        });
                    }
                }
            }
            missing.push(name.clone());
        }
        if missing.is_empty() {
            return Ok(edits);
        }
        let comment = entry.comment.as_ref().map_or("", Comment::as_str).as_bytes();
        match user
            .iter()
            .rfind(|(_, found)| same_address(found) && found.comment == comment)
        {
            Some((line, _)) => edits.push(Edit::AddNames {
                line: line.reference(),
                names: missing,
            }),
            None => edits.push(Edit::AppendLine(Entry {
                names: missing,
                ..entry.clone()
            })),
        }
        Ok(edits)
    }

    /// The edits that remove names, compared case-insensitively, from the user's own lines.
    #[must_use]
    pub fn removing_names<S: AsRef<str>>(&self, names: &[S]) -> Vec<Edit> {
        let wanted: HashSet<String> = names.iter().map(|n| n.as_ref().to_ascii_lowercase()).collect();
        let mut edits = Vec::new();
        for (line, entry) in self.user_lines() {
            let here: Vec<String> = entry
                .names
                .iter()
                .map(|n| n.to_ascii_lowercase())
                .filter(|n| wanted.contains(n))
                .collect();
            if !here.is_empty() {
                edits.push(Edit::RemoveNames {
                    line: line.reference(),
                    names: here,
                });
            }
        }
        edits
    }

    /// The edits that remove the user's own lines with an address.
    #[must_use]
    pub fn removing_address(&self, address: IpAddr) -> Vec<Edit> {
        self.removing(|e| e.address == address)
    }

    /// The edits that remove the user's own lines whose address is in a network.
    #[must_use]
    pub fn removing_within(&self, network: &Cidr) -> Vec<Edit> {
        self.removing(|e| network.contains(e.address))
    }

    /// The edits that remove the user's own lines whose whole comment is this text.
    #[must_use]
    pub fn removing_comment(&self, comment: &Comment) -> Vec<Edit> {
        self.removing(|e| e.comment == comment.as_str().as_bytes())
    }

    /// The edits that remove the user's own lines that any of these mean, each line once.
    #[must_use]
    pub fn removing_entries(&self, which: &[Which]) -> Vec<Edit> {
        self.removing(|entry| which.iter().any(|which| which.is_meant(entry)))
    }

    /// The edits that set or remove the comment of the user's own lines.
    ///
    /// # Errors
    /// Those of an entry that cannot be written again, such as one with a name that is not valid.
    pub fn commenting(&self, which: &Which, comment: Option<&Comment>) -> Result<Vec<Edit>, Error> {
        let lines = self.user_lines().into_iter();
        let meant = lines.filter(|(_, found)| {
            which.is_meant(found) && found.comment != comment.map_or("", Comment::as_str).as_bytes()
        });
        meant
            .map(|(line, found)| {
                let names = found.names.iter().map(|name| HostName::with_underscore(name));
                Ok(Edit::ReplaceLine {
                    line: line.reference(),
                    entry: Entry::new(found.address, names.collect::<Result<Vec<_>, _>>()?)?
                        .with_zone(found.zone.map(Zone::new).transpose()?)
                        .with_comment(comment.cloned()),
                })
            })
            .collect()
    }

    fn removing(&self, which: impl Fn(&EntryLine<'_>) -> bool) -> Vec<Edit> {
        self.user_lines()
            .iter()
            .filter(|(_, e)| which(e))
            .map(|(line, _)| Edit::RemoveLine(line.reference()))
            .collect()
    }
}
