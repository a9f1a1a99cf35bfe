//! Edits that a user asks for by hand: the one-to-one conversion between the wire's strings and `hostsfile`'s checked types.

use hostsfile::{Block, Cidr, Comment, Document, Edit, Entry, Error, HostName, LineRef, Tag, Which, Zone};

use devbox_helper_client::{HelperError, UserBlock, UserEdit, UserEntry, UserLine, UserWhich};

use crate::policy::not_allowed;

/// Converts edits of this document to their wire form. The owner of a block is left out: what a user asks for belongs to no
/// process.
///
/// ```
/// use hostsfile::Document;
///
/// let document = Document::parse("10.0.0.1 db db-old\n");
/// let edits = document.removing_names(&["db-old"]);
/// let wire = devbox_helper::to_wire(&document, &edits)?;
/// // client.edit_hosts(wire)?;
/// # assert_eq!(wire.len(), 1);
/// # Ok::<(), devbox_helper_client::HelperError>(())
/// ```
///
/// # Errors
/// [`HelperError::NotAllowed`] for an edit of a line that is not the document's, [`HelperError::Unsupported`] for an edit that
/// the wire does not know.
pub fn to_wire(document: &Document, edits: &[Edit]) -> Result<Vec<UserEdit>, HelperError> {
    edits.iter().map(|edit| edit_to_wire(document, edit)).collect()
}

/// Checks and converts edits that arrived over the wire.
pub(crate) fn from_wire(edits: &[UserEdit]) -> Result<Vec<Edit>, HelperError> {
    edits.iter().map(edit_from_wire).collect()
}

fn edit_to_wire(document: &Document, edit: &Edit) -> Result<UserEdit, HelperError> {
    Ok(match edit {
        Edit::SetBlock(block) => UserEdit::SetBlock(block_to_wire(block)),
        Edit::AddToBlock(block) => UserEdit::AddToBlock(block_to_wire(block)),
        Edit::PointInBlock(block) => UserEdit::PointInBlock(block_to_wire(block)),
        Edit::RemoveFromBlock { tag, names } => UserEdit::RemoveFromBlock {
            tag: tag.to_string(),
            names: strings(names),
        },
        Edit::RemoveEntries { tag, which } => UserEdit::RemoveEntries {
            tag: tag.to_string(),
            which: which_to_wire(which)?,
        },
        Edit::Comment { tag, which, comment } => UserEdit::Comment {
            tag: tag.to_string(),
            which: which_to_wire(which)?,
            comment: comment.as_ref().map(ToString::to_string),
        },
        Edit::RemoveBlock(tag) => UserEdit::RemoveBlock { tag: tag.to_string() },
        Edit::EnableBlock(tag) => UserEdit::EnableBlock { tag: tag.to_string() },
        Edit::DisableBlock(tag) => UserEdit::DisableBlock { tag: tag.to_string() },
        Edit::RepairBlock(tag) => UserEdit::RepairBlock { tag: tag.to_string() },
        Edit::RemoveOrphans { word } => UserEdit::RemoveOrphans { word: word.clone() },
        Edit::SetManaged { marker, entries } => UserEdit::SetManaged {
            marker: marker.to_string(),
            entries: entries.iter().map(entry_to_wire).collect(),
        },
        Edit::RemoveManaged(marker) => UserEdit::RemoveManaged {
            marker: marker.to_string(),
        },
        Edit::AppendLine(entry) => UserEdit::AppendLine(entry_to_wire(entry)),
        Edit::AddNames { line, names } => UserEdit::AddNames {
            line: line_to_wire(document, line)?,
            names: strings(names),
        },
        Edit::RemoveNames { line, names } => UserEdit::RemoveNames {
            line: line_to_wire(document, line)?,
            names: names.clone(),
        },
        Edit::ReplaceLine { line, entry } => UserEdit::ReplaceLine {
            line: line_to_wire(document, line)?,
            entry: entry_to_wire(entry),
        },
        Edit::RemoveLine(line) => UserEdit::RemoveLine {
            line: line_to_wire(document, line)?,
        },
        _ => {
            return Err(HelperError::Unsupported {
                what: "this edit through the helper".into(),
            });
        }
    })
}

fn edit_from_wire(edit: &UserEdit) -> Result<Edit, HelperError> {
    Ok(match edit {
        UserEdit::SetBlock(block) => Edit::SetBlock(block_from_wire(block)?),
        UserEdit::AddToBlock(block) => Edit::AddToBlock(block_from_wire(block)?),
        UserEdit::PointInBlock(block) => Edit::PointInBlock(block_from_wire(block)?),
        UserEdit::RemoveFromBlock { tag, names: gone } => Edit::RemoveFromBlock {
            tag: parse_tag(tag)?,
            names: names(gone)?,
        },
        UserEdit::RemoveEntries { tag, which } => Edit::RemoveEntries {
            tag: parse_tag(tag)?,
            which: which_from_wire(which)?,
        },
        UserEdit::Comment { tag, which, comment } => Edit::Comment {
            tag: parse_tag(tag)?,
            which: which_from_wire(which)?,
            comment: comment.as_deref().map(parse_comment).transpose()?,
        },
        UserEdit::RemoveBlock { tag } => Edit::RemoveBlock(parse_tag(tag)?),
        UserEdit::EnableBlock { tag } => Edit::EnableBlock(parse_tag(tag)?),
        UserEdit::DisableBlock { tag } => Edit::DisableBlock(parse_tag(tag)?),
        UserEdit::RepairBlock { tag } => Edit::RepairBlock(parse_tag(tag)?),
        UserEdit::RemoveOrphans { word } => Edit::RemoveOrphans { word: word.clone() },
        UserEdit::SetManaged { marker, entries } => Edit::SetManaged {
            marker: parse_comment(marker)?,
            entries: entries.iter().map(entry_from_wire).collect::<Result<_, _>>()?,
        },
        UserEdit::RemoveManaged { marker } => Edit::RemoveManaged(parse_comment(marker)?),
        UserEdit::AppendLine(entry) => Edit::AppendLine(entry_from_wire(entry)?),
        UserEdit::AddNames { line, names: more } => Edit::AddNames {
            line: line_from_wire(line),
            names: names(more)?,
        },
        UserEdit::RemoveNames { line, names } => Edit::RemoveNames {
            line: line_from_wire(line),
            names: names.clone(),
        },
        UserEdit::ReplaceLine { line, entry } => Edit::ReplaceLine {
            line: line_from_wire(line),
            entry: entry_from_wire(entry)?,
        },
        UserEdit::RemoveLine { line } => Edit::RemoveLine(line_from_wire(line)),
        _ => {
            return Err(HelperError::Unsupported {
                what: "this edit".into(),
            });
        }
    })
}

fn which_to_wire(which: &Which) -> Result<UserWhich, HelperError> {
    Ok(match which {
        Which::Name(name) => UserWhich::Name(name.to_string()),
        Which::Address(address) => UserWhich::Address(*address),
        Which::Within(network) => UserWhich::Within(network.to_string()),
        Which::Comment(comment) => UserWhich::Comment(comment.to_string()),
        _ => {
            return Err(HelperError::Unsupported {
                what: "this choice of entries through the helper".into(),
            });
        }
    })
}

fn which_from_wire(which: &UserWhich) -> Result<Which, HelperError> {
    Ok(match which {
        UserWhich::Name(name) => Which::Name(parse_name(name)?),
        UserWhich::Address(address) => Which::Address(*address),
        UserWhich::Within(network) => Which::Within(parse_network(network)?),
        UserWhich::Comment(comment) => Which::Comment(parse_comment(comment)?),
        _ => {
            return Err(HelperError::Unsupported {
                what: "this choice of entries".into(),
            });
        }
    })
}

fn block_to_wire(block: &Block) -> UserBlock {
    UserBlock {
        tag: block.tag.to_string(),
        entries: block.entries.iter().map(entry_to_wire).collect(),
    }
}

fn block_from_wire(block: &UserBlock) -> Result<Block, HelperError> {
    let entries = block
        .entries
        .iter()
        .map(entry_from_wire)
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Block::new(parse_tag(&block.tag)?).with_entries(entries))
}

fn entry_to_wire(entry: &Entry) -> UserEntry {
    UserEntry {
        address: entry.address,
        zone: entry.zone.as_ref().map(ToString::to_string),
        names: strings(&entry.names),
        comment: entry.comment.as_ref().map(ToString::to_string),
    }
}

fn entry_from_wire(entry: &UserEntry) -> Result<Entry, HelperError> {
    let refused = |error: hostsfile::Error| not_allowed("an entry", error.to_string());
    let zone = entry
        .zone
        .as_deref()
        .map(Zone::new)
        .transpose()
        .map_err(refused)?;
    let comment = entry.comment.as_deref().map(parse_comment).transpose()?;
    let checked = Entry::new(entry.address, names(&entry.names)?).map_err(refused)?;
    Ok(checked.with_zone(zone).with_comment(comment))
}

fn line_to_wire(document: &Document, line: &LineRef) -> Result<UserLine, HelperError> {
    let number = line.number();
    match document.line(number) {
        Some(found) if found.reference() == *line => Ok(UserLine {
            number,
            text: found.text().to_vec(),
        }),
        _ => Err(not_allowed(
            format!("an edit of line {number}"),
            "the document has another line there",
        )),
    }
}

fn line_from_wire(line: &UserLine) -> LineRef {
    LineRef::new(line.number, line.text.clone())
}

/// A user may write names with underscores into their own file. systemd-resolved ignores them; `hostsfile`'s diagnostics say
/// so.
fn names(names: &[String]) -> Result<Vec<HostName>, HelperError> {
    names.iter().map(|name| parse_name(name)).collect()
}

fn parse_name(name: &str) -> Result<HostName, HelperError> {
    HostName::with_underscore(name)
        .map_err(|error| not_allowed(format!("the name {name:?}"), error.to_string()))
}

fn strings(names: &[HostName]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn parse_tag(tag: &str) -> Result<Tag, HelperError> {
    Tag::new(tag).map_err(|error| not_allowed(format!("the tag {tag:?}"), error.to_string()))
}

fn parse_network(network: &str) -> Result<Cidr, HelperError> {
    network
        .parse()
        .map_err(|error: Error| not_allowed(format!("the network {network:?}"), error.to_string()))
}

fn parse_comment(comment: &str) -> Result<Comment, HelperError> {
    Comment::new(comment).map_err(|error| not_allowed(format!("the comment {comment:?}"), error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_edit_comes_back_from_the_wire_as_it_went() {
        let tag = Tag::new("mine").unwrap();
        let plain = Entry::new("10.0.0.1".parse().unwrap(), ["a", "b.example"]).unwrap();
        let full = Entry::parse("fe80::1%eth0", ["c"])
            .unwrap()
            .with_comment(Comment::new("note").unwrap());
        let document = Document::parse(b"\n\n10.0.0.9 db # caf\xe9\r\n");
        let line = document.line(3).unwrap().reference();
        let block = Block::new(tag.clone()).with_entries([plain.clone(), full.clone()]);
        let names = vec![
            HostName::new("a").unwrap(),
            HostName::with_underscore("under_score").unwrap(),
        ];
        let edits = vec![
            Edit::SetBlock(block.clone()),
            Edit::AddToBlock(block.clone()),
            Edit::PointInBlock(block),
            Edit::RemoveFromBlock {
                tag: tag.clone(),
                names: names.clone(),
            },
            Edit::RemoveEntries {
                tag: tag.clone(),
                which: Which::Within("10.0.0.0/8".parse().unwrap()),
            },
            Edit::RemoveEntries {
                tag: tag.clone(),
                which: Which::Comment(Comment::new("note").unwrap()),
            },
            Edit::Comment {
                tag: tag.clone(),
                which: Which::Name(HostName::new("a").unwrap()),
                comment: Some(Comment::new("more").unwrap()),
            },
            Edit::Comment {
                tag: tag.clone(),
                which: Which::Address("::1".parse().unwrap()),
                comment: None,
            },
            Edit::RemoveBlock(tag.clone()),
            Edit::EnableBlock(tag.clone()),
            Edit::DisableBlock(tag.clone()),
            Edit::RepairBlock(tag),
            Edit::RemoveOrphans {
                word: "devbox".into(),
            },
            Edit::SetManaged {
                marker: Comment::new("mark").unwrap(),
                entries: vec![plain],
            },
            Edit::RemoveManaged(Comment::new("mark").unwrap()),
            Edit::AppendLine(full.clone()),
            Edit::AddNames {
                line: line.clone(),
                names,
            },
            Edit::RemoveNames {
                line: line.clone(),
                names: vec!["Odd_Name!".into()],
            },
            Edit::ReplaceLine {
                line: line.clone(),
                entry: full,
            },
            Edit::RemoveLine(line),
        ];
        let frame = devbox_helper_client::encode(&to_wire(&document, &edits).unwrap()).unwrap();
        let mut decoder = devbox_helper_client::Decoder::default();
        decoder.handle_bytes(&frame);
        let wire: Vec<UserEdit> = decoder.poll_message().unwrap().unwrap();
        assert_eq!(from_wire(&wire).unwrap(), edits);
    }

    #[test]
    fn edits_that_would_spoil_the_file_are_refused() {
        let entry = |names: &[&str], comment: Option<&str>| UserEntry {
            address: "10.0.0.1".parse().unwrap(),
            zone: None,
            names: names.iter().map(ToString::to_string).collect(),
            comment: comment.map(str::to_owned),
        };
        for edit in [
            UserEdit::RemoveBlock {
                tag: "two words".into(),
            },
            UserEdit::RemoveBlock { tag: String::new() },
            UserEdit::RemoveBlock {
                tag: "x\n10.0.0.1 bank".into(),
            },
            UserEdit::AppendLine(entry(&["a\n10.0.0.2 b"], None)),
            UserEdit::AppendLine(entry(&["a#b"], None)),
            UserEdit::AppendLine(entry(&[], None)),
            UserEdit::AppendLine(entry(&["a"], Some("x\n10.0.0.2 b"))),
            UserEdit::AppendLine(UserEntry {
                zone: Some("eth0".into()),
                ..entry(&["a"], None)
            }),
            UserEdit::AppendLine(UserEntry {
                address: "::ffff:10.0.0.1".parse().unwrap(),
                ..entry(&["a"], None)
            }),
            UserEdit::SetManaged {
                marker: "a\nb".into(),
                entries: vec![entry(&["a"], None)],
            },
        ] {
            // What the types let pass, the plan refuses.
            let planned = from_wire(std::slice::from_ref(&edit)).and_then(|edits| {
                hostsfile::plan(b"127.0.0.1 localhost\n", &edits, &hostsfile::Options::new())
                    .map(|_| ())
                    .map_err(|error| not_allowed("the edit", error.to_string()))
            });
            assert!(planned.is_err(), "{edit:?} was taken");
        }
    }
}
